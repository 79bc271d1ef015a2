"""Held-out prompts take the prompts' place, and are no condition of a store."""

import dataclasses

import pytest

from qsd.evaluation import EvaluationSettings
from qsd.evaluation.content import settings_content
from qsd.support.errors import QsdError

SETTINGS = EvaluationSettings(prompts="datasets/digits/prompts.txt", num_images=5)


def test_held_out_prompts_take_the_place_of_prompts(tmp_path) -> None:
    other = tmp_path / "others.txt"
    other.write_text("a\nb\nc\nd\ne\n")
    settings = dataclasses.replace(SETTINGS, holdout_prompts=str(other))
    assert SETTINGS.held_out() is SETTINGS
    assert settings.held_out().load_prompts() == ["a", "b", "c", "d", "e"]
    assert settings.load_prompts() == SETTINGS.load_prompts()
    assert settings_content(settings) == settings_content(SETTINGS)
    assert settings_content(settings.held_out()) != settings_content(SETTINGS)
    compared = dataclasses.replace(settings, reference="datasets/digits", holdout_reference=str(tmp_path))
    assert compared.held_out().reference == str(tmp_path) and compared.held_out().load_prompts()[0] == "a"
    alone = dataclasses.replace(SETTINGS, reference="datasets/digits", holdout_reference=str(tmp_path))
    assert alone.held_out().load_prompts() == SETTINGS.load_prompts()
    assert alone.held_out().reference == str(tmp_path) and alone.held_out().held_out() == alone.held_out()
    with pytest.raises(QsdError, match="holdout_reference: name reference too"):
        dataclasses.replace(SETTINGS, holdout_reference="x").held_out()
    with pytest.raises(QsdError, match="name holdout_classes exactly where classes are named"):
        dataclasses.replace(settings, classes="datasets/digits/classes.txt", reference="x").held_out()
