"""Tables fit a terminal of 80 columns: no heading, name or number is cut."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from qsd.cli import bank, compress, fit, found, measure
from qsd.cli.console import PlainConsole
from qsd.quantizers import DEFAULT_OPTIONS
from qsd.ranker.metrics import LARGER_IS_BETTER

LONG = max(map(str, DEFAULT_OPTIONS), key=len)


class _Sized(SimpleNamespace):
    """A front of one member."""

    def __len__(self) -> int:
        return 1


def _measured(name: str) -> dict[str, Any]:
    labels = {
        "fid": 1234.5678,
        "kid": 0.0123,
        "clip": 32.15,
        "agreement": 1.0,
        "psnr": 28.66,
        "latent_mse": 0.01234,
    }
    return {
        **{"name": name, "avg_bits": 16.0, "bytes": 12_345_678_901, "num_images": 50_000, "seeds": [1, 2, 3]},
        **labels,
        **{f"{label}_std": 12.3456 for label in labels},
        "predicted": -123.45,
    }


def _bank() -> Table:
    built = SimpleNamespace(layers=range(1000), num_weights=np.array([12 * 10**9]))
    row = {
        "bytes": 12_345_678_901,
        "avg_bits": 16.123,
        "avg_bits_of_all": 16.123,
        "mean_relative_error": 0.12,
    }
    return bank._table(built, [{"option": LONG, **row}], "runs/bank.safetensors")  # type: ignore[arg-type]


def _compress() -> Table:
    row = _measured(LONG) | {"fid": 12.5, "fid_std": 0.25}
    summary = {"rows": [row], "held_out_prompts": True, "images": 1000, "seeds": [1, 2]}
    return compress.compared_table(summary | {"chosen": LONG})


def _fit() -> Table:
    values = {name: {"value": 0.812, "low": 0.755, "high": 0.901} for name in LARGER_IS_BETTER}
    return fit._table({"ranker": values, "contributions": values, "records": values}, "store.h5: 75 records")  # type: ignore[arg-type]


def _calibration() -> Table:
    names = ("spearman", "coverage_68", "coverage_90", "nll", "miscalibration_area")
    return fit._calibration_table({"latent_mse": dict.fromkeys(names, -123.456)}, "store.h5")


def _front() -> Table:
    row = np.array([12_345_678_901.0])
    front = _Sized(num_bytes=row, avg_bits=row / 1e9, predicted=row / 1e7, std=row / 1e7, objectives={})
    return found.front_table(front, "-log(fid) + 0.2*psnr", "runs/search")  # type: ignore[arg-type]


def _round() -> Table:
    values = np.array([-123.456])
    front = SimpleNamespace(
        measured=[{"target_interval": (-123.456, -123.456)}], avg_bits=-values, num_bytes=-values * 10**8
    )
    one = SimpleNamespace(
        **{"optimism": values, "winner": 0, "members": [0], "front": front, "predicted": values},
        measured=[values],
    )
    return found.round_table(one, 1, "-log(fid) + 0.2*psnr")  # type: ignore[arg-type]


TABLES = {
    "bank": (_bank, [LONG, "12,345,678,901", "parameters"]),
    "compress": (_compress, [LONG, "12346", "12.50±0.25", "agree"]),
    "measure": (lambda: measure._table([_measured(LONG)]), ["1234.57±12.35", "100.0%", "mse"]),
    "fit": (_fit, ["contributions", *(word for name in LARGER_IS_BETTER for word in name.split("_"))]),
    "calibration": (_calibration, ["miscalibration", "-123.456"]),
    "front": (_front, ["12,345,678,901", "predicted"]),
    "round": (_round, ["12,345,600,000", "-123.456 to -123.456"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_80_columns(name: str) -> None:
    make, words = TABLES[name]
    out = io.StringIO()
    PlainConsole(file=out, width=80, highlight=False).print(make())
    shown = out.getvalue()
    assert "…" not in shown, shown
    assert max(map(len, shown.splitlines())) <= 80
    for word in words:
        assert word in shown, f"{word} in\n{shown}"
