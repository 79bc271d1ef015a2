"""One checkpoint has one identity however it is loaded; another has another, and the message says in what."""

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from support.families import FAMILIES
from torch import nn

from qsd.denoisers.components import denoiser_of
from qsd.denoisers.identity import (
    check_same_denoiser,
    component_identity,
    config_hash,
    differing_part,
    identity,
    same_denoiser,
    weights_hash,
)
from qsd.denoisers.layers import tie_equal_weights
from qsd.denoisers.pipeline import load_pipeline
from qsd.support.errors import QsdError
from qsd.support.paths import find


def test_ties_make_no_other_denoiser() -> None:
    folder = find("checkpoints/digits-dit") / "transformer"
    plain = DiTTransformer2DModel.from_pretrained(folder)
    by_qsd = denoiser_of(load_pipeline("checkpoints/digits-dit"))
    assert identity(plain) == identity(by_qsd)
    assert tie_equal_weights(plain) > 0
    assert identity(plain) == identity(by_qsd)


def test_a_saved_copy_is_the_same(tmp_path: Any) -> None:
    denoiser = FAMILIES["pixart_alpha"].build_tiny()
    denoiser.save_pretrained(tmp_path / "elsewhere", max_shard_size="20KB")
    assert identity(PixArtTransformer2DModel.from_pretrained(tmp_path / "elsewhere")) == identity(denoiser)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_rounded_checkpoint_is_the_same_denoiser(dtype: torch.dtype) -> None:
    full, rounded = (FAMILIES["pixart_alpha"].build_tiny() for _ in range(2))
    rounded.to(dtype)
    assert identity(full) != identity(rounded)
    assert same_denoiser(identity(full), identity(rounded))
    assert same_denoiser(identity(rounded), identity(full))
    again = FAMILIES["pixart_alpha"].build_tiny().to(dtype).float()
    assert identity(again) == identity(rounded), "16 bits in a 32-bit type hold the same values"


def test_roundings_to_different_types_are_two_denoisers() -> None:
    half, brain = (FAMILIES["pixart_alpha"].build_tiny().to(t) for t in (torch.float16, torch.bfloat16))
    assert differing_part(identity(half), identity(brain)) == "weights"


def test_what_differs_is_named() -> None:
    denoiser, other = (FAMILIES["pixart_alpha"].build_tiny() for _ in range(2))
    one = identity(denoiser)
    other.register_to_config(norm_eps=1e-3)
    with pytest.raises(QsdError, match=r"bank: made for .* but this denoiser is .*another configuration"):
        check_same_denoiser(one, identity(other), "bank")
    with torch.no_grad():
        denoiser.proj_out.bias[0] += 1e-6
    with pytest.raises(QsdError, match="another weights"):
        check_same_denoiser(one, identity(denoiser), "bank")
    assert differing_part(one, {**one, "class": "X"}) == "class"


def test_facts_of_an_older_qsd_are_refused() -> None:
    old = {"class": "PixArtTransformer2DModel", "num_parameters": 3, "weights_hash": "ab"}
    with pytest.raises(QsdError, match=r"s\.h5: made by an older qsd"):
        check_same_denoiser(identity(FAMILIES["pixart_alpha"].build_tiny()), old, "s.h5")


def test_what_is_no_identity_is_refused() -> None:
    with pytest.raises(QsdError, match=r"c\.json: its 'denoiser' is 7, no identity"):
        check_same_denoiser({"class": "X"}, 7, "c.json")


def test_names_and_shapes_are_content() -> None:
    one, other = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        values = torch.arange(6.0)
        one[0].weight.copy_(values.view(3, 2))
        other[0].weight.copy_(values.view(2, 3))
    assert weights_hash(nn.Sequential(one)) != weights_hash(one)
    one[0].bias = other[0].bias = None
    assert weights_hash(one) != weights_hash(other)


def test_two_loads_of_a_pipeline_have_the_same_components() -> None:
    """Also where a checkpoint lacks weights that are drawn at random, as Hunyuan's pooler here."""
    first, second = (load_pipeline("checkpoints/digits-hunyuan-dit").components for _ in range(2))
    for name, component in first.items():
        if hasattr(component, "config") or hasattr(component, "get_vocab"):
            assert component_identity(component) == component_identity(second[name]), name


def test_a_call_of_a_tokenizer_changes_nothing() -> None:
    tokenizer: Any = load_pipeline("checkpoints/digits-pixart-alpha").tokenizer
    before = component_identity(tokenizer)
    tokenizer(["a thin three"], padding="max_length", truncation=True, max_length=5)
    assert component_identity(tokenizer) == before
    tokenizer.add_tokens(["quux"])
    assert component_identity(tokenizer) != before


def test_a_configuration_is_what_it_says_not_where_it_lies() -> None:
    one: Any = load_pipeline("checkpoints/digits-pixart-alpha").scheduler
    other = type(one).from_config(one.config)
    assert config_hash(one) == config_hash(other)
    assert config_hash(one) != config_hash(type(one).from_config(one.config, solver_order=1))
