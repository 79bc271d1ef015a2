"""Activations on the command line: bank, store, ranker, joint search, measuring."""

import json
from pathlib import Path

import numpy as np
import pytest

from qsd.bank import Bank
from qsd.cli import main
from qsd.configs.schedule import Schedule, load_schedule, save_schedule
from qsd.search import Posterior
from qsd.support.documents import write_json

PIPELINE = "checkpoints/digits-dit"
EVALUATION = (
    "prompts: datasets/digits/class_prompts.txt\nnum_images: 4\nsteps: 2\nguidance: 1.0\nbatch_size: 4\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "evaluation.yaml").write_text(EVALUATION)
    words = ["bank", "--pipeline", PIPELINE, "--out", str(path / "bank.safetensors")]
    assert main([*words, "--options", "[uaq-3, uaq-4]", "--activations", "[16, 8, 4]", "--json"]) == 0
    return path


def _measure(folder: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict]:
    capsys.readouterr()
    words = ["measure", "--pipeline", PIPELINE, "--bank", str(folder / "bank.safetensors"), "--json"]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--noise_seeds", "[1]"]
    assert main([*words, "--configs", f"[{', '.join(names)}]"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "full precision" and rows[0]["avg_bits"] == 16
    return rows


def test_uniform_activations_and_schedules_are_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank.load(folder / "bank.safetensors")
    layers = len(bank.layers)
    vectors = np.stack([np.zeros(layers, np.int8), np.full(layers, 2, np.int8)])
    texts = [str(option) for option in bank.activation_options]
    schedule = Schedule(((0, 1), (1, 2)), vectors)
    save_schedule(folder / "late.json", schedule, bank.layer_names, texts, bank.denoiser)
    names = ["uaq-4", "uaq-4@16", "uaq-4@8", "uaq-4@4", f"uaq-4@{folder / 'late.json'}"]
    exact, plain, full, eight, four, late = [row["latent_mse"] for row in _measure(folder, names, capsys)]
    assert exact == 0 < plain == full < eight < four
    assert plain < late < four


def test_steps_that_bear_less_get_more_bits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("qsd.cli.joint_search.load_ranker", lambda _: _Judge())
    bank = folder / "bank.safetensors"
    words = ["probe", "--pipeline", PIPELINE, "--bank", str(bank), "--store", str(tmp_path / "s")]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--num-images", "4", "--steps-groups", "2"]
    assert main(words) == 0
    steps = tmp_path / "s.steps.json"
    document = json.loads(steps.read_text())
    document.pop("hash")
    document["latent_mse_per_step"] = {"8": [1.0, 9.0], "4": [1.0, 9.0]}
    write_json(steps, document)
    capsys.readouterr()
    words = ["search", "--bank", str(bank), "--ranker", "judge", "--out", str(tmp_path / "found"), "--json"]
    words += ["--max-bits", "4.0", "--max-act-bits", "9", "--steps", str(steps)]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)["schedule"]
    assert told["mean over steps"]["activation bits"] <= 9 + 1e-9
    loaded = Bank.load(bank)
    texts = [str(option) for option in loaded.activation_options]
    schedule = load_schedule(told["file"], loaded.layer_names, texts, loaded.denoiser)
    early, late = (np.array([16, 8, 4])[row] @ loaded.macs for row in schedule.activations)
    assert early < late
    name = f"{tmp_path / 'found' / 'best.json'}@{told['file']}"
    assert _measure(folder, [name], capsys)[1]["latent_mse"] > 0
    document["latent_mse_per_step"]["8"] = [1.0]
    write_json(steps, document)
    assert main(words) == 2
    assert "do not fit its ranges" in capsys.readouterr().err
    out = tmp_path / "exported"
    words = ["export", "--pipeline", PIPELINE, "--bank", str(bank), "--config-file", name, "--out", str(out)]
    assert main(words) == 0
    assert "in simulation" in capsys.readouterr().out
    assert main(["export", "--check", str(out)]) == 0


def test_orthogonality_gives_a_schedule_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["search", "--bank", str(folder / "bank.safetensors"), "--out", str(tmp_path), "--json"]
    words += ["--method", "orthogonality", "--pipeline", PIPELINE, "--orthogonality.steps", "2"]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--orthogonality.samples", "4"]
    assert main([*words, "--max-bits", "4.0", "--max-act-bits", "8.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["activation bits"] <= 8.5 and found["bits"] <= 4.0
    assert found["schedule"]["mean over steps"]["activation bits"] <= 8.5
    short = [word for word in words if word not in ("--pipeline", PIPELINE)]
    assert main([*short, "--max-act-bits", "8"]) == 2
    assert "needs --pipeline and --evaluation" in capsys.readouterr().err


def test_integers_measure_like_their_simulation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, simulated) = _measure(folder, ["uaq-4@8"], capsys)
    words = ["measure", "--pipeline", PIPELINE, "--bank", str(folder / "bank.safetensors"), "--json"]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--noise_seeds", "[1]", "--integers", "true"]
    assert main([*words, "--configs", "[uaq-4@8]"]) == 0
    (_, computed) = json.loads(capsys.readouterr().out)
    assert computed["latent_mse"] == pytest.approx(simulated["latent_mse"], rel=0.1)
    assert computed["latent_mse"] != simulated["latent_mse"]
    assert main([*words, "--configs", "[uaq-4@4]"]) == 2
    assert "no layer has activations of 8 bits" in capsys.readouterr().err


class _Judge:
    """A ranker that likes bits, wherever they are, and knows nothing else."""

    target = "-latent_mse"

    def check(self, bank: Bank, file: str) -> None:
        self.bank = bank

    def over(self, options: object) -> "_Judge":
        return self

    def posterior(self, configs: np.ndarray, activations: np.ndarray) -> Posterior:
        weights = np.array([option.traits.bits for option in self.bank.options])[configs]
        rounded = np.array([option.bits for option in self.bank.activation_options])[activations]
        mean = (weights + np.sqrt(rounded)).sum(1).astype(float)
        return Posterior(mean, np.zeros_like(mean))


def test_a_joint_search_keeps_its_budgets(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsd.cli.joint_search.load_ranker", lambda _: _Judge())
    capsys.readouterr()
    words = ["search", "--bank", str(folder / "bank.safetensors"), "--ranker", "judge"]
    words += ["--out", str(folder / "found"), "--json", "--max-bits", "4.0"]
    assert main([*words, "--max-act-bits", "7"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 3.5 < found["bits"] <= 4.0 + 1e-9 and 6 < found["activation bits"] <= 7 + 1e-9
    _, row = _measure(folder, [str(folder / "found" / "best.json")], capsys)
    assert row["avg_bits"] == pytest.approx(found["bits"])
    assert main([*words, "--max-act-bits", "3"]) == 2
    assert "below the smallest possible" in capsys.readouterr().err
    pins = ["--keep", "proj_out_2=uaq-4@16, pos_embed.*=@8", "--at-least", "*to_q=@8"]
    assert main([*words, "--max-act-bits", "9", "--overwrite", "true", *pins]) == 0
    best = json.loads((folder / "found" / "best.json").read_text())
    assert best["layers"]["proj_out_2"] == "uaq-4" and best["activations"]["proj_out_2"] == "16"
    assert best["activations"]["pos_embed.proj"] == "8"
    assert {best["activations"][name] for name in best["layers"] if name.endswith("to_q")} <= {"8", "16"}
    capsys.readouterr()
    assert main([*words, "--max-act-bits", "7", "--keep", "proj_out_2=@6"]) == 2
    assert "no such option" in capsys.readouterr().err
    assert main([*words, "--max-act-bits", "7", "--max-fid", "3"]) == 2
    assert "--max-fid: means nothing with --max-act-bits" in capsys.readouterr().err
    document = json.loads((folder / "found" / "best.json").read_text())
    document["activations"]["no.such.layer"] = "8"
    document.pop("hash", None)
    (folder / "bad.json").write_text(json.dumps(document))
    words = ["measure", "--pipeline", PIPELINE, "--bank", str(folder / "bank.safetensors")]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--configs", f"[{folder / 'bad.json'}]"]
    assert main(words) == 2
    assert "no.such.layer" in capsys.readouterr().err
