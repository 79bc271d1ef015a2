"""``qsd probe``."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence

from jsonargparse.typing import NonNegativeInt, PositiveInt

from qsd.api import probe as probe_options
from qsd.bank import Bank
from qsd.cli.config_names import read_configs
from qsd.cli.console import bar, command_line, console, print_json, run_function
from qsd.cli.costs import show_costs
from qsd.cli.processes import own_device, own_shard, planned_workers, pool_of, say_how_to_merge
from qsd.cli.store import show
from qsd.cli.tables import number_table
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Prober
from qsd.labels.estimate import probe_cost
from qsd.labels.steps import StepProbe, plot_steps, probe_steps
from qsd.ranker.universal.files import shipped_universal
from qsd.support.documents import write_json
from qsd.support.errors import QsdError


def probe(
    pipeline: str,
    bank: str,
    store: str,
    evaluation: EvaluationSettings,
    num_images: PositiveInt = 8,
    config_seed: NonNegativeInt = 0,
    budget: float | None = None,
    ranker: str | None = None,
    restart: bool = False,
    around: str | None = None,
    steps_groups: NonNegativeInt = 0,
    shard: str | None = None,
    workers: PositiveInt = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    scheduler: str | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Measures on a few images what each option of each layer does alone, and adds it to a store.

    A ranker of a probed store knows which errors add up and which cancel, and needs far fewer labels. Run
    again it goes on where it was.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        store: HDF5 file to create or add to, begun under the same evaluation and config_seed.
        evaluation: as for `qsd label`.
        num_images: images per option; there are as many options as layers times options per layer.
        config_seed: seed of the store's stream of random configs.
        budget: measure only that share of the layers, such as 0.25: those whose answer is least predictable.
            The store notes which were measured; `fit` and `search` fill the rest in by the universal ranker.
        ranker: folder of the universal ranker that tells which; by default the shipped one.
        restart: measure all layers anew, with other images for example; what the store knew is lost.
        around: a config file, or an option such as lloyd-4:f8 for all layers: measure each option in that
            config in place of full precision, where errors do not add up from full precision on.
        steps_groups: instead of layers, divide the sampling steps into so many groups and round the inputs of
            all layers in one group at a time, by each activation option of the bank; writes
            STORE.steps.json and STORE.steps.png, and no store.
        shard: as for `qsd label`; processes share the layers.
        workers: processes that draw side by side on the CPU, one thread each.
        device: where one process draws when workers is 1, and each worker of a cluster.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        scheduler: as for `qsd label`.
        cluster: likewise.
        dry_run: draw a few batches, print images, hours, disk and memory of what is missing, and stop.
        json: print what the store holds as JSON.
    """
    mine = own_shard(shard, workers)
    if mine and restart:
        raise QsdError("--shard and --restart: remove the folder of the shards, or leave out --restart")
    if budget is not None and (mine or cluster):
        raise QsdError(
            "--budget: layers are chosen and probed by one machine; leave out --shard or --cluster"
        )
    pipe, loaded = (
        load_pipeline(pipeline, device=own_device(device), dtype=dtype, encoders=False),
        Bank.load(bank),
    )
    few = dataclasses.replace(evaluation, num_images=num_images)
    if dry_run:
        cost = probe_cost(pipe, loaded, store, few, planned_workers(workers, scheduler, cluster))
        show_costs(cost, json, elsewhere=bool(scheduler or cluster))
        return
    if steps_groups:
        with bar("Steps") as progress:
            found = probe_steps(pipe, loaded, few, steps_groups, progress)
        write_json(f"{store}.steps.json", found.to_json())
        plot_steps(found, f"{store}.steps.png", pipeline)
        show_steps(found, json)
        return
    base = None if around is None else read_configs(loaded, [around])[0][0]
    tool = functools.partial(Prober, around=base)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(
            pool_of(
                *(tool, pipeline, bank, few, workers, device, dtype),
                scheduler=scheduler,
                cluster=cluster,
                shard=mine,
            )
        )
        progress = stack.enter_context(bar("Probe"))
        probed = probe_options(
            pipe,
            loaded,
            store,
            evaluator=evaluation,
            num_images=num_images,
            config_seed=config_seed,
            budget=budget,
            universal=None if budget is None else shipped_universal(ranker),
            restart=restart,
            around=base,
            shard=mine,
            run=pool.run if pool else None,
            command=command_line(),
            progress=progress,
        )
    show(probed, json)
    if mine and not json:
        say_how_to_merge(store)


def show_steps(found: StepProbe, json: bool) -> None:
    """Prints the change per step of every group."""
    if json:
        print_json(found.to_json())
        return
    table = number_table(
        "latent MSE per step, activations simulated in these steps alone",
        ("bits", *(f"{start} to {stop - 1}" for start, stop in found.ranges)),
    )
    for option, changes in zip(found.options, found.latent_mse, strict=True):
        table.add_row(option, *(f"{change:.3g}" for change in changes))
    console.print(table)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(probe, words)
