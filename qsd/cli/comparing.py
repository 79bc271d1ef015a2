"""What a searched config is compared with: full precision, uniform configs, the best labeled random ones."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.denoisers.components import denoiser_like
from qsd.evaluation import LABELS, EvaluationSettings, headline
from qsd.evaluation.generate import Generator
from qsd.evaluation.grid import ImageRow, draw_grid
from qsd.ranker.target import Target
from qsd.ranker.tasks import space_of
from qsd.search import Front, Points, plot_front
from qsd.search.coupling import FormatName
from qsd.store import Store

Row = dict[str, Any]
"""A config (``kind``, ``name``, int8 [L] ``config``, ``bytes``, ``avg_bits``) and, then, what it measured."""

LARGER_IS_BETTER = {label.name: label.larger_is_better for label in LABELS}


@dataclasses.dataclass(frozen=True)
class Found:
    """What one search has found.

    Attributes:
        front: all of it.
        best: member that is measured.
        limit: bytes that it and its rivals may have.
    """

    front: Front
    best: int
    limit: int


def rows_to_compare(
    bank: Bank, store: Store, found: Sequence[Found], *, format: FormatName = "qsd", every: bool = False
) -> list[Row]:
    """Full precision, uniform configs, random ones and what was found.

    Args:
        bank: of the configs.
        store: its labeled configs are the random ones.
        found: by each search.
        format: of the export, which all uniform configs must fit too.
        every: all uniform configs and a random one for each budget; else the uniform configs next in size.
    """
    weights = int(bank.num_weights.sum())
    full = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
    rows: list[Row] = [
        {"kind": "full precision", "name": "full precision", "config": full, "bytes": 2 * weights}
    ]
    space = space_of(bank, format=format)
    uniform = [
        _row(bank, "uniform", str(bank.options[index]), space.expand(space.uniform()[index]))
        for index in np.flatnonzero(space.available.any(axis=0))
    ]
    rows += [row for row in uniform if every or any(row in _next_to(uniform, one) for one in found)]
    for one in found if every else ():
        rows += _random(bank, store, one)
    for one in found:
        name = "searched" if len(found) == 1 else f"searched ≤ {8 * one.limit / weights:.2f}"
        row = _row(bank, "searched", name, one.front.configs[one.best])
        predicted = {"predicted": float(one.front.predicted[one.best])}
        rows.append(row | predicted | {"limit": one.limit, "max_bits": 8 * one.limit / weights})
    for row in rows:
        row["avg_bits"] = 8 * row["bytes"] / weights
    return rows


def add_rivals(rows: list[Row]) -> None:
    """Tells every searched row which other config of its size or less measured best."""
    first = headline(rows[0])
    for row in rows:
        rivals = [r for r in rows if r["kind"] in ("uniform", "random") and r["bytes"] <= row.get("limit", 0)]
        if rivals:
            best = best_of(rivals)
            row |= {"best_rival": best["name"], f"best_rival_{first}": best[first]}


def best_of(rows: Sequence[Row]) -> Row:
    """The one that measured best: by FID, or by PSNR where no real images are."""
    name = headline(rows[0])
    return (max if LARGER_IS_BETTER[name] else min)(rows, key=lambda row: row[name])


def draw_rows(
    pipe: Any, bank: Bank, rows: list[Row], settings: EvaluationSettings, seed: int, path: Path
) -> None:
    """Draws full precision, what was searched, and the best rival of each: an image of each class, or ten."""
    rivals = {row.get("best_rival") for row in rows}
    kinds = ("full precision", "searched")
    shown = [row for row in rows if row["kind"] in kinds or row["name"] in rivals]
    columns = list(range(min(_GRID, settings.num_images)))
    classes = settings.load_classes()
    if classes is not None:
        columns = [classes.index(value) for value in sorted(set(classes))][:_GRID]
    count = max(columns) + 1
    few = dataclasses.replace(settings, num_images=count, batch_size=min(count, settings.batch_size))
    generator, images, first = Generator(pipe, few), [], headline(rows[0])
    with Applier(bank, denoiser_like(pipe, bank.denoiser)) as applier:
        for row in sorted(shown, key=lambda row: row["kind"] == "searched"):
            applier.apply(row["config"])
            drawn = torch.cat([batch for _, _, batch in generator.batches(seed)])
            title = f"{row['name']}\n{row['avg_bits']:.2f} bits, {first.upper()} {row[first]:.2f}"
            images.append(ImageRow(title, drawn[columns]))
    draw_grid(images, [generator.prompts[column] for column in columns], path)


def draw_fronts(rows: list[Row], found: Sequence[Found], store: Store, target: str, path: Path) -> None:
    """Draws the front of the largest budget with everything that was measured around it."""
    expression = Target(target)
    labels = {name: store.values(name) for name in expression.names}

    def points(kind: str) -> Points:
        chosen = [row for row in rows if row["kind"] == kind]
        columns = {name: np.array([row[name] for row in chosen]) for name in expression.names}
        return Points(
            avg_bits=[row["avg_bits"] for row in chosen],
            quality=expression(columns),
            names=[row["name"] for row in chosen],
        )

    plot_front(
        max(found, key=lambda one: one.limit).front,
        path,
        quality_label=f"{target} (larger is better)",
        labeled=Points(store.values("avg_bits"), expression(labels)),
        uniform=points("uniform"),
        winners=points("searched"),
        title="Predicted front, and what was measured",
    )


_GRID = 10


def _row(bank: Bank, kind: str, name: str, config: np.ndarray) -> Row:
    return {"kind": kind, "name": name, "config": config, "bytes": int(bank.config_bytes(config))}


def _next_to(uniform: Sequence[Row], found: Found) -> list[Row]:
    """The uniform config of most bytes that fits, and the one of fewest that does not."""
    below = [row for row in uniform if row["bytes"] <= found.limit]
    above = [row for row in uniform if row["bytes"] > found.limit]
    most = [max(below, key=lambda row: row["bytes"])] if below else []
    return most + ([min(above, key=lambda row: row["bytes"])] if above else [])


def _random(bank: Bank, store: Store, found: Found) -> list[Row]:
    """The labeled random config that fits and has the best label; none where none fits."""
    name = headline(dict.fromkeys(store.header.label_names))
    values = store.values(name) if len(store.records) else np.empty(0)
    values = values if LARGER_IS_BETTER[name] else -values
    values = np.where(np.isfinite(values) & (store.total_bytes() <= found.limit), values, -np.inf)
    if not np.isfinite(values).any():
        return []
    best = int(np.argmax(values))
    bits = 8 * found.limit / int(bank.num_weights.sum())
    row = _row(bank, "random", f"random ≤ {bits:.2f}", store.records.config[best])
    return [row | {"record": int(store.records.index[best])}]
