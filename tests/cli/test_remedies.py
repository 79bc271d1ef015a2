"""What messages offer, `--inputs FILE` and `--graph chain`, is typed as they say it."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from support.tiny_pipelines import sd15, tiny_unet

import qsd
from qsd.cli import main

OPTIONS = ["--options", "[uaq-4]"]


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    return " ".join(error.splitlines()[-1:])


def works(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    assert main(list(words)) == 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose call needs the embeddings of another one, which nobody can make up."""
    torch.manual_seed(0)
    config = dict(tiny_unet().config) | {
        "out_channels": 8,
        "addition_embed_type": "image",
        "addition_embed_type_num_heads": 2,
        "encoder_hid_dim": 12,
        "encoder_hid_dim_type": "image_proj",
    }
    movq = diffusers.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_type="spatial",
    )
    unet = diffusers.UNet2DConditionModel(**config)
    pipe = diffusers.KandinskyV22Pipeline(unet=unet, scheduler=diffusers.DDPMScheduler(), movq=movq)
    folder = tmp_path_factory.mktemp("decoder")
    pipe.save_pretrained(folder / "pipeline")
    return folder


def test_inputs_that_cannot_be_recorded(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline, file = ["--pipeline", str(decoder / "pipeline")], str(decoder / "inputs.json")
    bank, out = str(decoder / "bank.safetensors"), str(decoder / "out")
    for words in (["bank", *pipeline, "--out", bank, *OPTIONS], ["graph", *pipeline]):
        message = fails(capsys, *words)
        assert "image_embeds" in message
        assert "pass inputs= (`--inputs FILE`, which qsd.save_inputs writes)" in message
    pipe = qsd.load_pipeline(decoder / "pipeline")
    embeds = {name: torch.ones(1, 12) for name in ("image_embeds", "negative_image_embeds")}
    qsd.save_inputs(qsd.record_inputs(pipe, **embeds), file)
    works(capsys, "graph", *pipeline, "--inputs", file)
    works(capsys, "bank", *pipeline, "--out", bank, *OPTIONS, "--inputs", file)
    works(capsys, "export", *pipeline, "--bank", bank, "--config-file", "uaq-4", "--out", out)
    assert qsd.load_export(out).config["out_channels"] == 8


def test_inputs_are_recorded_with_what_labels_are_drawn_from(
    decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, file = ["--pipeline", str(decoder / "pipeline")], str(decoder / "rows.safetensors")
    names = ("image_embeds", "negative_image_embeds")
    save_file({name: torch.ones(2, 12) for name in names}, file)
    call = ["--evaluation.call", str(dict.fromkeys(names, file)), "--evaluation.height", "32"]
    bank, store = str(decoder / "recorded.safetensors"), str(decoder / "store.h5")
    works(capsys, "graph", *pipeline, *call)
    works(capsys, "bank", *pipeline, "--out", bank, *OPTIONS, *call)
    drawn = ["num_images", "steps", "width", "batch_size"]
    drawn = [word for name in drawn for word in (f"--evaluation.{name}", "32" if name == "width" else "2")]
    works(
        *(capsys, "label", *pipeline, "--bank", bank, "--store", store, "--num_configs", "1"),
        *(*call, *drawn, "--json"),
    )
    missing = ["--evaluation.call", str(dict.fromkeys(names, "none.safetensors"))]
    assert "none.safetensors: no such file" in fails(capsys, "graph", *pipeline, *missing)


def test_a_chain_in_place_of_inputs(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline, chain = ["--pipeline", str(decoder / "pipeline")], ["--graph", "chain"]
    bank, out = str(decoder / "chain.safetensors"), str(decoder / "chained")
    works(capsys, "graph", *pipeline, *chain)
    works(capsys, "bank", *pipeline, "--out", bank, *OPTIONS, *chain)
    works(capsys, "export", *pipeline, "--bank", bank, "--config-file", "uaq-4", "--out", out)
    assert qsd.load_export(out).config["out_channels"] == 8


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of the shipped DiT of another number of channels, and those that its pipeline gives."""
    folder = tmp_path_factory.mktemp("wrong")
    inputs = qsd.record_inputs(qsd.load_pipeline("checkpoints/digits-dit"))["transformer"]
    qsd.save_inputs(inputs, folder / "right.json")
    qsd.save_inputs(inputs | {"hidden_states": torch.ones(1, 7, 16, 16)}, folder / "wrong.json")
    (folder / "prompts.txt").write_text("a zero\na one\n")
    return folder


@pytest.mark.parametrize("remedy", ["inputs", "chain"])
def test_inputs_that_the_forward_does_not_take(
    wrong: Path, tmp_path: Path, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, out = ["--pipeline", "checkpoints/digits-dit"], str(tmp_path / "small")
    compress = ["compress", pipeline[1], *OPTIONS, "--max-bits", "5", "--out", out]
    drawing = {"prompts": str(wrong / "prompts.txt"), "num_images": 2, "steps": 1, "guidance": 1.0}
    compress += [f"--evaluation.{name}={value}" for name, value in drawing.items()]
    bank = ["bank", *pipeline, *OPTIONS, "--out", str(tmp_path / "bank.safetensors")]
    typed = {"inputs": ["--inputs", str(wrong / "right.json")], "chain": ["--graph", "chain"]}[remedy]
    for words in (bank, ["graph", *pipeline], compress):
        message = fails(capsys, *words, "--inputs", str(wrong / "wrong.json"))
        assert "pass inputs= that its forward accepts (`--inputs FILE`), or take the" in message
        assert "(`--graph chain`)" in message
        works(capsys, *words, *typed)
    assert (tmp_path / "small" / "pipeline" / "model_index.json").is_file()


def test_a_chain_splits_no_weights_for_sdnq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sd15().save_pretrained(tmp_path / "pipeline")
    pipeline = ["--pipeline", str(tmp_path / "pipeline")]
    split, whole = (str(tmp_path / f"{name}.safetensors") for name in ("split", "whole"))
    export = [
        "export",
        *pipeline,
        "--config-file",
        "uaq-4",
        "--format",
        "sdnq",
        "--out",
        str(tmp_path / "out"),
    ]
    search = ["search", "--method", "uniform", "--max-bits", "5", "--format", "sdnq"]
    works(capsys, "bank", *pipeline, "--out", split, *OPTIONS)
    assert "(`qsd bank --graph chain` splits none)" in fails(capsys, *export, "--bank", split)
    found = ["--out", str(tmp_path / "front")]
    assert "build it with --graph chain" in fails(capsys, *search, "--bank", split, *found)
    works(capsys, "bank", *pipeline, "--out", whole, *OPTIONS, "--graph", "chain")
    works(capsys, *search, "--bank", whole, *found)
    works(capsys, *export, "--bank", whole)
    assert (tmp_path / "out" / "unet" / "config.json").is_file()
