"""The whole road in one command, on the smallest shipped pipeline."""

import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from safetensors import safe_open

from qsd.cli import main

SMALL = ["compress", "checkpoints/digits-dit", "--options", "[uaq-3, uaq-4]", "--evaluation.prompts"]
DRAWN = ["--evaluation.num_images", "4", "--evaluation.steps", "2", "--evaluation.guidance", "1.0"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a zero\na one\na two\na three\n")
    return [*SMALL, str(prompts), *DRAWN]


def test_a_pipeline_becomes_small_and_a_second_run_draws_nothing_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    command = [*words, "--max-bits", "3.6", "--out", str(out), "--json"]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in summary["rows"]]
    assert names == ["full precision", "uaq-3", "uaq-4", "searched"]
    searched = summary["rows"][-1]
    assert searched["avg_bits"] <= 3.6
    assert summary["rows"][0]["latent_mse"] == 0
    assert summary["cost"]["images"] == {"probe": 16 * (2 * 47 + 1), "label": 0, "verify": 4 * 2 * 4}
    pipe = DiffusionPipeline.from_pretrained(out / "pipeline")
    assert pipe([1], guidance_scale=1.0, num_inference_steps=2).images[0].size == (16, 16)
    assert (out / "grid.png").is_file()
    assert json.loads((out / "config.json").read_text())["measured"]["psnr"] == searched["psnr"]
    store = out / "work" / "store.h5"
    before = store.stat().st_mtime_ns
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == summary["rows"]
    assert store.stat().st_mtime_ns == before


def test_dry_run_prints_the_cost_and_writes_no_bank(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    command = [*words, "--max-size", "0.35MB", "--effort", "normal", "--out", str(out), "--dry-run=true"]
    assert main([*command, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["images"]["label"] == 51 * 4
    assert cost["seconds_per_image"] > 0
    assert cost["disk_bytes"] > 0
    assert not list(out.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ([], "say how small"),
        (["--max-bits", "3", "--max-size", "1MB"], "say how small"),
        (["--max-size", "huge"], "give a size such as 1.2GB"),
        (["--within", "close"], "give a multiple of full precision's FID"),
        (["--within", "1.1x-fid"], "needs real images"),
        (["--max-bits", "3.5", "--ask=true"], "needs a terminal"),
        (["--max-bits", "3.5", "--for", "sdnq", "--options", "[nf4g64]"], "sdnq cannot hold nf4g64"),
    ],
)
def test_bad_goals(
    goal: list[str],
    message: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main([*words, "--out", str(tmp_path / "small"), *goal]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_another_table_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qsd.api import build_bank
    from qsd.denoisers.pipeline import load_pipeline

    work = tmp_path / "small" / "work"
    work.mkdir(parents=True)
    build_bank(load_pipeline("checkpoints/digits-dit"), ["uaq-8"]).save(work / "bank.safetensors")
    assert main([*words, "--max-bits", "3.6", "--out", str(tmp_path / "small")]) == 2
    assert "holds the work of another pipeline or option table" in capsys.readouterr().err


def test_a_pipeline_for_another_program(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert main([*words, "--max-bits", "3.6", "--out", str(out), "--for", "sdnq", "--json"]) == 0
    config = json.loads((out / "pipeline" / "transformer" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "sdnq"


def test_the_denoiser_alone_for_comfyui(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    command = [*words[:2], *words[4:], "--max-bits", "6", "--for", "comfy", "--out", str(out)]
    assert main(command) == 0
    assert "README.mdtellshowtoloadit" in "".join(capsys.readouterr().out.split())  # wraps anywhere
    with safe_open(out / "pipeline" / "transformer" / "diffusion_model.safetensors", "np") as file:
        kinds = {
            layer["format"]
            for layer in json.loads(file.metadata()["_quantization_metadata"])["layers"].values()
        }
    assert kinds <= {"int8_tensorwise", "asym_w4a8_int8"}
    card = (out / "pipeline" / "README.md").read_text()
    assert "Measured" in card  # what the verification found


def test_gguf_types_are_one_for_what_the_file_fuses(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = pytest.importorskip("gguf")
    out = tmp_path / "small"
    size = ["--evaluation.height", "32", "--evaluation.width", "32", "--evaluation.max_sequence_length", "12"]
    flux = ["compress", "checkpoints/emoji-flux", *words[4:], *size]
    assert main([*flux, "--max-bits", "6", "--for", "gguf", "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows"][-1]["avg_bits"] <= 6
    tensors = reader.GGUFReader(out / "pipeline" / "transformer" / "model.gguf").tensors
    fused = [tensor for tensor in tensors if tensor.name.endswith("img_attn.qkv.weight")]
    assert fused
    assert {tensor.tensor_type.name for tensor in fused} <= {"Q4_0", "Q5_0", "Q8_0", "F16"}


def test_a_budget_that_no_config_keeps_is_refused_before_anything_is_drawn(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    for more, asked in (
        (["--max-bits", "2"], "2.0 bits"),
        (["--max-bits", "2", "--dry-run=true"], "2.0 bits"),
        (["--max-size", "100kB", "--options", "[keep]", "--dry-run=true"], "100000 bytes"),
    ):
        assert main([*words, *more, "--out", str(out)]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert f"{asked} is below the smallest possible size" in message
        assert "raise the budget or name smaller options as --options" in message
    assert not [*out.rglob("*.safetensors"), *out.rglob("*.h5")]
