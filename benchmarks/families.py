"""Trains each family's ranker on its shipped store and tells how good every miniature and ranker is.

    python benchmarks/families.py [NAME ...] [--out benchmarks/results/families.json]

For every miniature: nodes, edges and weight layers of the traced graph; FID and agreement of full precision
and of every uniform config of at most 4.5 bits on 1,000 images, and the FID of one real half against the
other; the number of labels; the test metrics of `lightning fit --config FAMILY.yaml`, run in this process.
Writes JSON and prints a table.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from qsd.bank import build_bank
from qsd.cli.console import console
from qsd.cli.fit import run as lightning_cli
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels.measurer import Measurer
from qsd.quantizers import DEFAULT_OPTIONS
from qsd.store import Store
from qsd.support.documents import write_json
from qsd.support.paths import find
from qsd.zoo.quality import real_half_distance
from qsd.zoo.registry import RANKERS, labeling_settings

MAX_BITS = 4.5


def facts_of(name: str) -> dict[str, Any]:
    """Everything the table says about one miniature."""
    pipe = load_pipeline(f"checkpoints/{name}")
    bank, settings = build_bank(denoiser_of(pipe), DEFAULT_OPTIONS), labeling_settings(name)
    measurer = Measurer(pipe, bank, settings)
    full = measurer.full_precision(settings.noise_seed).labels
    uniform = {}
    for option in bank.options:
        config = bank.uniform_config(option)
        if bank.config_bytes(config) * 8 <= MAX_BITS * bank.num_weights.sum():
            uniform[str(option)] = measurer.measure(config, settings.noise_seed).labels
    store = Store.open(find(f"datasets/{name}.h5"))
    with tempfile.TemporaryDirectory() as folder:
        lightning_cli(
            [
                "fit",
                "--config",
                str(find(RANKERS[name])),
                "--out",
                f"{folder}/ranker",
                "--trainer.logger",
                "false",
            ]
        )
        [report] = json.loads((Path(folder) / "ranker" / "metrics.json").read_text()).values()
    return {
        "miniature": name,
        "nodes": bank.graph.num_nodes,
        "edges": bank.graph.num_edges,
        "layers": len(bank.layers),
        "labels": len(set(store.records.index.tolist())),
        "full_precision": full,
        "uniform": uniform,
        "real_half_fid": real_half_distance(settings) if settings.reference else None,
        "report": report,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table."""
    lines = [
        "| miniature | nodes / edges | weight layers | FID | real half | agreement | best uniform config "
        "| labels | test Spearman | repeatability |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        full, report, uniform = row["full_precision"], row["report"], row["uniform"]
        fid, half = (f"{full['fid']:.3f}", f"{row['real_half_fid']:.3f}") if "fid" in full else ("", "")
        if fid:
            best = min(uniform, key=lambda option: uniform[option]["fid"])
            value = f"{uniform[best]['fid']:.3f}"
        else:  # no real images of it ship
            best = max(uniform, key=lambda option: uniform[option]["psnr"])
            value = f"{uniform[best]['psnr']:.1f} dB"
        ranker = report["ranker"]["spearman"]
        agreement = f"{full['agreement']:.1%}" if "agreement" in full else ""  # what draws without classes
        repeats = [report[name]["spearman"]["value"] for name in report if "repeatability" in name]
        lines.append(
            f"| `{row['miniature']}` | {row['nodes']} / {row['edges']} | {row['layers']} | {fid} "
            f"| {half} | {agreement} | {value} ({best}) | {row['labels']} "
            f"| {ranker['value']:.3f} ({ranker['low']:.3f} to {ranker['high']:.3f}) "
            f"| {' '.join(f'{value:.3f}' for value in repeats)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="measure these anew; the others stay as the file has them")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/families.json"))
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if given.names and given.out.exists():
        rows = {row["miniature"]: row for row in json.loads(given.out.read_text())["families"]}
    for name in given.names or RANKERS:
        rows[name] = facts_of(name)
        write_json(given.out, {"families": [rows[name] for name in RANKERS if name in rows]}, hashed=False)
    console.print(table([rows[name] for name in RANKERS if name in rows]))


if __name__ == "__main__":
    main()
