"""The whole road on one pipeline: bank, labels, ranker, search, verification, export."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from qsd.api import build_bank, search
from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.evaluation.grid import ImageRow, draw_grid
from qsd.export import export
from qsd.labels import (
    Job,
    Measured,
    Measurer,
    Pool,
    jobs_of_stream,
    label,
    open_or_create,
    store_conditions,
    verify,
)
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.ranker.target import Target
from qsd.search import Front, Points, SearchSettings, plot_front
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.errors import QsdError
from qsd.support.paths import find
from qsd.support.progress import Progress
from qsd.support.provenance import provenance

Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]
Row = dict[str, Any]

FULL_PRECISION_BITS = 16
"""Denoisers ship in 16-bit types; the full-precision row counts its weights so."""


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on.

    Attributes:
        pipeline: the pipeline to quantize.
        store: labeled configs that come with it.
        evaluation: how the store was labeled; the few extra labels are measured the same way.
        verification_images: images per config and noise seed when full precision, uniform, random and
            searched configs are compared.
        ranker: YAML that ``lightning fit`` reads.
        extra_labels: configs labeled on top of the store's, to show how labeling goes.
        same_size_as: uniform options whose sizes are budgets.
        max_bits: further budgets in average bits.
        noise_seeds: seeds of the verification; not the one that the labels were measured with.
        search: how much to search.
        grid_images: columns of the image grid; the first prompt of each of so many classes.
        workers: processes that measure side by side.
    """

    pipeline: str
    store: str
    evaluation: EvaluationSettings
    ranker: str
    verification_images: int = 1000
    extra_labels: int = 4
    same_size_as: tuple[str, ...] = ("kmeans_a-4:paper", "uaq-4:paper")
    max_bits: tuple[float, ...] = (3.5,)
    noise_seeds: tuple[int, ...] = (1, 2, 3)
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    grid_images: int = 10
    workers: int = 2


def run_demo(
    settings: DemoSettings, out: str | Path, *, bar: Bar, fit: Callable[[list[str]], None], command: str = ""
) -> dict[str, Any]:
    """Runs every stage and writes bank, store, ranker, fronts, plot, grid, export and ``summary.json``.

    Args:
        settings: what to run on.
        out: folder to write to; the files of an earlier run are replaced.
        bar: makes a progress bar from a title.
        fit: runs ``lightning fit`` with the given words.
        command: for the provenance.

    Returns:
        The content of ``summary.json``.

    Raises:
        QsdError: the evaluation names no real images.
    """
    if settings.evaluation.reference is None:
        raise QsdError("the demo compares FIDs, which need real images; name them as evaluation.reference")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with _timed(seconds, "bank"), bar("Bank") as progress:
        pipe = load_pipeline(settings.pipeline)
        table = Store.open(find(settings.store)).header.options
        bank = build_bank(pipe, table, command=command, progress=progress)
        bank.save(out / "bank.safetensors")
    with _timed(seconds, "label"), bar("Label") as progress:
        store = _label_some_more(settings, pipe, bank, out, progress)
    with _timed(seconds, "fit"):
        _fit(fit, settings.ranker, store.path, out / "ranker")
        ranker = load_ranker(out / "ranker")
    with _timed(seconds, "search"):
        fronts = _search(settings, ranker, bank, out, command, bar)
    with _timed(seconds, "measure"), bar("Measure") as progress:
        rows = _measure(settings, bank, store, fronts, out, progress)
    with _timed(seconds, "draw"):
        _draw_fronts(rows, fronts, store, ranker.target, out / "pareto.png")
        _draw_grid(settings, pipe, bank, rows, out / "grid.png")
    with _timed(seconds, "export"):
        exported = _export(settings, pipe, bank, rows["searched"][-1]["config"], out, command)
    for row in (row for group in rows.values() for row in group):
        del row["config"]  # the fronts name every layer's option
    summary = {
        "full_precision": rows["full_precision"][0],
        "uniform": rows["uniform"],
        "random_best": rows["random_best"],
        "searched": rows["searched"],
        "export": exported,
        "seconds": seconds,
        "settings": dataclasses.asdict(settings),
        "provenance": provenance(command),
    }
    write_json(out / "summary.json", summary, hashed=False)
    return summary


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 1)


def _pool(settings: DemoSettings, evaluation: EvaluationSettings, out: Path) -> Pool[Job, Measured]:
    return Pool(Measurer, settings.pipeline, out / "bank.safetensors", evaluation, settings.workers)


def _label_some_more(
    settings: DemoSettings, pipe: DiffusionPipeline, bank: Bank, out: Path, progress: Progress
) -> Store:
    """Copies the shipped store and labels the next configs of its stream into the copy."""
    shipped = Store.open(find(settings.store))
    path = Store.create(out / "store.h5", shipped.header, shipped.records, replace=True).path
    seed = shipped.header.conditions["config_seed"]
    conditions = store_conditions(pipe, bank, settings.evaluation, config_seed=seed)
    with open_or_create(path, bank, settings.evaluation, conditions, make_provenance=provenance) as store:
        upto = len(np.unique(store.records.index)) + settings.extra_labels  # enough, even if it has gaps
        jobs = jobs_of_stream(store, upto, settings.evaluation.noise_seed)[: settings.extra_labels]
        with _pool(settings, settings.evaluation, out) as pool:
            return label(store, jobs, pool.run, progress)


def _fit(fit: Callable[[list[str]], None], config: str, store: Path, out: Path) -> None:
    places = [f"--data.stores=[{store}]", f"--out={out}", f"--trainer.default_root_dir={out.parent}"]
    fit(["fit", "--config", str(find(config)), *places, "--trainer.logger=false", "--overwrite=true"])


def _search(
    settings: DemoSettings, ranker: Ranker, bank: Bank, out: Path, command: str, bar: Bar
) -> list[Front]:
    """One front per budget: the sizes of uniform options, then average bits."""
    sizes = [int(bank.config_bytes(bank.uniform_config(option))) for option in settings.same_size_as]
    budgets: list[dict[str, Any]] = [{"max_bytes": size} for size in sizes]
    budgets += [{"max_bits": bits} for bits in settings.max_bits]
    fronts = []
    for budget in budgets:
        with bar("Search " + ", ".join(f"{key} {value}" for key, value in budget.items())) as progress:
            front = search(
                ranker, bank, **budget, settings=settings.search, command=command, progress=progress
            )
        front.save(out / f"front-{front.meta.max_bits:.2f}-bits.json")
        fronts.append(front)
    return fronts


def _measure(
    settings: DemoSettings,
    bank: Bank,
    store: Store,
    fronts: Sequence[Front],
    out: Path,
    progress: Progress,
) -> dict[str, list[Row]]:
    """Measures full precision, uniform configs, the best labeled random configs and the searched ones."""
    full = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
    rows: dict[str, list[Row]] = {
        "full_precision": [{"name": "full precision", "config": full}],
        "uniform": [{"name": str(o), "config": bank.uniform_config(o)} for o in bank.options],
        "random_best": [_random_best(store, front) for front in fronts],
        "searched": [_searched(front) for front in fronts],
    }
    every = [row for group in rows.values() for row in group]
    images = settings.verification_images
    evaluation = dataclasses.replace(settings.evaluation, num_images=images)
    with _pool(settings, evaluation, out) as pool:
        measured = verify(
            np.stack([row["config"] for row in every]),
            settings.noise_seeds,
            pool.run,
            num_images=images,
            progress=progress,
        )
    weights = int(bank.num_weights.sum())
    for row, labels in zip(every, measured, strict=True):
        is_full = bool((row["config"] == FULL_PRECISION).all())
        size = weights * FULL_PRECISION_BITS // 8 if is_full else int(bank.config_bytes(row["config"]))
        row |= {"avg_bits": 8 * size / weights, "bytes": size, "measured": True, **labels}
    for row, front in zip(rows["searched"], fronts, strict=True):
        limit = front.meta.max_bytes or 0
        rivals = [r for r in (*rows["uniform"], *rows["random_best"]) if r["bytes"] <= limit]
        best = min(rivals, key=lambda rival: rival["fid"])
        row |= {"best_rival": best["name"], "best_rival_fid": best["fid"]}
    return rows


def _random_best(store: Store, front: Front) -> Row:
    """The labeled random config of lowest FID within a front's budget."""
    limit = front.meta.max_bytes
    fid = np.where(store.total_bytes() <= limit, store.values("fid"), np.inf)
    if not np.isfinite(fid).any():
        raise QsdError(
            f"{store.path}: no labeled config has at most {limit} bytes; label more or raise the budget"
        )
    best = int(np.argmin(fid))
    return {
        "name": f"random ≤ {front.meta.max_bits:.2f}",
        "max_bits": front.meta.max_bits,
        "record": int(store.records.index[best]),
        "config": store.records.config[best],
    }


def _searched(front: Front) -> Row:
    best = front.best_index()
    return {
        "name": f"searched ≤ {front.meta.max_bits:.2f}",
        "max_bits": front.meta.max_bits,
        "config": front.configs[best],
        "predicted": float(front.predicted[best]),
        "predicted_std": float(front.std[best]),
    }


def _draw_fronts(
    rows: dict[str, list[Row]], fronts: Sequence[Front], store: Store, target: str, path: Path
) -> None:
    """Draws the front of the largest budget with everything that was measured around it."""
    expression = Target(target)
    labels = {name: store.values(name) for name in expression.names}

    def points(group: str, named: bool) -> Points:
        chosen = rows[group]
        columns = {name: np.array([row[name] for row in chosen]) for name in expression.names}
        return Points(
            avg_bits=[row["avg_bits"] for row in chosen],
            quality=expression(columns),
            names=[row["name"] for row in chosen] if named else None,
        )

    plot_front(
        max(fronts, key=lambda front: front.meta.max_bytes or 0),
        path,
        quality_label=f"{target} (larger is better)",
        labeled=Points(store.values("avg_bits"), expression(labels)),
        uniform=points("uniform", named=True),
        winners=points("searched", named=True),
        title="Predicted front, and what was measured",
    )


def _draw_grid(
    settings: DemoSettings, pipe: DiffusionPipeline, bank: Bank, rows: dict[str, list[Row]], path: Path
) -> None:
    """Draws the first prompt of every class by full precision, uniform configs and searched ones."""
    evaluation = dataclasses.replace(settings.evaluation, num_images=settings.evaluation.batch_size)
    generator = Generator(pipe, evaluation)
    classes = evaluation.load_classes()
    first = list(range(settings.grid_images))
    if classes is not None:
        first = [classes.index(value) for value in sorted(set(classes))]
    columns = first[: settings.grid_images]
    uniform = {row["name"]: row for row in rows["uniform"]}
    pairs = zip(settings.same_size_as, rows["searched"], strict=False)
    shown = [*rows["full_precision"]]
    for option, searched in pairs:
        shown += [uniform[option], searched]
    shown += rows["searched"][len(settings.same_size_as) :]
    images = []
    with Applier(bank, denoiser_of(pipe)) as applier:
        for row in shown:
            applier.apply(row["config"])
            drawn = torch.cat([batch for _, _, batch in generator.batches(settings.noise_seeds[0])])
            title = f"{row['name']}\n{row['avg_bits']:.2f} bits, FID {row['fid']:.2f}"
            images.append(ImageRow(title, drawn[columns]))
    draw_grid(images, [generator.prompts[column] for column in columns], path)


def _export(
    settings: DemoSettings, pipe: DiffusionPipeline, bank: Bank, config: np.ndarray, out: Path, command: str
) -> dict[str, Any]:
    """Exports a config, opens it again through diffusers and compares what the two draw."""
    result = export(pipe, bank, config, out / "export", provenance=provenance(command))
    evaluation = dataclasses.replace(settings.evaluation, num_images=settings.evaluation.batch_size)
    seed = settings.noise_seeds[0]
    reloaded = _latents(load_pipeline(out / "export"), evaluation, seed)
    with Applier(bank, denoiser_of(pipe)) as applier:
        applier.apply(config)
        applied = _latents(pipe, evaluation, seed)
    return {
        "path": str(out / "export"),
        "bytes": result.num_bytes,
        "max_abs_difference": float((reloaded - applied).abs().max()),
    }


def _latents(pipe: DiffusionPipeline, evaluation: EvaluationSettings, noise_seed: int) -> torch.Tensor:
    """The final latents of a few images, float32 [n, C, h, w]."""
    return torch.cat([latents for _, latents, _ in Generator(pipe, evaluation).batches(noise_seed)])
