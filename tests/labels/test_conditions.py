"""A store takes no record that was measured under other conditions, and says which part differs."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_pipelines import PROMPTS, pixart_alpha

from qsd.bank import Bank, build_bank
from qsd.denoisers.components import denoiser_of
from qsd.evaluation import EvaluationSettings
from qsd.labels.conditions import check_conditions, store_conditions
from qsd.quantizers import parse_options
from qsd.support.errors import QsdError


@pytest.fixture
def pipe() -> Any:
    return pixart_alpha()


@pytest.fixture(scope="module")
def bank() -> Bank:
    return build_bank(denoiser_of(pixart_alpha()), parse_options(["uaq-4", "kmeans_a-3"]))


@pytest.fixture
def settings(tmp_path: Path) -> EvaluationSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return EvaluationSettings(prompts=str(tmp_path / "prompts.txt"), num_images=3, steps=2, guidance=1.0)


def refused(pipe: Any, bank: Bank, settings: EvaluationSettings, recorded: dict[str, Any], part: str) -> None:
    ours = store_conditions(pipe, bank, settings, config_seed=0)
    with pytest.raises(QsdError, match=rf"^s\.h5: begun with {part}.*, not .*; label into another store"):
        check_conditions("s.h5", recorded, ours)


def test_every_component_counts(pipe: Any, bank: Bank, settings: EvaluationSettings) -> None:
    recorded = store_conditions(pipe, bank, settings, config_seed=0)
    check_conditions("s.h5", recorded, store_conditions(pixart_alpha(), bank, settings, config_seed=0))
    for name in ("vae", "text_encoder", "transformer"):
        changed = pixart_alpha()
        with torch.no_grad():
            next(getattr(changed, name).parameters()).add_(0.25)
        refused(changed, bank, settings, recorded, rf"components\.{name}\.weights")
    changed = pixart_alpha()
    changed.text_encoder.to(torch.bfloat16)
    refused(changed, bank, settings, recorded, r"components\.text_encoder\.(weights|dtype)")
    changed = pixart_alpha()
    changed.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, solver_order=1)
    refused(changed, bank, settings, recorded, r"components\.scheduler\.config")
    changed = pixart_alpha()
    changed.tokenizer = copy.deepcopy(pipe.tokenizer)
    changed.tokenizer.add_tokens(["quux"])
    refused(changed, bank, settings, recorded, r"components\.tokenizer\.vocabulary")


def test_codes_of_the_bank_count(pipe: Any, bank: Bank, settings: EvaluationSettings) -> None:
    recorded = store_conditions(pipe, bank, settings, config_seed=0)
    weight = bank.weights[2][1]
    codes = weight.stored["codes"].clone()
    codes[0] ^= 1
    weights = [list(row) for row in bank.weights]
    weights[2][1] = dataclasses.replace(weight, stored=weight.stored | {"codes": codes})
    refused(pipe, dataclasses.replace(bank, weights=weights), settings, recorded, r"bank\.kmeans_a-3")


def test_files_count_by_content(pipe: Any, bank: Bank, settings: EvaluationSettings, tmp_path: Path) -> None:
    recorded = store_conditions(pipe, bank, settings, config_seed=0)
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("prompt\n" + "\n".join(PROMPTS[:3]) + "\nnot drawn\n")
    moved = dataclasses.replace(settings, prompts=str(elsewhere))
    check_conditions("s.h5", recorded, store_conditions(pipe, bank, moved, config_seed=0))
    elsewhere.write_text("prompt\n" + "\n".join(PROMPTS[1:]))
    refused(pipe, bank, moved, recorded, "prompts")


def test_settings_count(pipe: Any, bank: Bank, settings: EvaluationSettings) -> None:
    recorded = store_conditions(pipe, bank, settings, config_seed=0)
    refused(pipe, bank, dataclasses.replace(settings, steps=3), recorded, "steps 2")
    check_conditions(
        "s.h5",
        recorded,
        store_conditions(pipe, bank, dataclasses.replace(settings, noise_seed=7), config_seed=0),
    )


def test_conditions_of_an_older_qsd_are_refused(pipe: Any, bank: Bank, settings: EvaluationSettings) -> None:
    ours = store_conditions(pipe, bank, settings, config_seed=0)
    with pytest.raises(QsdError, match="labeled by an older qsd"):
        check_conditions("s.h5", {"steps": 2, "config_seed": 0}, ours)
