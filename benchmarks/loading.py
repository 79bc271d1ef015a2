"""Time and memory to open an export beside the dense file of the same denoiser, each in a fresh process.

    python benchmarks/loading.py [--blocks 8] [--option uaq-4] [--rounds 5] [--json FILE]

PixArt-XL at full width (1152) with random weights in bfloat16 is saved by diffusers, and as an export. Both
are opened in turns: from the disk (the system is asked to forget the files first) and from its memory of
files. Every stored tensor is read once, since diffusers maps files and leaves the reading to the first call.
Times are medians; memory is the peak beyond that of the process with everything imported, over the size of
the safetensors file. Exits with 1 if a bar is missed: at most 1.2 times the packed file, and from the disk no
slower than the dense file.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
from bank import pixart_xl
from measured import in_fresh_process, markdown_table

import qsd
from qsd.support.hashing import verification
from qsd.support.heap import peak_bytes

DENSE, PACKED, UNCHECKED = "dense", "packed", "packed, hashes not checked"
BAR = 1.2


def opened(name: str, folder: str, forget: bool) -> dict[str, float]:
    """Opens a denoiser and reads it; seconds and bytes."""
    small = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 1, "norm_num_groups": 1}
    diffusers.PixArtTransformer2DModel(**small)
    if forget:
        for path in Path(folder).glob("*.safetensors"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = psutil.Process().memory_info().rss
    start, cpu = time.perf_counter(), time.process_time()
    with verification(name != UNCHECKED):
        model: Any = diffusers.PixArtTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    for tensor in model.state_dict().values():
        if tensor.ndim:
            tensor.view(torch.uint8).max()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak": peak_bytes() - before,
    }


def main() -> int:
    """Runs all, prints a table, and says by the exit code whether the bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--option", default="uaq-4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        denoiser = pixart_xl(arguments.blocks).to(torch.bfloat16)
        denoiser.save_pretrained(f"{scratch}/dense")
        bank = qsd.build_bank(denoiser, [arguments.option])
        packed = qsd.export(denoiser, bank, bank.uniform_config(arguments.option), f"{scratch}/packed").path
        del denoiser, bank
        folders = {DENSE: f"{scratch}/dense", PACKED: str(packed), UNCHECKED: str(packed)}
        for forget in (True, False):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
            for _ in range(1 + arguments.rounds):
                for name, folder in folders.items():
                    found[name].append(in_fresh_process(opened, name, folder, forget, threads=1).result)
            for name, folder in folders.items():
                size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
                median = {
                    key: statistics.median(run[key] for run in found[name][1:]) for key in found[name][0]
                }
                rows.append({"from": "disk" if forget else "memory", "form": name, "file": size, **median})
    heading = ["from", "form", "file MB", "s", "processor s", "peak MB", "peak / file"]
    table = [
        [
            row["from"],
            row["form"],
            f"{row['file'] / 1e6:.1f}",
            *(f"{row[key]:.2f}" for key in ("seconds", "cpu")),
            f"{row['peak'] / 1e6:.0f}",
            f"{row['peak'] / row['file']:.2f}",
        ]
        for row in rows
    ]
    print(markdown_table([heading, *table]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    dense, *exports = rows[: len(folders)]
    heavy = any(row["peak"] > BAR * row["file"] for row in rows if row["form"] != DENSE)
    return int(heavy or any(row["seconds"] > dense["seconds"] for row in exports))


if __name__ == "__main__":
    sys.exit(main())
