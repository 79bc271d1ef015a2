"""Fine-tuning: weights as functions of their tables, a training that helps, files that keep their size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qsd.api import build_bank
from qsd.cli import main
from qsd.configs.activations import uniform_activations
from qsd.configs.schedule import Schedule
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.export import check_export, export, load_export
from qsd.finetune import FinetuneSettings, finetune
from qsd.finetune.calls import Calls
from qsd.finetune.trainable import TrainableTensor, TrainableWeight
from qsd.quantizers import DEFAULT_OPTIONS, Option, quantize
from qsd.quantizers.rotation import _hadamard, rotate
from qsd.support.errors import QsdError

PIPELINE = "checkpoints/digits-dit"
EVALUATION = EvaluationSettings(
    prompts="datasets/digits/class_prompts.txt", num_images=8, steps=4, guidance=1.0, batch_size=8
)
FEW = FinetuneSettings(images=8, validation_images=8, batch_size=8, epochs=3, learning_rate=5e-3)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    pipe: Any = load_pipeline(PIPELINE)
    bank = build_bank(pipe, ["kmeans_a-3"])
    export(pipe, bank, bank.uniform_config("kmeans_a-3"), folder)
    return folder


@pytest.mark.parametrize(
    "option",
    [
        "uaq-2:paper",
        "uaq-4",
        "uaq-4g8",
        "uaq-3g8:s8",
        "kmeans_c-3",
        "kmeans_a-4",
        "lloyd-4g8",
        "nf4g8",
        "int8",
    ],
)
@pytest.mark.parametrize("shape", [(6, 24), (4, 8, 3, 3)])
def test_a_weight_of_any_scheme_is_the_function_of_its_tables(option: str, shape: tuple[int, ...]) -> None:
    _check_function(option, shape)


@pytest.mark.parametrize("option", [*map(str, DEFAULT_OPTIONS), "kmeans_c-3+r2", "hadamard+uaq-4+r1"])
@pytest.mark.parametrize("shape", [(6, 64), (4, 16, 2, 2)])
def test_a_weight_of_the_default_table_is_the_function_of_its_tables(
    option: str, shape: tuple[int, ...]
) -> None:
    _check_function(option, shape)


def _check_function(option: str, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    parsed = Option.parse(option)
    quantized = quantize(weight, [parsed])[parsed]
    trainable = TrainableWeight(quantized)
    assert torch.allclose(trainable(), quantized.dequantize(), atol=1e-6)
    target = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for name, table in trainable.trained().items():
        loss = (trainable() * target).sum()
        (gradient,) = torch.autograd.grad(loss, table.change)
        if not table.stored.is_floating_point:
            continue
        place = tuple(int(size) // 2 for size in table.start.shape)
        with torch.no_grad():
            table.change[place] += 1.0
            difference = (trainable() * target).sum() - loss
            table.change[place] -= 1.0
        assert float(difference) == pytest.approx(float(gradient[place]), rel=1e-3, abs=1e-4), name


def test_a_rotation_that_was_first_needed_while_drawing_trains() -> None:
    _hadamard.cache_clear()
    option = Option.parse("hadamard+lloyd-3g32:f8")
    quantized = quantize(torch.randn(8, 64), [option])[option]
    with torch.inference_mode():
        quantized.dequantize()
        rotate(torch.randn(2, 64))
    values = torch.randn(2, 64, requires_grad=True)
    (rotate(values) @ TrainableWeight(quantized)().T).sum().backward()
    assert values.grad is not None and values.grad.abs().sum() > 0


def test_integers_are_stored_rounded_and_floats_saturate() -> None:
    whole = TrainableTensor(torch.tensor([3, -7], dtype=torch.int16))
    with torch.no_grad():
        whole.change += torch.tensor([0.6, -0.4])
    assert whole.to_store().tolist() == [4, -7] and whole().tolist() == [4.0, -7.0]
    large = TrainableTensor(torch.tensor([60000.0], dtype=torch.float16))
    with torch.no_grad():
        large.change += 1
    assert large.to_store().isfinite().all()


def test_calls_are_those_of_the_drawing() -> None:
    pipe: Any = load_pipeline(PIPELINE)
    calls = Calls(pipe, pipe.transformer, EVALUATION, 3)
    assert [call.step for call in calls] == [0, 1, 2, 3]
    with torch.inference_mode():
        for call in calls:
            answer = pipe.transformer(**call.arguments, return_dict=False)[0]
            assert torch.allclose(answer, call.output, atol=1e-5)


def test_training_lowers_the_loss_and_keeps_codes_and_size(exported: Path, tmp_path: Path) -> None:
    pipe: Any = load_pipeline(PIPELINE)
    result = finetune(exported, pipe, tmp_path / "tuned", evaluation=EVALUATION, settings=FEW)
    assert result.loss_after < 0.8 * result.loss_before
    assert (tmp_path / "tuned" / WEIGHTS).stat().st_size == (exported / WEIGHTS).stat().st_size
    old, new = load_file(exported / WEIGHTS), load_file(tmp_path / "tuned" / WEIGHTS)
    assert {key: (value.shape, value.dtype) for key, value in old.items()} == {
        key: (value.shape, value.dtype) for key, value in new.items()
    }
    assert all(torch.equal(old[key], new[key]) for key in old if key.endswith(".codes"))
    assert any(not torch.equal(old[key], new[key]) for key in old if key.endswith(".codebook"))
    note = json.loads((tmp_path / "tuned/transformer/config.json").read_text())["quantization_config"]
    assert note["provenance"]["finetune"]["loss_after"] == result.loss_after
    calls = Calls(pipe, pipe.transformer, EVALUATION, FEW.noise_seed + 1)
    student = load_export(tmp_path / "tuned")
    with torch.inference_mode():
        losses = [
            (student(**call.arguments, return_dict=False)[0] - call.output).square().mean()
            / call.output.var()
            for call in calls
        ]
    assert float(torch.stack(losses).mean()) == pytest.approx(result.loss_after, rel=0.05)


def test_shards_and_activations_are_kept(tmp_path: Path) -> None:
    pipe: Any = load_pipeline(PIPELINE)
    bank = build_bank(pipe, ["lloyd-3:f8"], activations=["16", "8", "4"])
    vectors = np.stack([uniform_activations(bank.activation_options, bank.macs, bits) for bits in "84"])
    schedule = Schedule(((0, 2), (2, 4)), vectors)
    config = bank.uniform_config("lloyd-3:f8")
    out = tmp_path / "sharded"
    shards = {"max_shard_size": 60_000, "variant": "w3"}
    few = dataclasses.replace(FEW, epochs=2)
    export(pipe, bank, config, out, activations=schedule, whole_pipeline=False, **shards)
    files = sorted((out / "transformer").glob("*.safetensors"))
    assert len(files) > 1
    result = finetune(out, pipe, tmp_path / "tuned", evaluation=EVALUATION, settings=few, variant="w3")
    assert result.loss_after < result.loss_before
    assert result.num_bytes == sum(file.stat().st_size for file in files)
    for file in files:
        assert (tmp_path / "tuned/transformer" / file.name).stat().st_size == file.stat().st_size
    check_export(tmp_path / "tuned", variant="w3")
    student = load_export(tmp_path / "tuned", variant="w3")
    calls = Calls(pipe, pipe.transformer, EVALUATION, FEW.noise_seed + 1)
    with torch.inference_mode():  # the loss is that of the rounding student
        errors = [
            (student(**call.arguments, return_dict=False)[0] - call.output).square().mean()
            / call.output.var()
            for call in calls
        ]
    assert float(torch.stack(errors).mean()) == pytest.approx(result.loss_after, rel=0.05)
    files[0].write_bytes(files[0].read_bytes()[:-8])
    with pytest.raises(QsdError, match="truncated or damaged"):
        finetune(out, pipe, tmp_path / "again", evaluation=EVALUATION, settings=FEW, variant="w3")


def test_an_interrupted_training_goes_on(exported: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(PIPELINE)

    def stop(done: int, total: int, message: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        finetune(exported, pipe, tmp_path / "t", evaluation=EVALUATION, settings=FEW, progress=stop)
    assert not (tmp_path / "t").exists()
    assert (tmp_path / "t.training" / "last.ckpt").is_file()
    seen: list[int] = []
    finetune(
        exported,
        pipe,
        tmp_path / "t",
        evaluation=EVALUATION,
        settings=FEW,
        progress=lambda done, total, message: seen.append(done),
    )
    assert seen[0] > 1 and seen[-1] == FEW.epochs
    assert not (tmp_path / "t.training").exists()


def test_a_folder_that_is_no_export_and_another_denoiser_are_refused(exported: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(PIPELINE)
    with pytest.raises(QsdError, match="no denoiser exported"):
        finetune(tmp_path, pipe, tmp_path / "out", evaluation=EVALUATION)
    with pytest.raises(QsdError, match="made for DiT"):
        finetune(exported, load_pipeline("checkpoints/digits-sd15"), tmp_path / "out", evaluation=EVALUATION)
    with pytest.raises(QsdError, match="at least 1"):
        FinetuneSettings(epochs=0)


def test_the_verb(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluation.yaml").write_text(
        "prompts: datasets/digits/class_prompts.txt\nnum_images: 8\nsteps: 2\nguidance: 1.0\nbatch_size: 8\n"
    )
    words = ["finetune", str(exported), "--pipeline", PIPELINE, "--out", str(tmp_path / "out")]
    words += ["--evaluation", str(tmp_path / "evaluation.yaml"), "--json"]
    words += ["--settings.images=8", "--settings.validation_images=8", "--settings.batch_size=8"]
    assert main([*words, "--settings.epochs=2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["loss_after"] < printed["loss_before"]
