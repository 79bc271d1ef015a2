"""From a pipeline to a small one: the stages of ``qsd compress``, each of which goes on where it was."""

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsd.api import build_bank, label, probe, search, smallest
from qsd.bank import Bank
from qsd.cli.comparing import Found, Row, add_rivals, best_of, draw_fronts, draw_rows, rows_to_compare
from qsd.cli.goals import Effort, Goal
from qsd.configs.document import config_to_json, save_config
from qsd.denoisers import GraphKind, load_inputs, trace_whole
from qsd.denoisers.components import class_name, denoiser_like
from qsd.denoisers.identity import identity, same_denoiser
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import LABELS, EvaluationSettings
from qsd.evaluation.conditions import NULL_CLASS, num_classes
from qsd.evaluation.pictures import needs_pictures
from qsd.evaluation.recording_call import recording_call
from qsd.explain.report import write_report
from qsd.explain.run_folder import RunFolder
from qsd.export.write import export
from qsd.labels import Measurer, Pool, Prober, store_conditions, verify
from qsd.labels.estimate import Cost, estimate, probe_images
from qsd.labels.remembered import Remembered
from qsd.quantizers import parse_options
from qsd.ranker.bounds import full_precision_bound
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.search import Front, SearchSettings
from qsd.search.budget import Budget
from qsd.search.coupling import FormatName, groups_of, held, implied_by
from qsd.search.space import Space
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.errors import QsdError
from qsd.support.paths import find
from qsd.support.progress import Progress
from qsd.support.provenance import provenance

Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]
Fit = Callable[[list[str]], None]
NATIVE: FormatName = "qsd"
HELD_OUT = 5
"""Every so manieth default prompt is drawn by the verification alone."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is to do, besides its goals.

    Attributes:
        effort: how much is drawn.
        options: the option table; None for what suits the format.
        evaluation: how to draw, probe and label; None draws the shipped prompts by the pipeline's own
            defaults and compares with full precision.
        verification: how to verify; None as ``evaluation``, or with its default prompts on others of them.
        ranker: YAML of `fit`.
        search: how much to search.
        seeds: of the noise in the verification; empty for the first after that of the labels.
        format: of the export (:data:`qsd.export.formats.FORMATS`); every option must fit into it.
        every: compare with all uniform configs and with the best labeled random ones, and draw the front.
        workers: processes on the CPU.
        device: where one process draws.
        dtype: of everything but the image autoencoder.
        denoiser: the one to restrict to, where a pipeline has several.
        inputs: JSON file of the arguments of the denoiser's forward; None records them.
        graph: traced, or chain for a denoiser that cannot be traced.
    """

    effort: Effort
    options: Sequence[str] | str | None = None
    evaluation: EvaluationSettings | None = None
    verification: EvaluationSettings | None = None
    ranker: str = "ranker.yaml"
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    seeds: tuple[int, ...] = ()
    format: FormatName = NATIVE
    every: bool = False
    workers: int = 1
    device: str = "cpu"
    dtype: DtypeName = "float32"
    denoiser: str | None = None
    inputs: str | None = None
    graph: GraphKind = "traced"

    def seen(self) -> dict[str, Any]:
        """How the denoiser is seen: keyword arguments of tracing and of building a bank."""
        inputs = load_inputs(self.inputs) if self.inputs else None
        return {"denoiser": self.denoiser, "inputs": inputs, "graph": self.graph}


class Compression:
    """One run in a folder: ``work`` holds what is gone on with, the rest is the result.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: folder of the result.
        goals: how small; what the last one finds is exported.
        plan: everything else.
        command: for the provenance.
        bar: makes a progress bar from a title.

    Raises:
        QsdError: the folder holds something else, the goal needs real images or labels that there are none
            of, or the format cannot hold an option.
    """

    def __init__(
        self, pipeline: str, out: str | Path, goals: Sequence[Goal], plan: Plan, *, command: str, bar: Bar
    ) -> None:
        self.pipeline = pipeline
        self.out = Path(out)
        self.work = self.out / "work"
        self.goals = goals
        self.plan = plan
        if self.out.is_dir() and any(self.out.iterdir()) and not self.work.is_dir():
            raise QsdError(f"{self.out}: holds files of something else; name another folder as --out")
        suited = "default" if plan.format == NATIVE else plan.format
        self.options = parse_options(suited if plan.options is None else plan.options)
        foreign = [str(o) for o in self.options if plan.format != NATIVE and plan.format not in o.carriers]
        if foreign:
            raise QsdError(
                f"compress: {plan.format} cannot hold {', '.join(foreign)}; name others or none as --options"
            )
        self.command = command
        self.bar = bar
        self.seconds: dict[str, float] = {}
        self.pipe: Any = load_pipeline(pipeline, device=plan.device, dtype=plan.dtype)
        self.work.mkdir(parents=True, exist_ok=True)
        self.evaluation, self.verification = self._evaluations()
        self.seeds = plan.seeds or tuple(self.evaluation.noise_seed + 1 + n for n in range(plan.effort.seeds))
        bounded = any(goal.within is not None for goal in goals)
        if bounded and (self.evaluation.reference is None or plan.effort.labels == 0):
            raise QsdError(
                "compress: --within bounds the FID, which needs real images (--evaluation.reference) and "
                "labels (--effort normal or thorough)"
            )

    def cost(self) -> Cost:
        """What the run will take, from a few batches and one quantized layer; nothing is written.

        Raises:
            QsdError: no config is as small as a goal.
        """
        call = recording_call(self.pipe, self.evaluation)
        module, traced = trace_whole(self.pipe, **self.plan.seen(), call=call)
        self._check_goals(class_name(module), traced.layers)
        effort = self.plan.effort
        images = {
            "probe": probe_images(traced.layers, self.options, effort.probe_images),
            "label": (effort.labels + 1) * self.evaluation.num_images if effort.labels else 0,
            "verify": 4 * len(self.seeds) * self.verification.num_images,
        }
        return estimate(
            *(self.pipe, module, traced.layers, self.options, self.evaluation, images),
            workers=self.plan.workers,
        )

    def run(self, fit: Fit) -> dict[str, Any]:
        """Runs the stages.

        Args:
            fit: runs ``lightning fit`` with the given words.

        Returns:
            What ``summary.json`` shall hold.
        """
        with self._stage("bank"):
            bank = self._bank()
        self._check_goals(str(bank.denoiser["class"]), bank.layers)
        with self._stage("measure"):
            store = self._measured(bank)
        with self._stage("fit"):
            ranker = self._ranker(store, fit)
        with self._stage("search"):
            found = [self._search(goal, bank, store, ranker) for goal in self.goals]
        rows = rows_to_compare(bank, store, found, format=self.plan.format, every=self.plan.every)
        with self._stage("verify"):
            self._verify(bank, rows)
        add_rivals(rows)
        chosen = best_of([row for row in rows[1:] if row["bytes"] <= rows[-1]["bytes"]])
        with self._stage("export"):
            document = self._document(bank, chosen)
            exported = export(
                *(self.pipe, bank, chosen["config"], self.out / "pipeline"),
                format=self.plan.format,
                provenance=provenance(self.command),
                document=document,
            )
            save_config(self.out / "config.json", document)
        with self._stage("draw"):
            draw_rows(self.pipe, bank, rows, self.verification, self.seeds[0], self.out / "grid.png")
            if self.plan.every and ranker is not None:
                draw_fronts(rows, found, store, ranker.target, self.out / "pareto.png")
        return {
            "pipeline": str(self.out / "pipeline"),
            "chosen": chosen["name"],
            "bytes": exported.num_bytes,
            "full_precision_bytes": exported.full_precision_bytes,
            "rows": [{key: value for key, value in row.items() if key != "config"} for row in rows],
            "held_out_prompts": self.verification.prompts != self.evaluation.prompts,
            "images": self.verification.num_images,
            "seeds": list(self.seeds),
            "seconds": self.seconds,
            "provenance": provenance(self.command),
        }

    def _check_goals(self, denoiser_class: str, layers: Sequence[WeightLayer]) -> None:
        """Refuses a budget that no config keeps, by sizes alone: before anything is quantized or drawn."""
        format = self.plan.format
        sizes = [[o.num_bytes(x.shape) if o.accepts(x.shape) else -1 for o in self.options] for x in layers]
        space = Space.make(
            held(format, layers, self.options, np.array(sizes)),
            np.array([layer.num_weights for layer in layers]),
            self.options,
            layer_names=[layer.name for layer in layers],
            groups=groups_of(layers, implied_by(format, denoiser_class)),
        )
        for goal in self.goals:
            Budget.make(
                *(space.num_bytes, space.num_weights),
                max_bits=goal.max_bits,
                max_bytes=goal.max_bytes,
                remedy="name smaller options as --options",
            )

    def save(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json`` and ``report.html``, the page that shows the run."""
        write_json(self.out / "summary.json", summary)
        write_report(RunFolder.open(self.out), self.out / "report.html")

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)

    def _evaluations(self) -> tuple[EvaluationSettings, EvaluationSettings]:
        """How to probe and label, and how to verify: with the default prompts, on others of them."""
        if self.plan.evaluation is not None:
            return self.plan.evaluation, self.plan.verification or self.plan.evaluation
        accepted = inspect.signature(type(self.pipe).__call__).parameters
        if needs_pictures(self.pipe):
            raise QsdError(
                f"compress: {type(self.pipe).__name__} draws from images; name a folder of them as "
                "--evaluation.images, and prompts as --evaluation.prompts"
            )
        drawn: dict[str, Any] = {
            "steps": _default(accepted, "num_inference_steps", 20),
            "guidance": _default(accepted, "guidance_scale", 1.0),
            "batch_size": 4,
        }
        prompts = find("datasets/prompts.txt").read_text(encoding="utf-8").splitlines()
        if "prompt" not in accepted:
            classes = num_classes(self.pipe)
            if not classes:
                few = len(prompts) // HELD_OUT
                counts = (len(prompts) - few, few)
                labeled, verified = (EvaluationSettings(num_images=count, **drawn) for count in counts)
                return labeled, verified
            if classes < NULL_CLASS:
                drawn["guidance"] = 1.0  # such pipelines guide with a class that this one does not have
            prompts = [str(number) for number in range(classes)]
        held_out = prompts[::HELD_OUT]
        files = {"prompts.txt": [p for p in prompts if p not in held_out], "held-out-prompts.txt": held_out}
        settings = []
        for name, lines in files.items():
            (self.work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            settings.append(
                EvaluationSettings(
                    prompts=str(self.work / name),
                    num_images=len(lines),
                    **drawn,
                )
            )
        return settings[0], settings[1]

    def _bank(self) -> Bank:
        path = self.work / "bank.safetensors"
        if path.exists():
            bank = Bank.load(path)
            same = same_denoiser(bank.denoiser, identity(denoiser_like(self.pipe, bank.denoiser)))
            usable = [o for o in self.options if any(o.accepts(layer.shape) for layer in bank.layers)]
            if same and list(bank.options) == usable:
                return bank
            raise QsdError(
                f"{self.out}: holds the work of another pipeline or option table; name another --out"
            )
        with self.bar("Bank") as progress:
            bank = build_bank(
                *(self.pipe, self.options),
                **self.plan.seen(),
                evaluator=self.evaluation,
                command=self.command,
                progress=progress,
            )
        bank.save(path)
        return bank

    def _pool(self, tool: Any, settings: EvaluationSettings) -> contextlib.AbstractContextManager[Any]:
        if self.plan.workers < 2:
            return contextlib.nullcontext()
        plan, bank = self.plan, self.work / "bank.safetensors"
        return Pool(tool, self.pipeline, bank, settings, plan.workers, dtype=plan.dtype)

    def _measured(self, bank: Bank) -> Store:
        """The store with probes and, if the effort has any, labels."""
        effort = self.plan.effort
        few = dataclasses.replace(
            self.evaluation, num_images=min(effort.probe_images, self.evaluation.num_images)
        )
        shared: dict[str, Any] = {"evaluator": self.evaluation, "command": self.command}
        where = (self.pipe, bank, self.work / "store.h5")
        with self._pool(Prober, few) as pool, self.bar("Probe") as progress:
            run = pool.run if pool else None
            store = probe(*where, **shared, num_images=few.num_images, run=run, progress=progress)
        if not effort.labels:
            return store
        with self._pool(Measurer, self.evaluation) as pool, self.bar("Label") as progress:
            run = pool.run if pool else None
            return label(*where, **shared, num_configs=effort.labels, run=run, progress=progress)

    def _ranker(self, store: Store, fit: Fit) -> Ranker | None:
        """Trained anew if the store has more labels than the one that is there, or the YAML is another."""
        if not len(store.records):
            return None
        folder, mark = self.work / "ranker", self.work / "ranker-of.txt"
        known = f"{len(store.records)} labels, {self.plan.ranker}"
        if not (folder.exists() and mark.exists() and mark.read_text(encoding="utf-8") == known):
            where = [f"--data.stores=[{store.path}]", f"--out={folder}"]
            if not self.evaluation.reference:
                where.append("--data.target=-log(latent_mse)")
            fit(
                [
                    *("fit", "--config", str(find(self.plan.ranker)), *where, "--overwrite"),
                    *("--trainer.logger=false", f"--trainer.default_root_dir={self.work}"),
                ]
            )
            mark.write_text(known, encoding="utf-8")
        return load_ranker(folder)

    def _search(self, goal: Goal, bank: Bank, store: Store, ranker: Ranker | None) -> Found:
        shared: dict[str, Any] = {
            "format": self.plan.format,
            "settings": self.plan.search,
            "command": self.command,
        }
        with self.bar("Search") as progress:
            if goal.within is not None:
                assert ranker is not None, "checked at the start"
                bounds = [full_precision_bound(ranker, goal.within)]
                front = smallest(ranker, bank, bounds, **shared, progress=progress).front
                found = Found(front, len(front) - 1, int(front.num_bytes[-1]))
            else:
                front = search(
                    *(ranker, bank),
                    method="evolution" if ranker else "length",
                    max_bits=goal.max_bits,
                    max_bytes=goal.max_bytes,
                    store=store,
                    progress=progress,
                    **shared,
                )
                found = Found(front, front.best_index(), front.meta.max_bytes or int(front.num_bytes.max()))
        front.save(self.work / self._front_name(front))
        return found

    def _front_name(self, front: Front) -> str:
        return "front.json" if len(self.goals) == 1 else f"front-{front.meta.max_bits or 0:.2f}-bits.json"

    def _verify(self, bank: Bank, rows: list[Row]) -> None:
        """Measures all rows alike; a run that was stopped goes on behind its last measurement."""
        conditions = store_conditions(self.pipe, bank, self.verification, config_seed=0)
        with self._pool(Measurer, self.verification) as pool, self.bar("Verify") as progress:
            run = pool.run if pool else lambda jobs: Measurer(self.pipe, bank, self.verification).run(jobs)
            measured = verify(
                np.stack([row["config"] for row in rows]),
                self.seeds,
                Remembered(run, self.work / "verified.json", conditions).run,
                num_images=self.verification.num_images,
                progress=progress,
            )
        for row, labels in zip(rows, measured, strict=True):
            row |= {"measured": True, **labels}

    def _document(self, bank: Bank, row: Row) -> dict[str, Any]:
        return config_to_json(
            row["config"],
            bank.layer_names,
            [str(option) for option in bank.options],
            bank.denoiser,
            bank.options_hash,
            measured={found.name: row[found.name] for found in LABELS if found.name in row},
            command=self.command,
        )


def _default(accepted: Any, name: str, otherwise: Any) -> Any:
    """What the pipeline's own call takes where nothing is said."""
    value = accepted[name].default if name in accepted else None
    return otherwise if value in (None, inspect.Parameter.empty) else value
