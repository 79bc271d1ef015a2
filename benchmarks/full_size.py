"""The road at full size: a PixArt-XL-2-512x512 folder with random weights, from bank to reloaded export.

    python benchmarks/full_size.py [--blocks 28] [--threads 2] [--out FOLDER] [--keep] [--json FILE]

Transformer and autoencoder have the published sizes; a T5 encoder of one narrow layer and a word-level
tokenizer stand in for the T5-XXL. Every stage runs in a process of its own that starts from the files of the
earlier ones, as the verbs do, so its seconds include opening them and its peak memory is its own. The label
is one of two images, in a few steps, compared with full precision alone. Prints Markdown tables; exits with 1
if the export computes anything else than the applied config, or memory or disk exceed 20 GiB.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from bank import pixart_xl
from measured import Measured, in_fresh_process, markdown_table
from transformers import T5Config, T5EncoderModel

import qsd
from qsd.bank import Applier
from qsd.denoisers import trace
from qsd.denoisers.components import denoiser_of
from qsd.zoo.tokenizers import t5_tokenizer

MOST_GIB = 20.0
PROMPTS = ("a bold seven slanted left", "a thin zero")


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the stages leave what the next ones open."""

    out: Path

    @property
    def pipeline(self) -> Path:
        return self.out / "pipeline"

    @property
    def bank(self) -> Path:
        return self.out / "bank.safetensors"

    @property
    def prompts(self) -> Path:
        return self.out / "prompts.txt"

    @property
    def store(self) -> Path:
        return self.out / "labels.h5"

    @property
    def export(self) -> Path:
        return self.out / "export"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of it."""

    files: Files
    blocks: int
    threads: int
    steps: int
    guidance: float
    pixels: int


def save(plan: Plan) -> dict[str, Any]:
    """Builds the pipeline and writes its folder."""
    transformer: Any = pixart_xl(plan.blocks)
    tokenizer = t5_tokenizer()
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=transformer.config.caption_channels,
            d_kv=64,
            num_heads=4,
            d_ff=256,
            num_layers=1,
        )
    )
    vae: Any = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    pipe: Any = diffusers.PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    pipe.save_pretrained(plan.files.pipeline)
    plan.files.prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return {"parameters": sum(parameter.numel() for parameter in transformer.parameters())}


def load(plan: Plan) -> dict[str, Any]:
    """Opens the pipeline."""
    pipe = qsd.load_pipeline(plan.files.pipeline)
    return {"class": type(pipe).__name__}


def trace_graph(plan: Plan) -> dict[str, Any]:
    """Traces the denoiser of the opened pipeline."""
    traced = trace(denoiser_of(qsd.load_pipeline(plan.files.pipeline)))
    return {
        "nodes": traced.graph.num_nodes,
        "edges": traced.graph.num_edges,
        "weight_layers": len(traced.layers),
    }


def bank(plan: Plan) -> dict[str, Any]:
    """Builds and saves the bank of the six options."""
    torch.set_num_threads(1)  # layers are quantized side by side
    built = qsd.build_bank(qsd.load_pipeline(plan.files.pipeline), threads=plan.threads)
    built.save(plan.files.bank)
    return {"weights": int(built.num_weights.sum()), "options": len(built.options)}


def label(plan: Plan) -> dict[str, Any]:
    """Labels one random config, and full precision before it."""
    settings = qsd.EvaluationSettings(
        prompts=str(plan.files.prompts),
        num_images=len(PROMPTS),
        steps=plan.steps,
        guidance=plan.guidance,
        height=plan.pixels,
        width=plan.pixels,
        batch_size=len(PROMPTS),
    )
    store = qsd.label(
        qsd.load_pipeline(plan.files.pipeline),
        qsd.Bank.load(plan.files.bank),
        plan.files.store,
        num_configs=1,
        evaluator=settings,
    )
    names = (entry.name for entry in store.header.labels)
    values = dict(zip(names, map(float, store.records.labels[0]), strict=True))
    return {"labels": values, "seconds_of_label": float(store.records.seconds[0])}


def export(plan: Plan) -> dict[str, Any]:
    """Exports the labeled config."""
    opened = qsd.Bank.load(plan.files.bank)
    config = qsd.Store.open(plan.files.store).records.config[0]
    result = qsd.export(qsd.load_pipeline(plan.files.pipeline), opened, config, plan.files.export)
    return {
        "average_bits": float(opened.average_bits(config)),
        "bytes": result.num_bytes,
        "fp16_bytes": result.full_precision_bytes,
    }


def reload(plan: Plan) -> dict[str, Any]:
    """Opens the export."""
    return {"class": type(qsd.load_export(plan.files.export)).__name__}


@torch.inference_mode()
def compare(plan: Plan) -> dict[str, Any]:
    """One forward of the export and one of the denoiser that the bank's config is applied to."""
    inputs = _forward_inputs()
    exported = qsd.load_export(plan.files.export)(**inputs, return_dict=False)[0]
    denoiser = denoiser_of(qsd.load_pipeline(plan.files.pipeline))
    full = denoiser(**inputs, return_dict=False)[0]
    with Applier(qsd.Bank.load(plan.files.bank), denoiser) as applier:
        applier.apply(qsd.Store.open(plan.files.store).records.config[0])
        applied = denoiser(**inputs, return_dict=False)[0]
    return {
        "equal": bool(torch.equal(exported, applied)),
        "largest_difference": float((exported - applied).abs().max()),
        "largest_difference_to_full_precision": float((exported - full).abs().max()),
    }


def _forward_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 64, 64, generator=generator),
        "encoder_hidden_states": torch.randn(1, 20, 4096, generator=generator),
        "timestep": torch.tensor([500]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


STAGES: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "save the pipeline": save,
    "load it": load,
    "trace": trace_graph,
    "bank of six options": bank,
    "label": label,
    "export": export,
    "reload the export": reload,
    "compare with the applied config": compare,
}


def sizes(files: Files) -> dict[str, int]:
    """Bytes on disk."""
    denoiser = "transformer/diffusion_pytorch_model.safetensors"
    return {
        "pipeline folder": _size(files.pipeline),
        "its denoiser, 32 bits": _size(files.pipeline / "transformer"),
        "bank": _size(files.bank),
        "export folder": _size(files.export),
        "its denoiser, packed": _size(files.export / denoiser),
    }


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def report(results: dict[str, Measured], on_disk: dict[str, int]) -> str:
    """Both tables."""
    rows = [
        ["stage", "seconds", "CPU seconds", "peak GiB", "result"],
        *(
            [
                name,
                f"{measured.seconds:.1f}",
                f"{measured.cpu_seconds:.1f}",
                f"{measured.peak_gib:.1f}",
                _facts(measured.result),
            ]
            for name, measured in results.items()
        ),
        [
            "all",
            f"{sum(measured.seconds for measured in results.values()):.0f}",
            f"{sum(measured.cpu_seconds for measured in results.values()):.0f}",
            f"{max(measured.peak_gib for measured in results.values()):.1f}",
            "",
        ],
    ]
    exported = results["export"].result
    files = [
        ["file", "MB"],
        *([name, f"{size / 1e6:,.1f}"] for name, size in on_disk.items()),
        ["a denoiser of 16 bits", f"{exported['fp16_bytes'] / 1e6:,.1f}"],
    ]
    return f"{markdown_table(rows)}\n\n{markdown_table(files)}"


def _facts(result: dict[str, Any]) -> str:
    return ", ".join(
        _facts(value)
        if isinstance(value, dict)
        else f"{name.replace('_', ' ')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value:,}"
        if type(value) is int
        else f"{name.replace('_', ' ')} {value}"
        for name, value in result.items()
    )


def main() -> int:
    """Runs the stages, prints what they took, and says by the exit code whether the claims hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=28, help="transformer blocks; 28 is full size")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the bank")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of the label")
    parser.add_argument("--guidance", type=float, default=4.5, help="guidance of the label")
    parser.add_argument("--pixels", type=int, default=512, help="side of the images of the label")
    parser.add_argument("--out", type=Path, default=Path("runs/full-size"), help="new folder to work in")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)  # an error if it is there: it would be removed
    plan = Plan(
        Files(arguments.out),
        arguments.blocks,
        arguments.threads,
        arguments.steps,
        arguments.guidance,
        arguments.pixels,
    )
    results: dict[str, Measured] = {}
    try:
        for name, stage in STAGES.items():
            print(name, file=sys.stderr)
            results[name] = in_fresh_process(stage, plan, threads=plan.threads)
        on_disk = sizes(plan.files)
        total = _size(arguments.out)
    finally:
        if not arguments.keep:
            shutil.rmtree(arguments.out)
    print(report(results, on_disk))
    if arguments.json:
        document = {
            "blocks": plan.blocks,
            "threads": plan.threads,
            "stages": {name: dataclasses.asdict(measured) for name, measured in results.items()},
            "bytes_on_disk": on_disk | {"all": total},
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    peak = max(measured.peak_gib for measured in results.values())
    same = results["compare with the applied config"].result["equal"]
    return 0 if same and max(peak, total / 2**30) <= MOST_GIB else 1


if __name__ == "__main__":
    sys.exit(main())
