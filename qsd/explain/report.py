"""One self-contained HTML page of a run: no network, no other files."""

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from qsd.denoisers.identity import check_same_denoiser
from qsd.evaluation.grid import strips
from qsd.explain.explanation import Explanation, explain, rows_of
from qsd.explain.plots import plot_all
from qsd.explain.run_folder import RunFolder
from qsd.ranker.checkpoint import load_ranker
from qsd.search import Front
from qsd.support.errors import QsdError
from qsd.support.files import atomic

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 60, 40
_TITLES = {
    "box-blocks": "Costs of layers by block",
    "box-roles": "Costs of layers by role",
    "choices": "Options and average bits by role, over the front",
    "heat-map": "Summed costs by block and role",
    "interactions-blocks": "Blocks whose errors add up or cancel",
    "interactions-roles": "Roles whose errors add up or cancel",
}


def write_report(run: RunFolder, path: str | Path) -> None:
    """Writes the page.

    Args:
        run: the folder.
        path: destination.

    Raises:
        QsdError: the store or ranker of the run does not belong to its front.
    """
    front = run.front
    best = front.best_index()
    found = _explanation(run, front.configs[best])
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=str(run.path.resolve().name),
            front=_chart(front, best),
            fronts=[_front_row(name, one) for name, one in run.fronts.items()],
            measured=_measured([*run.measured(), *_members_measured(front)]),
            grid=_embedded(run.grid, "png") if run.grid else None,
            strips=_strips(run.grid) if run.grid else [],
            plots=_plots(found, front) if found else [],
            explanation=found,
            **_layers(front, best, found),
            provenance=_provenance(run),
        )
    )
    with atomic(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _environment() -> Environment:
    loader = PackageLoader("qsd.explain")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _explanation(run: RunFolder, config: np.ndarray) -> Explanation | None:
    """Of the front's best config, if the run has a store that explains it."""
    store = run.store
    if store is None:
        return None
    if run.front.meta.denoiser:
        check_same_denoiser(run.front.meta.denoiser, store.header.denoiser, store.path)
    names = [layer.name for layer in store.header.layers]
    options = tuple(map(str, store.header.options))
    if list(run.front.meta.layer_names) != names or run.front.meta.option_names != options:
        raise QsdError(
            f"{store.path}: has other layers or options than the front of {run.path}; name the store "
            "that it was searched with"
        )
    ranker = load_ranker(run.ranker, store.header.denoiser) if run.ranker else None
    return explain(store, config, ranker=ranker, around="the front's best config")


def _chart(front: Front, best: int) -> dict[str, Any]:
    """Places of the members in an SVG."""
    x = _scaled(front.avg_bits, _LEFT, _WIDTH - 20)
    y = _scaled(front.predicted, _HEIGHT - _BOTTOM, 20)
    points = [
        {
            "x": round(float(x[index]), 1),
            "y": round(float(y[index]), 1),
            "best": index == best,
            "text": f"{front.avg_bits[index]:.3f} bits, {int(front.num_bytes[index]):,} bytes, predicted "
            f"{front.predicted[index]:.4g} ± {front.std[index]:.2g}{_verified(front.measured[index])}",
        }
        for index in range(len(front))
    ]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "floor": _HEIGHT - _BOTTOM,
        "points": points,
        "line": "" if front.objectives else " ".join(f"{point['x']},{point['y']}" for point in points),
        "bits": [f"{front.avg_bits.min():.2f}", f"{front.avg_bits.max():.2f}"],
        "quality": [f"{front.predicted.min():.3g}", f"{front.predicted.max():.3g}"],
        "name": front.meta.ranker.get("target", "score"),
    }


def _verified(row: dict[str, Any] | None) -> str:
    return f", measured {row['target']:.4g}" if row and "target" in row else ""


def _members_measured(front: Front) -> list[dict[str, Any]]:
    """Rows of the members that a search verified."""
    rows = []
    for index, row in enumerate(front.measured):
        if row is not None:
            size = {"avg_bits": float(front.avg_bits[index]), "bytes": int(front.num_bytes[index])}
            rows.append({"name": f"member {index + 1} of the front", **size, **row})
    return rows


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    reach = float(np.ptp(values)) or 1.0
    return low + (values - values.min()) / reach * (high - low)


def _front_row(name: str, front: Front) -> dict[str, Any]:
    best = front.best_index()
    return {
        "name": name,
        "members": len(front),
        "budget": f"{front.meta.max_bits:.3f}" if front.meta.max_bits is not None else "none",
        "bits": f"{front.avg_bits[best]:.3f}",
        "bytes": f"{int(front.num_bytes[best]):,}",
        "predicted": f"{front.predicted[best]:.4g} ± {front.std[best]:.2g}",
    }


def _measured(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A table of the numbers that all rows have in some form."""
    numbers = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key not in ("name", "seeds", "measured", "config", "max_bits", "limit", "record", "num_images")
        and not key.startswith("best_rival")
        and any(isinstance(row.get(key), int | float) for row in rows)
    ]
    table = [[str(row.get("name", "")), *(_number(row.get(key)) for key in numbers)] for row in rows]
    return {"columns": ["config", *numbers], "rows": table}


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else ""


def _plots(found: Explanation, front: Front) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        names = plot_all(found, Path(folder), front.configs)
        return [
            {"title": _TITLES[name], "source": _embedded(Path(folder) / f"{name}.svg", "svg+xml")}
            for name in names
        ]


def _embedded(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _strips(grid: Path) -> list[dict[str, str]]:
    """The grid's rows one by one, to lay one over another."""
    found = []
    for title, image in strips(grid):
        content = io.BytesIO()
        image.save(content, format="png")
        source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
        found.append({"title": title.replace("\n", ", "), "source": source})
    return found


def _layers(front: Front, best: int, found: Explanation | None) -> dict[str, Any]:
    """The per-layer table of the best config; numbers are right-aligned and sorted as numbers."""
    if found is None:
        options = front.meta.option_names
        chosen = [options[int(option)] for option in front.configs[best]]
        rows = [list(row) for row in zip(front.meta.layer_names, chosen, strict=True)]
        return {"columns": [("layer", False), ("option", False)], "rows": rows}
    numbers = ["block", "stage", "weights", "bytes", "cost_around", "cost_alone", "probed_change"]
    columns = [(name, False) for name in ("layer", "role", "option")] + [(name, True) for name in numbers]
    table = [row for row in rows_of(found) if row["chosen"]]
    for row in table:
        row["block"] = None if row["block"] < 0 else row["block"]
    shown = [[_cell(row[name]) for name, _ in columns] for row in table]
    return {"columns": columns, "rows": shown}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance(run: RunFolder) -> dict[str, str]:
    meta = run.front.meta
    facts = {"command": meta.command, "seed": str(meta.seed), "option table": ", ".join(meta.option_names)}
    for group in (meta.denoiser, meta.versions, run.summary.get("provenance", {}).get("versions", {})):
        facts |= {str(key): str(value) for key, value in group.items()}
    return {key: value for key, value in facts.items() if value}
