"""What is not finite, and what no device can do, ends in one line; nothing is recorded."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_pipelines import PROMPTS, pixart_alpha

from qsd.bank import Bank, build_bank
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.extractors import clip_loader
from qsd.labels import Job, Measurer, Pool
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError
from qsd.support.workers import Workers


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(denoiser_of(pixart_alpha()), parse_options(["uaq-4", "kmeans_a-3"]))


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return EvaluationSettings(prompts=str(tmp_path / "prompts.txt"), num_images=2, steps=2, guidance=1.0)


def spoiled(pipe: Any, component: str) -> Any:
    with torch.no_grad():
        {"vae": pipe.vae.decoder.conv_out, "transformer": pipe.transformer.proj_out}[component].bias[0] = (
            torch.nan
        )
    return pipe


@pytest.mark.parametrize(("component", "stage"), [("vae", "decoded images"), ("transformer", "latents")])
def test_nan_of_full_precision_is_named(
    bank: Bank, settings: EvaluationSettings, component: str, stage: str
) -> None:
    pipe = pixart_alpha()
    measurer = Measurer(pipe, bank, settings)
    spoiled(pipe, component)
    with pytest.raises(QsdError, match=rf"full precision: prompt 'a thin zero': the {stage} are not finite"):
        measurer.full_precision(0)


def test_nan_of_a_config_is_named(bank: Bank, settings: EvaluationSettings) -> None:
    measurer = Measurer(pixart_alpha(), bank, settings)
    measurer.full_precision(0)
    spoiled(measurer.pipe, "vae")
    jobs = [Job(17, np.zeros(len(bank.layers), np.int8), 0)]
    with pytest.raises(QsdError, match=r"^config 17: prompt 'a thin zero': the decoded images are not"):
        list(measurer.run(jobs))


def test_prompts_are_cut_as_the_tokenizer_cuts_them() -> None:
    """The end token stays: CLIP reads a text's features there."""
    _, processor = clip_loader("checkpoints/digits-clip")()
    tokenizer = processor.tokenizer
    long = "a bold seven slanted left " * 9
    cut = processor(text=["a one", long], return_tensors="pt", padding=True)["input_ids"]
    assert cut.shape[1] == processor.limit
    assert cut[1, -1] == tokenizer.eos_token_id
    assert cut[1].tolist() == tokenizer(long, truncation=True, max_length=processor.limit)["input_ids"]
    assert processor.count_long(["a one", long, long]) == 2


def test_devices(settings: EvaluationSettings) -> None:
    with pytest.raises(QsdError, match="2 workers on cuda: workers draw on the CPU"):
        Pool(Measurer, "p", "b", settings, 2, "cuda")
    with pytest.raises(QsdError, match="PyTorch knows none of that name"):
        load_pipeline("checkpoints/digits-dit", device="tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(QsdError, match="finds no CUDA device here"):
            load_pipeline("checkpoints/digits-dit", device="cuda")


def _fails(message: str) -> None:
    raise QsdError(message)


def test_a_workers_error_is_carried_over() -> None:
    with Workers(1, _fails, ("no such bank",)) as workers, pytest.raises(QsdError, match="no such bank"):
        list(workers.run(str, [1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"kid_subset_size": 1}, "kid_subset_size is 1; give at least 2"),
        ({"height": 0}, "height is 0"),
        ({"guidance": float("inf")}, "guidance is inf"),
    ],
)
def test_settings(settings: EvaluationSettings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(QsdError, match=message):
        dataclasses.replace(settings, **change)
