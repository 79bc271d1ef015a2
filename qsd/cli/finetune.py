"""``qsd finetune``."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qsd.cli.console import bar, command_line, console, print_json, run_function
from qsd.cli.overwriting import check_replaceable
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.export.facts import facts_of, parts_of
from qsd.finetune import FinetuneSettings
from qsd.finetune import finetune as finetune_export


def finetune(
    export: str,
    pipeline: str,
    out: str,
    evaluation: EvaluationSettings,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008
    variant: str | None = None,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Trains what an exported denoiser stores beside its codes to answer as full precision; no byte is added.

    Codebooks, scales, zero points, biases and norms learn from every call of the full-precision denoiser
    while its pipeline draws; no images are needed. Stopped, it goes on when run again.

    Args:
        export: folder that `qsd export` wrote.
        pipeline: the pipeline at full precision: diffusers folder, shipped pipeline, or hub id.
        out: folder to write.
        evaluation: prompts, steps and guidance to draw with.
        settings: images, epochs, batch size, learning rate.
        variant: part of the names of the export's files, if it was exported with one.
        device: where full precision draws.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        overwrite: replace another export, or one that was trained otherwise.
        json: print the losses and the size as JSON.
    """
    if parts_of(Path(out)):
        asked = dataclasses.asdict(settings)
        wanted = facts_of(Path(export)) | {"fine-tuning": asked}
        check_replaceable(Path(out), wanted, lambda: _facts(Path(out), asked), overwrite=overwrite)
    with bar("Fine-tune") as progress:
        result = finetune_export(
            export,
            load_pipeline(pipeline, device=device, dtype=dtype, encoders=False),
            out,
            evaluation=evaluation,
            settings=settings,
            variant=variant,
            command=command_line(),
            progress=progress,
        )
    if json:
        print_json({**dataclasses.asdict(result), "path": str(result.path)})
        return
    console.print(f"wrote {result.path}: {result.num_bytes:,} bytes of denoiser, as before")
    console.print(f"validation loss {result.loss_before:.4g} -> {result.loss_after:.4g}")


def _facts(out: Path, names: Iterable[str]) -> dict[str, Any]:
    """Of an earlier export; of its training what has a name."""
    facts = facts_of(out)
    return facts | {"fine-tuning": {name: (facts["fine-tuning"] or {}).get(name) for name in names}}


def run(words: Sequence[str]) -> None:
    """Runs the verb; the export may be the first word."""
    if len(words) > 1 and not words[1].startswith("-"):
        words = [words[0], "--export", *words[1:]]
    run_function(finetune, words)
