"""Activations on the command line: bank, store, ranker, joint search, measuring."""

import json
from pathlib import Path

import numpy as np
import pytest

from qsd.bank import Bank
from qsd.cli import main
from qsd.configs.schedule import Schedule, save_schedule
from qsd.search import Posterior

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
    return json.loads(capsys.readouterr().out)


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


class _Judge:
    """A ranker that likes bits, wherever they are, and knows nothing else."""

    target = "-latent_mse"

    def check(self, bank: Bank, file: str) -> None:
        self.bank = bank

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
    document = json.loads((folder / "found" / "best.json").read_text())
    document["activations"]["no.such.layer"] = "8"
    document.pop("hash", None)
    (folder / "bad.json").write_text(json.dumps(document))
    words = ["measure", "--pipeline", PIPELINE, "--bank", str(folder / "bank.safetensors")]
    words += ["--evaluation", str(folder / "evaluation.yaml"), "--configs", f"[{folder / 'bad.json'}]"]
    assert main(words) == 2
    assert "no.such.layer" in capsys.readouterr().err
