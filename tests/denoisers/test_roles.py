"""The roles of every family at a glance, and where each word of the vocabulary comes from."""

import pytest
from support.cases import CASES, Case
from support.families import FAMILIES

from qsd.denoisers import ROLES, trace
from qsd.denoisers.roles import attention_part, role_of

SELF = "self_attn.q self_attn.k self_attn.v self_attn.out "
CROSS = "cross_attn.q cross_attn.k cross_attn.v cross_attn.out "
ADDED = "added_attn.q added_attn.k added_attn.v added_attn.out "
FF = "ff.in ff.out "
GATED = "ff.in ff.gate ff.out "
ADDED_FF = "added_ff.in added_ff.out "
DIT = "patch_embed time_embed modulation final_proj "
POOL = "pool_attn.q pool_attn.k pool_attn.v pool_attn.out "
U_NET = (
    "conv_in time_embed resnet.conv1 resnet.conv2 resnet.time resnet.shortcut proj_in proj_out "
    "downsample upsample conv_out "
)

ROLES_OF_FAMILY: dict[str, str] = {
    "pixart_alpha": DIT + "caption_embed " + SELF + CROSS + FF,
    "pixart_sigma": DIT + "caption_embed " + SELF + CROSS + FF,
    "hunyuan_dit": DIT + "caption_embed pooled_embed skip_linear " + POOL + SELF + CROSS + FF,
    "sdxl": U_NET + "pooled_embed " + SELF + CROSS + FF,
    "sd15": U_NET + SELF + CROSS + FF,
    "dit": DIT + SELF + FF,
    "flux": DIT + "caption_embed pooled_embed guidance_embed " + SELF + ADDED + FF + ADDED_FF,
    "sd35": DIT + "caption_embed pooled_embed " + SELF + ADDED + FF + ADDED_FF,
    "sana": DIT + "caption_embed ff.depthwise " + SELF + CROSS + FF,
    "lumina2": DIT + "caption_embed " + SELF + GATED,
    "auraflow": DIT + "caption_embed " + SELF + ADDED + GATED + ADDED_FF + "added_ff.gate",
    "cogvideox": DIT + "caption_embed " + SELF + FF,
    "wan": DIT + "caption_embed " + SELF + CROSS + FF,
    "z_image": DIT + "caption_embed " + SELF + GATED,
    "qwen_image": DIT + "caption_embed " + SELF + ADDED + FF + ADDED_FF,
    "chroma": "patch_embed modulation final_proj caption_embed " + SELF + ADDED + FF + ADDED_FF,
    "mochi": DIT + "caption_embed pool_attn.q pool_attn.kv pool_attn.out " + SELF + ADDED + FF + ADDED_FF,
    "cogview4": DIT + "caption_embed pooled_embed " + SELF + FF,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_of_each_family(family: str) -> None:
    roles = {layer.role for layer in trace(FAMILIES[family].build_tiny("meta")).layers}
    assert roles == set(ROLES_OF_FAMILY[family].split())
    assert roles <= ROLES.keys()


def test_attention_is_cross_when_queries_and_keys_read_different_data() -> None:
    assert role_of("blocks.0.attn2.to_k", {"blocks.0.attn2": True}) == "cross_attn.k"
    assert role_of("blocks.0.attn2.to_k", {"blocks.0.attn2": False}) == "self_attn.k"
    assert role_of("blocks.0.attn.add_k_proj", {"blocks.0.attn": True}) == "added_attn.k"


def test_attention_part() -> None:
    assert attention_part("blocks.0.attn1.to_out.0") == ("blocks.0.attn1", "out")
    assert attention_part("blocks.0.attn.to_add_out") == ("blocks.0.attn", "added out")
    assert attention_part("blocks.0.ff.net.2") is None


def test_unknown_layers_get_the_last_word_of_the_vocabulary() -> None:
    assert role_of("something.never.seen", {}) == "other"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nearly_every_layer_of_every_class_has_a_role(case: Case) -> None:
    """At most a tenth of the layers have no word."""
    layers = trace(case.build(), inputs=case.inputs()).layers
    unknown = [layer.module for layer in layers if layer.role == "other"]
    assert len(unknown) <= len(layers) / 10, unknown
