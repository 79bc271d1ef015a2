"""Trains each family's ranker on its shipped store and tells how good every miniature and ranker is.

    python benchmarks/families.py [--out benchmarks/results/families.json]

For every miniature: nodes, edges and weight layers of the traced graph; FID of full precision against that of
one real half against the other, and agreement, on 1,000 images; the number of labels; the test metrics of
`lightning fit --config FAMILY.yaml`, run in this process. Writes JSON and prints the table of the README.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from qsd.cli.console import console
from qsd.cli.fit import run as lightning_cli
from qsd.configs import write_json
from qsd.denoisers import trace
from qsd.denoisers.pipeline import denoiser_of, load_pipeline
from qsd.paths import find
from qsd.store import Store
from qsd.zoo import MINIATURES, measure

CONFIGS = {
    "digits-pixart-alpha": "pixart.yaml",
    "digits-pixart-sigma": "pixart_sigma.yaml",
    "digits-hunyuan-dit": "hunyuan.yaml",
    "digits-sd15": "sd15.yaml",
    "digits-sdxl": "sdxl.yaml",
    "digits-dit": "dit.yaml",
}


def facts_of(name: str) -> dict[str, Any]:
    """Everything the table says about one miniature."""
    traced = trace(denoiser_of(load_pipeline(f"checkpoints/{name}")))
    store = Store.open(find(f"datasets/{name}.h5"))
    with tempfile.TemporaryDirectory() as folder:
        lightning_cli(
            ["fit", "--config", CONFIGS[name], "--out", f"{folder}/ranker", "--trainer.logger", "false"]
        )
        [report] = json.loads((Path(folder) / "ranker" / "metrics.json").read_text()).values()
    return {
        "miniature": name,
        "nodes": traced.graph.num_nodes,
        "edges": traced.graph.num_edges,
        "layers": len(traced.layers),
        "labels": len(set(store.records.index.tolist())),
        "report": report,
        **measure(name),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table."""
    lines = [
        "| miniature | nodes / edges | weight layers | FID | real half | agreement | labels | test Spearman "
        "| another noise seed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ranker = row["report"]["ranker"]["spearman"]
        ceiling = [value["spearman"][0] for name, value in row["report"].items() if "ceiling" in name]
        lines.append(
            f"| `{row['miniature']}` | {row['nodes']} / {row['edges']} | {row['layers']} | {row['fid']:.3f} "
            f"| {row['real_half_fid']:.3f} | {row['agreement']:.1%} | {row['labels']} "
            f"| {ranker[0]:.3f} ({ranker[1]:.3f} to {ranker[2]:.3f}) "
            f"| {f'{ceiling[0]:.3f}' if ceiling else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/families.json"))
    out: Path = parser.parse_args().out
    rows = []
    for name in MINIATURES:
        rows.append(facts_of(name))
        write_json(out, {"families": rows})
    console.print(table(rows))


if __name__ == "__main__":
    main()
