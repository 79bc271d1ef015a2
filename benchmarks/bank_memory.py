"""Time and peak memory of a bank of a full-size denoiser: from its files, and of the loaded pipeline.

    python benchmarks/bank_memory.py [--denoiser pixart|flux] [--blocks 2 4] [--options ...] [--out FILE]

A pipeline folder with a denoiser of the sizes of PixArt-XL-2-512x512 (or FLUX.1-dev), random weights, narrow
text encoders and a small autoencoder is written to a temporary folder. Its bank is built both ways, each in
a process of its own, one after the other on the same machine. Where fewer blocks are built than the published
model has, its numbers are extrapolated on the line through the two sizes measured, and marked so.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from bank import pixart_xl
from measured import Measured, in_fresh_process, markdown_table
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

import qsd
from qsd.api import write_bank
from qsd.support.heap import return_freed_memory
from qsd.zoo.tokenizers import clip_tokenizer, t5_tokenizer

PUBLISHED = {"pixart": 28, "flux": 19}
"""Blocks of the published denoiser; of FLUX, blocks of two streams, each with two of a single stream."""


def save(folder: Path, denoiser: str, blocks: int) -> int:
    """Writes the pipeline and answers with its denoiser's number of parameters."""
    parts: dict[str, Any] = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": _t5(),
        "vae": diffusers.AutoencoderKL(latent_channels=4, norm_num_groups=4, block_out_channels=(8,)).eval(),
        "transformer": pixart_xl(blocks) if denoiser == "pixart" else _flux(blocks),
    }
    if denoiser == "pixart":
        pipe: Any = diffusers.PixArtAlphaPipeline(scheduler=diffusers.DPMSolverMultistepScheduler(), **parts)
    else:
        parts |= {"tokenizer_2": parts["tokenizer"], "text_encoder_2": parts["text_encoder"]}
        parts |= {"tokenizer": clip_tokenizer(77), "text_encoder": _clip()}
        pipe = diffusers.FluxPipeline(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts)
    pipe.save_pretrained(folder)
    return sum(parameter.numel() for parameter in parts["transformer"].parameters())


def _t5() -> nn.Module:
    config = T5Config(vocab_size=512, d_model=4096, d_kv=64, num_heads=4, d_ff=256, num_layers=1)
    return T5EncoderModel(config).eval()


def _clip() -> nn.Module:
    config = CLIPTextConfig(vocab_size=512, hidden_size=768, num_hidden_layers=1, num_attention_heads=4)
    return CLIPTextModel(config).eval()


def _flux(blocks: int) -> nn.Module:
    """In bfloat16, as it is published."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return diffusers.FluxTransformer2DModel(
            num_layers=blocks, num_single_layers=2 * blocks, guidance_embeds=True
        ).eval()
    finally:
        torch.set_default_dtype(before)


def from_files(folder: Path, out: Path, options: list[str] | str, threads: int) -> int:
    """The bank straight from files into a file, as `qsd bank` makes it."""
    return_freed_memory()
    write_bank(folder, out, options, threads=threads)
    return out.stat().st_size


def of_loaded(folder: Path, out: Path, options: list[str] | str, threads: int) -> int:
    """The bank of the loaded pipeline, in memory and then saved."""
    qsd.build_bank(qsd.load_pipeline(folder), options, threads=threads).save(out)
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--denoiser", choices=tuple(PUBLISHED), default="pixart")
    parser.add_argument("--blocks", type=int, nargs="+", default=[28])
    parser.add_argument("--options", nargs="+", default=["default"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files-only", action="store_true", help="leave the loaded pipeline out")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    wanted: Any = parser.parse_args()
    ways = [from_files] if wanted.files_only else [from_files, of_loaded]
    rows = [["blocks", "parameters", "way", "processor s", "s", "peak GiB", "bank GB"]]
    taken: dict[str, list[tuple[int, int, Measured]]] = {}
    for blocks in wanted.blocks:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "pipeline"
            parameters = in_fresh_process(
                save, folder, wanted.denoiser, blocks, threads=wanted.threads
            ).result
            for way in ways:
                options = wanted.options[0] if len(wanted.options) == 1 else wanted.options
                out = Path(place) / f"{way.__name__}.safetensors"
                cost = in_fresh_process(way, folder, out, options, wanted.threads, threads=wanted.threads)
                out.unlink()
                taken.setdefault(way.__name__, []).append((blocks, parameters, cost))
                rows.append(_row(str(blocks), parameters, way.__name__, cost))
                print(" ".join(rows[-1]), flush=True)
    published = PUBLISHED[wanted.denoiser]
    for name, costs in taken.items():
        if published not in wanted.blocks and len(costs) > 1:
            rows.append(_extrapolated(published, name, costs))
    text = markdown_table(rows)
    print(text)
    if wanted.out:
        wanted.out.write_text(text + "\n", encoding="utf-8")


def _row(blocks: str, parameters: float, way: str, cost: Measured) -> list[str]:
    return [
        blocks,
        f"{parameters / 1e6:,.0f} M",
        way.replace("_", " "),
        f"{cost.cpu_seconds:.1f}",
        f"{cost.seconds:.1f}",
        f"{cost.peak_gib:.2f}",
        f"{cost.result / 1e9:.2f}",
    ]


def _extrapolated(published: int, way: str, costs: list[tuple[int, int, Measured]]) -> list[str]:
    """On the line through the first and the last size."""
    (first, few, low), (last, many, high) = costs[0], costs[-1]

    def at(one: float, other: float) -> float:
        return one + (other - one) * (published - first) / (last - first)

    cost = Measured(
        at(low.result, high.result),
        at(low.seconds, high.seconds),
        at(low.cpu_seconds, high.cpu_seconds),
        at(low.peak_gib, high.peak_gib),
    )
    return _row(f"{published} (extrapolated)", at(few, many), way, cost)


if __name__ == "__main__":
    main()
