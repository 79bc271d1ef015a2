"""`qsd search` in process: every method, bounds, pins, and what bad input says."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import tiny_pixart

from qsd.bank import Bank, build_bank
from qsd.cli import main
from qsd.configs.sampling import sample_configs
from qsd.quantizers.options import parse_options
from qsd.ranker.checkpoint import load_ranker
from qsd.search import Front
from qsd.store import Header, Label, Responses, Store

QUICK = ["--settings.population", "16", "--settings.generations", "3", "--settings.improve_rounds", "2"]
QUICK += ["--settings.additive_samples", "40"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of a tiny denoiser, a probed store with eight labels, and a ranker of them."""
    folder = tmp_path_factory.mktemp("search")
    bank = build_bank(tiny_pixart(), parse_options(["uaq-3", "uaq-4", "kmeans_a-4"]))
    bank.save(folder / "bank.safetensors")
    rng = np.random.default_rng(0)
    change = rng.normal(size=(*bank.num_bytes.shape, 8)) * bank.relative_errors[..., None]
    header = Header(
        denoiser=bank.denoiser,
        layers=bank.layers,
        graph=bank.graph,
        options=bank.options,
        num_bytes=bank.num_bytes,
        relative_error=bank.relative_errors,
        labels=(Label("fid", False, "synthetic"), Label("psnr", True, "synthetic")),
        conditions={"num_images": 10},
        provenance={"full_precision": {"fid": 0.5, "psnr": 100.0}},
        responses=Responses({"latents": change.astype(np.float32)}, 4, 0),
    )
    Store.create(folder / "store.h5", header)
    with Store.writing(folder / "store.h5") as store:
        configs = sample_configs(bank.options, len(bank.layers), 9, 0)
        for index, config in enumerate(configs):
            total = float(np.square(change[np.arange(len(config)), config].sum(axis=0)).sum())
            labels = {"fid": 0.5 + total, "psnr": 30 - 4 * np.log(0.1 + total)}
            store.append(index=index, config=config, labels=labels, noise_seed=0, seconds=1.0)
    words = ["fit", "--data.stores", f"[{folder / 'store.h5'}]", "--data.target=-log(fid)"]
    words += ["--out", str(folder / "ranker"), "--trainer.logger", "false"]
    assert main([*words, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


def run(place: Path, capsys: pytest.CaptureFixture[str], *words: str, ranker: bool = True) -> dict[str, Any]:
    given = [
        "--bank",
        str(place / "bank.safetensors"),
        "--out",
        str(place / "out"),
        "--overwrite",
        "--json",
        *QUICK,
    ]
    given += ["--ranker", str(place / "ranker")] if ranker else []
    assert main(["search", *given, *words]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize("method", ["length", "greedy", "knapsack", "uniform", "random"])
def test_methods_without_a_ranker(place: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    bank = Bank.load(place / "bank.safetensors")
    limit = int(bank.config_bytes(bank.uniform_config("uaq-4")))
    words = ["--method", method, "--store", str(place / "store.h5"), "--max-bytes", str(limit)]
    document = run(place, capsys, *words, ranker=False)
    assert all(member["bytes"] <= limit for member in document["members"])
    best = json.loads((place / "out/best.json").read_text())
    front = json.loads((place / "out/front.json").read_text())
    assert best["layers"] == front["members"][document["best"]]["layers"]
    assert front["settings"]["method"] == method
    assert (place / "out/front.png").stat().st_size > 5000


@pytest.mark.parametrize("score", ["errors", "ridge", "energies"])
def test_a_ranker_ranks_what_any_method_finds(
    place: Path, capsys: pytest.CaptureFixture[str], score: str
) -> None:
    words = [
        "--method",
        "knapsack",
        "--score",
        score,
        "--store",
        str(place / "store.h5"),
        "--max-bits",
        "4.2",
    ]
    assert all(member["std"] > 0 for member in run(place, capsys, *words)["members"])


def test_pins_and_floors_hold(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--keep", "proj_out=kmeans_a-4", "--at-least", "transformer_blocks.0.*=uaq-4"]
    run(place, capsys, *words)
    for member in json.loads((place / "out/front.json").read_text())["members"]:
        assert member["layers"]["proj_out"] == "kmeans_a-4"
        assert all(option != "uaq-3" for name, option in member["layers"].items() if "blocks.0." in name)


def test_the_smallest_config_with_a_bound(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = run(place, capsys, "--max-fid", "30", "--confidence", "0.8")
    assert loose["probability"] >= 0.8
    assert loose["bounds"] == ["fid <= 30"]
    assert loose["best"] == len(loose["members"]) - 1
    both = run(place, capsys, "--within", "60x", "--min-psnr", "5", "--confidence", "0.6")
    assert both["bounds"] == ["psnr >= 5", "fid <= 30"]
    front, ranker = Front.load(place / "out/front.json"), load_ranker(place / "ranker")
    told = ranker.posterior(front.configs)  # in the unit of the target, not of the bounds
    np.testing.assert_allclose(front.predicted, told.mean)
    np.testing.assert_allclose(front.std, told.std)
    assert front.best_index() == len(front) - 1  # the answer, whatever the target says of others
    given = ["search", "--bank", str(place / "bank.safetensors"), "--out", str(place / "out"), *QUICK]
    given += ["--ranker", str(place / "ranker"), "--min-psnr", "5"]
    assert main([*given, "--within", "60x", "--confidence", "0.6"]) == 0  # the same input replaces it
    assert "holds" in capsys.readouterr().out
    assert main([*given, "--within", "70x", "--confidence", "0.6"]) == 2
    assert "made of another bounds" in capsys.readouterr().err


def test_a_front_of_quality_and_drift(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = run(place, capsys, "--objectives", "fid,psnr", "--max-bits", "4.2")
    members = document["members"]
    assert len(members) > 1 and all(member["fid"] > 0 for member in members)
    assert members[document["best"]]["predicted"] == max(member["predicted"] for member in members)
    front = Front.load(place / "out/front.json")
    assert front.objectives["psnr"].tolist() == [member["psnr"] for member in members]
    words = ["--objectives", "target,psnr", "--settings.confidence", "0.5", "--max-bits", "4.2"]
    members = run(place, capsys, *words)["members"]
    points = np.array([[member["target"], member["psnr"], -member["bytes"]] for member in members])
    assert not any((points > row).all(axis=1).any() for row in points)
    assert (place / "out/front.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objectives", "fid,beauty"], "does not predict 'beauty', only target, fid, psnr"),
        (["--objectives", "fid"], "objectives: name at least two"),
        (["--objectives", "fid,psnr", "--method", "random"], "objectives: are for --method evolution"),
        (["--objectives", "fid,psnr", "--max-fid", "1"], "give them or bounds"),
        (["--max-act-bits", "8", "--max-bytes", "9999"], "--max-bytes: means nothing with --max-act-bits"),
        (
            ["--max-act-bits", "8", "--method", "random"],
            "does not search activations; use one of evolution, orthogonality",
        ),
        (["--method", "orthogonality", "--orthogonality.sweep", "[-1]"], "beta positive"),
        (["--max-bytes", "3"], "3 bytes is below the smallest possible size, "),
        (["--max-bits", "3", "--max-bytes", "3"], "give max_bits or max_bytes, not both"),
        (["--keep", "nothing=uaq-4"], "keep nothing=uaq-4: matches no layer"),
        (["--keep", "proj_out"], "keep 'proj_out': give PATTERN=OPTION"),
        (["--at-least", "proj_out=uaq-9"], "no such option; the bank has uaq-3, uaq-4, kmeans_a-4"),
        (["--keep", "proj_out=uaq-3", "--at-least", "proj*=uaq-4"], "leave it no option"),
        (["--max-fid", "0.0001"], "no config within"),
        (["--within", "about"], "within 'about': give a factor such as 1.1x"),
        (["--method", "orthogonality"], "orthogonality: needs --pipeline and --evaluation"),
        (["--method", "length"], "length: needs --store with a probed store"),
        (["--method", "operation"], "operation: needs --ranker, a graph network"),
        (["--verify", "2"], "verify: needs --ranker, --store, --pipeline and --evaluation"),
        (["--settings.confidence", "1"], "settings.confidence is 1.0; give 0.5"),
        (["--keep", "proj_out=uaq-3,proj_out=uaq-4"], "keep: proj_out is uaq-3 and uaq-4"),
        (["--method", "random", "--max-fid", "30"], "bounds: are for --method evolution"),
        (["--within", "nanx"], "at least 1, such as 1.1x"),
        (["--max-fid", ".nan"], "bound fid <= nan: give a number"),
        (["--score", "ridge"], "score: is of --method knapsack, not of evolution"),
        (["--rounds", "3"], "rounds: need --verify"),
        (["--keep", "proj_out=@8"], "@ names activations, which need --max-act-bits"),
        (["--max-act-bits", "8", "--rounds", "3"], "--rounds: means nothing with --max-act-bits"),
        (["--max-act-bits", "8", "--settings.population", "20"], "--settings: means nothing with --max-act"),
        (
            ["--max-act-bits", "8", "--method", "orthogonality", "--settings.population", "128"],
            "--settings: means nothing",
        ),
    ],
)
def test_bad_input_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = ["--bank", str(place / "bank.safetensors"), "--out", str(place / "bad")]
    code = main(["search", *given, "--ranker", str(place / "ranker"), *QUICK, *words])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert message in error[-1]
    assert not (place / "bad").exists()


def test_evolution_needs_a_ranker(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--bank", str(place / "bank.safetensors"), "--out", str(place / "bad")]
    assert main(["search", *given]) == 2
    assert "evolution: needs --ranker; or search without one" in capsys.readouterr().err


def test_a_front_of_another_input_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "kept"
    words = ["search", "--bank", str(place / "bank.safetensors"), "--out", str(out), "--max-bits", "5"]
    assert main([*words, "--method", "uniform"]) == 0
    before = (out / "front.json").read_bytes()
    capsys.readouterr()
    assert main([*words, "--method", "random", *QUICK]) == 2
    told = capsys.readouterr().err
    assert f"{out / 'front.json'}: is there already, made of another method" in told
    assert told.count("\n") == 1
    assert main([*words, *QUICK, "--ranker", str(place / "ranker")]) == 2
    assert "made of another ranker and another method" in capsys.readouterr().err
    assert (out / "front.json").read_bytes() == before
    assert main([*words, "--method", "uniform"]) == 0  # the same input
    for more in (["--keep", "proj_out=uaq-4"], ["--couple", "qkv"]):
        assert main([*words, "--method", "uniform", *more]) == 2
        assert f"made of another {more[0][2:]}" in capsys.readouterr().err
    assert main([*words[:-2], "--method", "uniform"]) == 2
    assert "made of another budget" in capsys.readouterr().err
    assert main([*words, "--method", "random", *QUICK, "--overwrite"]) == 0
    assert (out / "front.json").read_bytes() != before
    (out / "front.json").write_text("{")
    capsys.readouterr()
    assert main([*words, "--method", "random", *QUICK]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (out / "front.json").unlink()  # as a search of weights and activations leaves it
    assert main([*words, "--method", "uniform"]) == 2
    assert "made of another method" in capsys.readouterr().err


def test_a_ranker_of_another_bank_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_bank(tiny_pixart(), parse_options(["uaq-3", "uaq-5"])).save(place / "other.safetensors")
    words = ["search", "--bank", str(place / "other.safetensors"), "--out", str(place / "bad")]
    assert main([*words, "--ranker", str(place / "ranker")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "uaq-5 neither labeled nor probed" in error and not (place / "bad").exists()
    assert main([*words, "--method", "length", "--store", str(place / "store.h5")]) == 2
    assert "knows nothing of uaq-5" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def paper(place: Path) -> Path:
    """A graph network with hop losses, trained by the shipped YAML, on the labels of forty configs."""
    old = Store.open(place / "store.h5").header
    assert old.responses is not None
    change = old.responses.spaces["latents"]
    Store.create(place / "labeled.h5", dataclasses.replace(old, responses=None))
    with Store.writing(place / "labeled.h5") as store:
        configs = sample_configs(old.options, len(old.layers), 40, 1)
        for index, config in enumerate(configs):
            total = float(np.square(change[np.arange(len(config)), config].sum(axis=0)).sum())
            labels = {"fid": 0.5 + total, "psnr": 30 - 4 * np.log(0.1 + total)}
            store.append(index=index, config=config, labels=labels, noise_seed=0, seconds=1.0)
    words = ["fit", "--config", "pixart_paper.yaml", "--data.stores", f"[{place / 'labeled.h5'}]"]
    words += ["--out", str(place / "paper"), "--trainer.logger", "false", "--trainer.max_epochs", "60"]
    words += ["--trainer.default_root_dir", str(place), "--data.folds", "2", "--model.network.width", "16"]
    assert main([*words, "--model.network.depth", "2", "--model.learning_rate", "0.01"]) == 0
    return place / "paper"


@pytest.mark.parametrize("method", ["operation", "block"])
def test_constructions_from_hop_scores(
    place: Path, paper: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    bank = Bank.load(place / "bank.safetensors")
    limit = int(bank.config_bytes(bank.uniform_config("uaq-4")))
    words = ["--method", method, "--ranker", str(paper)]
    capsys.readouterr()
    within = run(place, capsys, *words, "--max-bytes", str(limit), ranker=False)["members"]
    assert within and all(member["bytes"] <= limit for member in within)
    free = run(place, capsys, *words, ranker=False)["members"]
    assert free[-1]["bytes"] >= within[-1]["bytes"]  # as published: no budget
    scores = np.array([member["predicted"] for member in free])
    assert np.isfinite(scores).all()
