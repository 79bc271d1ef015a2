"""What exports cost beside full precision: every miniature, and PixArt-XL at full size with random weights.

    python benchmarks/profiles.py [--on digits-dit ... pixart-xl] [--option uaq-4] [--repeats 5] [--out FILE]

Each denoiser is exported in one option and profiled as `qsd profile` does it, every form in a process of its
own: size of the file, memory that it holds, and processor time of a denoiser call over full precision's.
Miniatures compute in float32 with batches of 1 and 16, PixArt-XL in bfloat16 on 1,024 and 4,096 latent
positions, those of images of 256 and 512 pixels (its autoencoder here keeps sizes, so that 32 and 64 are
asked for). Writes a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from bank_memory import save
from measured import in_fresh_process, markdown_table

import qsd
from qsd.evaluation.costs import CACHED, FULL, PACKED, Costs, Workload, measure_costs
from qsd.support.paths import shipped_root

XL, XL_BLOCKS = "pixart-xl", 28
HEADING = [
    *("denoiser", "file MB, full and packed", "held MB, full and packed", "batch", "latent positions"),
    *("full ms", "packed", "cached"),
]


def export(pipeline: Path, option: str, out: Path) -> None:
    """Writes the pipeline's denoiser in one option."""
    pipe = qsd.load_pipeline(pipeline)
    bank = qsd.build_bank(pipe, [option])
    qsd.export(pipe, bank, bank.uniform_config(option), out)


def profiled(name: str, option: str, repeats: int, folder: Path) -> dict[str, Costs]:
    """The costs of the three forms of a denoiser, by name."""
    pipeline = shipped_root() / "checkpoints" / name
    workload = Workload((1, 16), steps=0, repeats=repeats)
    if name == XL:
        pipeline = folder / "pipeline"
        in_fresh_process(save, pipeline, "pixart", XL_BLOCKS, threads=1)
        workload = Workload((1,), (32, 64), steps=0, repeats=repeats, dtype="bfloat16")
    in_fresh_process(export, pipeline, option, folder / "export", threads=1)
    return {costs.name: costs for costs in measure_costs(folder / "export", pipeline, workload)}


def rows_of(name: str, costs: dict[str, Costs]) -> list[list[str]]:
    """One row of the table for each kind of call."""
    full, packed, cached = (costs[form] for form in (FULL, PACKED, CACHED))
    rows = []
    for position, call in enumerate(full.calls):
        sizes = [f"{(one.file_bytes or 0) / 1e6:.1f}" for one in (full, packed)]
        held = [f"{one.held_bytes / 1e6:.1f}" for one in (full, packed)]
        times = [one.calls[position].call_cpu_seconds / call.call_cpu_seconds for one in (packed, cached)]
        first = [f"`{name}`", ", ".join(sizes), ", ".join(held)] if position == 0 else [""] * 3
        shape = [str(call.batch_size), f"{call.tokens:,}", f"{1000 * call.call_seconds:.1f}"]
        rows.append([*first, *shape, *(f"{ratio:.2f}" for ratio in times)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    drawing = sorted(path.parent.name for path in (shipped_root() / "checkpoints").glob("*/model_index.json"))
    parser.add_argument("--on", nargs="+", default=[*drawing, XL], choices=[*drawing, XL])
    parser.add_argument("--option", default="uaq-4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    rows = [HEADING]
    for name in arguments.on:
        with tempfile.TemporaryDirectory() as scratch:
            found = rows_of(name, profiled(name, arguments.option, arguments.repeats, Path(scratch)))
        rows += found
        print("\n".join(" ".join(row) for row in found), flush=True)
    text = markdown_table(rows)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
