"""From a pipeline to a small one: the stages of ``qsd compress``, each of which goes on where it was."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.api import build_bank, label, probe, search, smallest
from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.configs.document import config_to_json, save_config
from qsd.denoisers import trace_whole
from qsd.denoisers.components import denoiser_like
from qsd.denoisers.identity import identity, same_denoiser
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings, headline
from qsd.evaluation.evaluator import LABELS
from qsd.evaluation.generate import Generator
from qsd.evaluation.grid import ImageRow, draw_grid
from qsd.export.write import export
from qsd.labels import Measurer, Pool, Prober, verify
from qsd.labels.estimate import Cost, estimate, probe_images
from qsd.quantizers import DEFAULT_OPTIONS, parse_options
from qsd.ranker.bounds import full_precision_bound
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.search import Front, SearchSettings
from qsd.search.coupling import FormatName
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.errors import QsdError
from qsd.support.paths import find
from qsd.support.progress import Progress
from qsd.support.provenance import provenance

Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]
Row = dict[str, Any]
NATIVE = "qsd"
TABLES = {
    NATIVE: DEFAULT_OPTIONS,
    "sdnq": parse_options(["uaq-3", "uaq-4", "uaq-5", "kmeans_a-3", "kmeans_a-4", "kmeans_a-5", "int8"]),
}
"""What is chosen from for each format, if nobody names options."""
HELD_OUT = 5
"""Every so manieth default prompt is drawn by the verification alone."""
_GRID = 8


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is drawn before searching.

    Attributes:
        probe_images: per option of a layer.
        labels: random configs measured end to end; with none the search goes by the probed changes alone.
        seeds: noise seeds of the verification.
    """

    probe_images: int
    labels: int
    seeds: int


EFFORTS = {"quick": Effort(16, 0, 2), "normal": Effort(32, 50, 2), "thorough": Effort(64, 300, 3)}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What the small denoiser may be: exactly one of the three.

    Attributes:
        max_bits: average bits per weight.
        max_bytes: bytes of the weight layers.
        within: largest FID as a multiple of full precision's; the smallest config that keeps it is searched.
    """

    max_bits: float | None = None
    max_bytes: int | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in dataclasses.astuple(self) if value is not None]
        if len(given) != 1:
            raise QsdError(
                "compress: say how small, with one of --max-bits 3.5, --max-size 1.2GB, --within 1.1x"
            )


class Compression:
    """One run of ``qsd compress`` in a folder: ``work`` holds what is gone on with, the rest is the result.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: folder of the result.
        goal: how small.
        effort: how much is drawn.
        options: the option table.
        evaluation: how to draw and measure; None draws the shipped prompts by the pipeline's own defaults and
            compares with full precision.
        workers: processes on the CPU.
        device: where one process draws.
        dtype: of everything but the image autoencoder.
        format: of the export (:data:`qsd.export.formats.FORMATS`); every option must fit into it.
        command: for the provenance.
        bar: makes a progress bar from a title.

    Raises:
        QsdError: the goal needs real images or labels that there are none of, or the format cannot hold an
            option.
    """

    def __init__(
        self,
        pipeline: str,
        out: str | Path,
        goal: Goal,
        effort: Effort,
        options: Sequence[str],
        evaluation: EvaluationSettings | None,
        *,
        workers: int,
        device: str,
        dtype: DtypeName = "float32",
        format: FormatName,
        command: str,
        bar: Bar,
    ) -> None:
        self.pipeline = pipeline
        self.out = Path(out)
        self.work = self.out / "work"
        self.goal = goal
        self.effort = effort
        self.options = parse_options(list(options))
        self.format = format
        foreign = [str(o) for o in self.options if format != NATIVE and format not in o.carriers]
        if foreign:
            raise QsdError(
                f"compress: {format} cannot hold {', '.join(foreign)}; leave --options out, or name others"
            )
        self.workers = workers
        self.dtype: DtypeName = dtype
        self.command = command
        self.bar = bar
        self.pipe: Any = load_pipeline(pipeline, device=device, dtype=dtype)
        self.work.mkdir(parents=True, exist_ok=True)
        self.evaluation, self.verification = self._evaluations(evaluation)
        if goal.within is not None and (self.evaluation.reference is None or effort.labels == 0):
            raise QsdError(
                "compress: --within bounds the FID, which needs real images (--evaluation.reference) and "
                "labels (--effort normal or thorough)"
            )

    def cost(self) -> Cost:
        """What the run will take, from two batches and one quantized layer; nothing is written."""
        module, traced = trace_whole(self.pipe)
        images = {
            "probe": probe_images(traced.layers, self.options, self.effort.probe_images),
            "label": (self.effort.labels + 1) * self.evaluation.num_images if self.effort.labels else 0,
            "verify": 4 * self.effort.seeds * self.verification.num_images,
        }
        return estimate(
            self.pipe,
            module,
            traced.layers,
            self.options,
            self.evaluation,
            images,
            workers=self.workers,
        )

    def run(self, fit: Callable[[list[str]], None]) -> dict[str, Any]:
        """Runs the stages.

        Args:
            fit: runs ``lightning fit`` with the given words.

        Returns:
            What ``summary.json`` holds.
        """
        bank = self._bank()
        store = self._measured(bank)
        ranker = self._ranker(store, fit)
        front = self._search(bank, store, ranker)
        rows = self._verify(bank, front)
        chosen = self._chosen(rows)
        result = export(
            self.pipe,
            bank,
            chosen["config"],
            self.out / "pipeline",
            format=self.format,
            provenance=provenance(self.command),
        )
        save_config(
            self.out / "config.json",
            config_to_json(
                chosen["config"],
                bank.layer_names,
                [str(option) for option in bank.options],
                bank.denoiser,
                bank.options_hash,
                measured={name: chosen[name] for name in _names(chosen)},
                command=self.command,
            ),
        )
        self._grid(bank, rows)
        for row in rows:
            del row["config"]
        summary = {
            "pipeline": str(self.out / "pipeline"),
            "chosen": chosen["name"],
            "bytes": result.num_bytes,
            "full_precision_bytes": result.full_precision_bytes,
            "rows": rows,
            "held_out_prompts": self.verification.prompts != self.evaluation.prompts,
            "images": self.verification.num_images,
            "seeds": self._seeds(),
            "provenance": provenance(self.command),
        }
        write_json(self.out / "summary.json", summary)
        return summary

    def _evaluations(
        self, evaluation: EvaluationSettings | None
    ) -> tuple[EvaluationSettings, EvaluationSettings]:
        """How to probe and label, and how to verify: with the default prompts, on others of them."""
        if evaluation is not None:
            return evaluation, evaluation
        prompts = find("datasets/prompts.txt").read_text(encoding="utf-8").splitlines()
        accepted = inspect.signature(type(self.pipe).__call__).parameters
        if "prompt" not in accepted and "class_labels" in accepted:
            prompts = [str(number) for number in range(self.pipe.transformer.config.num_embeds_ada_norm)]
        held_out = prompts[::HELD_OUT]
        files = {"prompts.txt": [p for p in prompts if p not in held_out], "held-out-prompts.txt": held_out}
        settings = []
        for name, lines in files.items():
            (self.work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            settings.append(
                EvaluationSettings(
                    prompts=str(self.work / name),
                    num_images=len(lines),
                    steps=_default(accepted, "num_inference_steps", 20),
                    guidance=_default(accepted, "guidance_scale", 1.0),
                    batch_size=4,
                )
            )
        return settings[0], settings[1]

    def _seeds(self) -> tuple[int, ...]:
        first = self.evaluation.noise_seed + 1
        return tuple(range(first, first + self.effort.seeds))

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
            bank = build_bank(self.pipe, self.options, command=self.command, progress=progress)
        bank.save(path)
        return bank

    def _pool(self, tool: Any, settings: EvaluationSettings) -> contextlib.AbstractContextManager[Any]:
        if self.workers < 2:
            return contextlib.nullcontext()
        return Pool(
            tool, self.pipeline, self.work / "bank.safetensors", settings, self.workers, dtype=self.dtype
        )

    def _measured(self, bank: Bank) -> Store:
        """The store with probes and, if the effort has any, labels."""
        path, effort = self.work / "store.h5", self.effort
        few = dataclasses.replace(
            self.evaluation, num_images=min(effort.probe_images, self.evaluation.num_images)
        )
        with self._pool(Prober, few) as pool, self.bar("Probe") as progress:
            store = probe(
                self.pipe,
                bank,
                path,
                evaluator=self.evaluation,
                num_images=few.num_images,
                run=pool.run if pool else None,
                command=self.command,
                progress=progress,
            )
        if not effort.labels:
            return store
        with self._pool(Measurer, self.evaluation) as pool, self.bar("Label") as progress:
            return label(
                self.pipe,
                bank,
                path,
                num_configs=effort.labels,
                evaluator=self.evaluation,
                run=pool.run if pool else None,
                command=self.command,
                progress=progress,
            )

    def _ranker(self, store: Store, fit: Callable[[list[str]], None]) -> Ranker | None:
        """Trained anew if the store has more labels than the one that is there."""
        if not len(store.records):
            return None
        folder, mark = self.work / "ranker", self.work / "ranker-of.txt"
        known = f"{len(store.records)} labels"
        if not (folder.exists() and mark.exists() and mark.read_text() == known):
            where = [f"--data.stores=[{store.path}]", f"--out={folder}"]
            if not self.evaluation.reference:
                where.append("--data.target=-log(latent_mse)")
            fit(
                [
                    *("fit", "--config", str(find("ranker.yaml")), *where),
                    *("--trainer.logger=false", f"--trainer.default_root_dir={self.work}"),
                ]
            )
            mark.write_text(known)
        return load_ranker(folder)

    def _search(self, bank: Bank, store: Store, ranker: Ranker | None) -> Front:
        settings = SearchSettings()
        with self.bar("Search") as progress:
            if self.goal.within is not None:
                assert ranker is not None, "checked at the start"
                bounds = [full_precision_bound(ranker, self.goal.within)]
                front = smallest(
                    *(ranker, bank, bounds),
                    format=self.format,
                    settings=settings,
                    command=self.command,
                    progress=progress,
                ).front
            else:
                front = search(
                    ranker,
                    bank,
                    method="evolution" if ranker else "length",
                    format=self.format,
                    max_bits=self.goal.max_bits,
                    max_bytes=self.goal.max_bytes,
                    store=store,
                    settings=settings,
                    command=self.command,
                    progress=progress,
                )
        front.save(self.work / "front.json")
        return front

    def _verify(self, bank: Bank, front: Front) -> list[Row]:
        """Full precision, the best uniform configs of about the size, and what was found, measured alike."""
        best = len(front) - 1 if self.goal.within is not None else front.best_index()
        size = int(front.num_bytes[best])
        weights = int(bank.num_weights.sum())
        full = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
        rows: list[Row] = [{"name": "full precision", "config": full, "bytes": 2 * weights}]
        rows += _uniform_rows(bank, size)
        rows.append({"name": "searched", "config": front.configs[best], "bytes": size})
        with self._pool(Measurer, self.verification) as pool, self.bar("Verify") as progress:
            run = pool.run if pool else Measurer(self.pipe, bank, self.verification).run
            measured = verify(
                np.stack([row["config"] for row in rows]),
                self._seeds(),
                run,
                num_images=self.verification.num_images,
                progress=progress,
            )
        for row, labels in zip(rows, measured, strict=True):
            row |= {"avg_bits": 8 * row["bytes"] / weights, "measured": True, **labels}
        return rows

    def _chosen(self, rows: list[Row]) -> Row:
        """The row that measured best among those that are no larger than the searched one."""
        name = headline(rows[-1])
        better = {found.name: found.larger_is_better for found in LABELS}[name]
        fitting = [row for row in rows[1:] if row["bytes"] <= rows[-1]["bytes"]]
        return (max if better else min)(fitting, key=lambda row: row[name])

    def _grid(self, bank: Bank, rows: list[Row]) -> None:
        count = min(_GRID, self.verification.num_images)
        few = dataclasses.replace(self.verification, num_images=count, batch_size=count)
        generator = Generator(self.pipe, few)
        images = []
        with Applier(bank, denoiser_like(self.pipe, bank.denoiser)) as applier:
            for row in rows:
                applier.apply(row["config"])
                drawn = torch.cat([batch for _, _, batch in generator.batches(self._seeds()[0])])
                images.append(ImageRow(f"{row['name']}\n{row['avg_bits']:.2f} bits", drawn))
        draw_grid(images, list(generator.prompts), self.out / "grid.png")


def _uniform_rows(bank: Bank, size: int) -> list[Row]:
    """The uniform config of most bytes that is no larger, and the one of fewest that is."""
    rows: list[Row] = []
    for option in bank.options:
        with contextlib.suppress(QsdError):  # layers that cannot take it
            config = bank.uniform_config(option)
            rows.append({"name": str(option), "config": config, "bytes": int(bank.config_bytes(config))})
    below = [row for row in rows if row["bytes"] <= size]
    above = [row for row in rows if row["bytes"] > size]
    return [
        *([max(below, key=lambda row: row["bytes"])] if below else []),
        *([min(above, key=lambda row: row["bytes"])] if above else []),
    ]


def _default(accepted: Any, name: str, otherwise: Any) -> Any:
    """What the pipeline's own call takes where nothing is said."""
    value = accepted[name].default if name in accepted else None
    return otherwise if value in (None, inspect.Parameter.empty) else value


def _names(row: Row) -> list[str]:
    return [found.name for found in LABELS if found.name in row]
