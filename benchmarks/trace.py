"""Claim: each of the paper's six denoisers is traced at full size in 30 seconds and 2 GiB, without weights.

    python benchmarks/trace.py [--families sdxl dit] [--threads 2] [--json FILE]

Every denoiser of `full_size_configs.json`, the paper's six first, is built on the meta device and traced in a
process of its own. Weight layers count both segments of a weight that reads a concatenation. Published DiT
checkpoints hold one timestep embedder 28 times; with weights, equal ones are found and tied when the pipeline
is opened, and here, where there is nothing to compare, they are tied by name. Prints a Markdown table; exits
with 1 if the claim fails, judged by processor time, so that other programs do not disturb it.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from measured import Measured, in_fresh_process, markdown_table
from torch import nn

from qsd.denoisers import trace

MOST_SECONDS = 30.0
MOST_GIB = 2.0
PAPER = ("pixart_alpha", "pixart_sigma", "hunyuan_dit", "sdxl", "sd15", "dit")
CONFIGS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("full_size_configs.json").read_text(encoding="utf-8")
)


def build(family: str) -> nn.Module:
    """A full-size denoiser on the meta device."""
    published = CONFIGS[family]
    with torch.device("meta"):
        denoiser: Any = getattr(diffusers, published["cls"])(**published["full"]).eval()
    if published["cls"] == "DiTTransformer2DModel":
        first, *others = denoiser.transformer_blocks
        for block in others:
            block.norm1.emb.timestep_embedder = first.norm1.emb.timestep_embedder
    return denoiser


def trace_family(family: str) -> dict[str, Any]:
    """What the graph of a full-size denoiser holds."""
    denoiser = build(family)
    traced = trace(denoiser)
    return {
        "class": type(denoiser).__name__,
        "nodes": traced.graph.num_nodes,
        "edges": traced.graph.num_edges,
        "weight_layers": len(traced.layers),
        "segments": sum(layer.segment is not None for layer in traced.layers),
        "weights": sum(layer.num_weights for layer in traced.layers),
        "unused": len(traced.unused),
    }


def holds(measured: Measured) -> bool:
    """Whether a trace stays within time and memory."""
    return measured.cpu_seconds <= MOST_SECONDS and measured.peak_gib <= MOST_GIB


def row(family: str, measured: Measured) -> list[str]:
    """One line of the table."""
    facts = measured.result
    return [
        family,
        facts["class"],
        f"{facts['nodes']:,}/{facts['edges']:,}",
        f"{facts['weight_layers']:,}",
        str(facts["segments"]),
        f"{facts['weights'] / 1e6:,.0f} M",
        f"{measured.seconds:.1f}",
        f"{measured.cpu_seconds:.1f}",
        f"{measured.peak_gib:.2f}",
    ]


HEADING = [
    "family",
    "class",
    "nodes/edges",
    "weight layers",
    "of them segments",
    "weights",
    "seconds",
    "CPU seconds",
    "peak GiB",
]


def main() -> int:
    """Traces all, prints them, and says by the exit code whether the claim holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="which")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    results: dict[str, Measured] = {}
    for family in arguments.families:
        print(f"tracing {family}", file=sys.stderr)
        results[family] = in_fresh_process(trace_family, family, threads=arguments.threads)
    print(markdown_table([HEADING, *(row(family, measured) for family, measured in results.items())]))
    if arguments.json:
        document = {family: dataclasses.asdict(measured) for family, measured in results.items()}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all(holds(results[family]) for family in PAPER if family in results) else 1


if __name__ == "__main__":
    sys.exit(main())
