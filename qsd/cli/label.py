"""``qsd label``."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from qsd.api import label as label_configs
from qsd.bank import Bank
from qsd.cli.console import bar, command_line, messages, run_function
from qsd.cli.costs import show_costs, show_shares
from qsd.cli.processes import own_device, own_shard, planned_workers, pool_of, say_how_to_merge
from qsd.cli.store import show
from qsd.configs.sampling import sample_configs
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Job, Measurer
from qsd.labels.active import ActiveSettings
from qsd.labels.estimate import label_cost
from qsd.labels.labeling import num_missing
from qsd.labels.shards import stores_with_shards
from qsd.labels.shares import time_shares
from qsd.labels.watching import Watch, open_logger
from qsd.support.errors import QsdError


def label(
    pipeline: str,
    bank: str,
    store: str,
    evaluation: EvaluationSettings,
    num_configs: PositiveInt = 500,
    config_seed: NonNegativeInt = 0,
    split: str | None = None,
    images: PositiveInt | None = None,
    strategy: Literal["random", "active"] = "random",
    active: ActiveSettings = ActiveSettings(),  # noqa: B008 (frozen)
    shard: str | None = None,
    workers: PositiveInt = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    scheduler: str | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
    profile: bool = False,
    logger: Literal["csv", "tensorboard", "wandb"] | None = None,
    json: bool = False,
) -> None:
    """Measures random configs of a denoiser and appends one durable record each to a store.

    Run again it goes on where it was; with a larger --num_configs the store grows.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        bank: the denoiser's bank (`qsd bank`).
        store: HDF5 file to create or go on with.
        evaluation: prompts, reference images (none: paired labels alone), metrics, image count, steps,
            guidance, seed of the noise.
        num_configs: how many configs of the random stream the store shall have in the end.
        config_seed: seed of the stream of random configs.
        split: label only configs of this split: train, validation or test.
        images: label on only the first so many images of the evaluation: cheaper, noisier, and weighed so by
            the ranker. A store may hold records of several numbers.
        strategy: random goes along the random stream; active chooses num_configs configs, a few at a time, by
            what a probed store knows: those that may be the best, and those that it is least sure of. They
            are trained on and never tested on.
        active: target, budget and batch of --strategy active.
        shard: this process is one of several, on one or many machines, that share the work through the folder
            STORE.shards; `qsd store merge STORE STORE.shards` puts it together. `auto` takes whatever config
            nobody holds, under a name from SLURM, an indexed Job or torchrun; any other name does the same
            under that name; I/N labels every N-th config and needs no shared folder.
        workers: processes that label side by side on the CPU, one thread each.
        device: where one process labels when workers is 1, and each worker of a cluster.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        scheduler: label on the workers of a running Dask scheduler, such as tcp://host:8786.
        cluster: start a Dask cluster for it, described by a YAML file: SLURM, PBS, LSF, SGE, HTCondor,
            Kubernetes or local (docs/cluster.md).
        dry_run: draw a few batches, print images, hours, disk and memory of what is missing, and stop.
        profile: measure the first config of the stream, print where the time goes, and write nothing.
        logger: write every record to STORE.log as well, by Lightning's CSV, TensorBoard or wandb logger.
        json: print what the store holds as JSON.
    """
    mine = own_shard(shard, workers)
    pipe, loaded = (
        load_pipeline(pipeline, device=own_device(device), dtype=dtype, encoders=False),
        Bank.load(bank),
    )
    few = evaluation.on_first(images)
    if dry_run:
        processes = planned_workers(workers, scheduler, cluster)
        chosen = strategy == "active"
        cost = label_cost(pipe, loaded, store, few, num_configs, split, processes, chosen)
        show_costs(cost, json, elsewhere=bool(scheduler or cluster))
        return
    if profile:
        config = sample_configs(loaded.options, len(loaded.layers), 1, config_seed, 0, loaded.available)[0]
        show_shares(time_shares(Measurer(pipe, loaded, few), Job(0, config, few.noise_seed)), json)
        return
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(
            pool_of(
                *(Measurer, pipeline, bank, few, workers, device, dtype),
                scheduler=scheduler,
                cluster=cluster,
                shard=mine,
            )
        )
        progress = stack.enter_context(bar("Label"))
        watch = Watch(
            None if logger is None else open_logger(logger, store), lambda: pool.workers if pool else 1
        )
        stack.callback(watch.close)
        if strategy == "random" and not (mine and mine.share):
            stack.enter_context(_saying_what_is_missing(watch, store, num_configs, few, split))
        labeled = label_configs(
            pipe,
            loaded,
            store,
            num_configs=num_configs,
            evaluator=evaluation,
            config_seed=config_seed,
            split=split,
            num_images=images,
            active=active if strategy == "active" else None,
            shard=mine,
            run=pool.run if pool else None,
            command=command_line(),
            watch=watch,
            progress=progress,
        )
    show(labeled, json)
    if mine and not json:
        say_how_to_merge(store)


@contextlib.contextmanager
def _saying_what_is_missing(
    watch: Watch, store: str, num_configs: int, settings: EvaluationSettings, split: str | None
) -> Iterator[None]:
    """However labeling ends, once it has begun: what the store lacks, and the command that fills it."""
    try:
        yield
    finally:
        with contextlib.suppress(QsdError, OSError):  # what ended it is said already
            stores = stores_with_shards(store)
            missing = num_missing(stores, num_configs, settings.noise_seed, settings.num_images, split)
            if watch.count and missing:
                messages.print(f"{num_configs - missing} of {num_configs} configs are labeled; the others:")
                messages.print(f"  {command_line()}", soft_wrap=True)


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(label, words)
