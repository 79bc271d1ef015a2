"""Names and order of rows in the original checkpoints of denoisers that diffusers calls and splits otherwise.

The rules invert what ``diffusers.loaders.single_file_utils`` does when it reads such checkpoints.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_Rule = tuple[str, str, str]
"""Regular expression of a name in diffusers, the name in the original, and the place in that tensor."""
_SWAPPED = "swapped"
"""Place of a tensor whose halves change places: scale and shift of the last modulation."""


@dataclasses.dataclass(frozen=True)
class Original:
    """A tensor of an original checkpoint.

    Attributes:
        name: of it.
        keys: tensors of the denoiser's state dict whose rows (dimension 0) follow one another in it.
        swapped: whether the two halves of the rows change places.
    """

    name: str
    keys: tuple[str, ...]
    swapped: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a denoiser is laid out in a file.

    Attributes:
        architecture: what programs that read GGUF files call it; the class, where they have no name.
        tensors: each tensor of the state dict is in one of them.
        original: whether it is the layout of an original checkpoint, else diffusers' own.
    """

    architecture: str
    tensors: tuple[Original, ...]
    original: bool


_FLUX = """
time_text_embed.timestep_embedder.linear_1 time_in.in_layer
time_text_embed.timestep_embedder.linear_2 time_in.out_layer
time_text_embed.guidance_embedder.linear_1 guidance_in.in_layer
time_text_embed.guidance_embedder.linear_2 guidance_in.out_layer
time_text_embed.text_embedder.linear_1 vector_in.in_layer
time_text_embed.text_embedder.linear_2 vector_in.out_layer
context_embedder txt_in
x_embedder img_in
norm_out.linear final_layer.adaLN_modulation.1 swapped
proj_out final_layer.linear
transformer_blocks.*.norm1.linear double_blocks.*.img_mod.lin
transformer_blocks.*.norm1_context.linear double_blocks.*.txt_mod.lin
transformer_blocks.*.attn.to_q double_blocks.*.img_attn.qkv 0
transformer_blocks.*.attn.to_k double_blocks.*.img_attn.qkv 1
transformer_blocks.*.attn.to_v double_blocks.*.img_attn.qkv 2
transformer_blocks.*.attn.add_q_proj double_blocks.*.txt_attn.qkv 0
transformer_blocks.*.attn.add_k_proj double_blocks.*.txt_attn.qkv 1
transformer_blocks.*.attn.add_v_proj double_blocks.*.txt_attn.qkv 2
transformer_blocks.*.attn.norm_q.weight double_blocks.*.img_attn.norm.query_norm.scale
transformer_blocks.*.attn.norm_k.weight double_blocks.*.img_attn.norm.key_norm.scale
transformer_blocks.*.attn.norm_added_q.weight double_blocks.*.txt_attn.norm.query_norm.scale
transformer_blocks.*.attn.norm_added_k.weight double_blocks.*.txt_attn.norm.key_norm.scale
transformer_blocks.*.attn.to_out.0 double_blocks.*.img_attn.proj
transformer_blocks.*.attn.to_add_out double_blocks.*.txt_attn.proj
transformer_blocks.*.ff.net.0.proj double_blocks.*.img_mlp.0
transformer_blocks.*.ff.net.2 double_blocks.*.img_mlp.2
transformer_blocks.*.ff_context.net.0.proj double_blocks.*.txt_mlp.0
transformer_blocks.*.ff_context.net.2 double_blocks.*.txt_mlp.2
single_transformer_blocks.*.norm.linear single_blocks.*.modulation.lin
single_transformer_blocks.*.attn.to_q single_blocks.*.linear1 0
single_transformer_blocks.*.attn.to_k single_blocks.*.linear1 1
single_transformer_blocks.*.attn.to_v single_blocks.*.linear1 2
single_transformer_blocks.*.proj_mlp single_blocks.*.linear1 3
single_transformer_blocks.*.attn.norm_q.weight single_blocks.*.norm.query_norm.scale
single_transformer_blocks.*.attn.norm_k.weight single_blocks.*.norm.key_norm.scale
single_transformer_blocks.*.proj_out single_blocks.*.linear2
"""
_SD3 = """
pos_embed.pos_embed pos_embed
pos_embed.proj x_embedder.proj
time_text_embed.timestep_embedder.linear_1 t_embedder.mlp.0
time_text_embed.timestep_embedder.linear_2 t_embedder.mlp.2
time_text_embed.text_embedder.linear_1 y_embedder.mlp.0
time_text_embed.text_embedder.linear_2 y_embedder.mlp.2
context_embedder context_embedder
norm_out.linear final_layer.adaLN_modulation.1 swapped
proj_out final_layer.linear
transformer_blocks.*.norm1.linear joint_blocks.*.x_block.adaLN_modulation.1
transformer_blocks.*.norm1_context.linear joint_blocks.*.context_block.adaLN_modulation.1
transformer_blocks.*.attn.to_q joint_blocks.*.x_block.attn.qkv 0
transformer_blocks.*.attn.to_k joint_blocks.*.x_block.attn.qkv 1
transformer_blocks.*.attn.to_v joint_blocks.*.x_block.attn.qkv 2
transformer_blocks.*.attn.norm_q joint_blocks.*.x_block.attn.ln_q
transformer_blocks.*.attn.norm_k joint_blocks.*.x_block.attn.ln_k
transformer_blocks.*.attn.to_out.0 joint_blocks.*.x_block.attn.proj
transformer_blocks.*.attn2.to_q joint_blocks.*.x_block.attn2.qkv 0
transformer_blocks.*.attn2.to_k joint_blocks.*.x_block.attn2.qkv 1
transformer_blocks.*.attn2.to_v joint_blocks.*.x_block.attn2.qkv 2
transformer_blocks.*.attn2.norm_q joint_blocks.*.x_block.attn2.ln_q
transformer_blocks.*.attn2.norm_k joint_blocks.*.x_block.attn2.ln_k
transformer_blocks.*.attn2.to_out.0 joint_blocks.*.x_block.attn2.proj
transformer_blocks.*.attn.add_q_proj joint_blocks.*.context_block.attn.qkv 0
transformer_blocks.*.attn.add_k_proj joint_blocks.*.context_block.attn.qkv 1
transformer_blocks.*.attn.add_v_proj joint_blocks.*.context_block.attn.qkv 2
transformer_blocks.*.attn.norm_added_q joint_blocks.*.context_block.attn.ln_q
transformer_blocks.*.attn.norm_added_k joint_blocks.*.context_block.attn.ln_k
transformer_blocks.*.attn.to_add_out joint_blocks.*.context_block.attn.proj
transformer_blocks.*.ff.net.0.proj joint_blocks.*.x_block.mlp.fc1
transformer_blocks.*.ff.net.2 joint_blocks.*.x_block.mlp.fc2
transformer_blocks.*.ff_context.net.0.proj joint_blocks.*.context_block.mlp.fc1
transformer_blocks.*.ff_context.net.2 joint_blocks.*.context_block.mlp.fc2
"""
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def layout_of(denoiser: Any, keys: Iterable[str]) -> Layout:
    """How a denoiser is laid out for programs that read original checkpoints.

    Args:
        denoiser: of any class; those without rules keep diffusers' names.
        keys: of its state dict.
    """
    keys = list(keys)
    kind = type(denoiser).__name__
    architecture, rules = _CLASSES[kind](denoiser.config) if kind in _CLASSES else (kind, [])
    tensors = _grouped(rules, keys)
    if tensors is None:
        return Layout(architecture, tuple(Original(key, (key,)) for key in keys), False)
    return Layout(architecture, tensors, True)


def _grouped(rules: list[_Rule], keys: list[str]) -> tuple[Original, ...] | None:
    """The tensors of an original checkpoint; None if a key fits no rule."""
    found: dict[str, dict[str, str]] = {}
    compiled = [(re.compile(rf"{pattern}(\.weight|\.bias|)"), name, place) for pattern, name, place in rules]
    for key in keys:
        matches = ((pattern.fullmatch(key), name, place) for pattern, name, place in compiled)
        match, name, place = next((found for found in matches if found[0]), (None, "", ""))
        if match is None:
            return None
        found.setdefault(f"{match.expand(name)}{match[match.lastindex or 0]}", {})[place] = key
    return tuple(
        Original(name, tuple(parts[place] for place in sorted(parts)), _SWAPPED in parts)
        for name, parts in found.items()
    )


def _read(rules: str) -> list[_Rule]:
    """Lines of ``diffusers' name, original name, place``; a star is any number."""
    read = []
    for line in rules.split("\n")[1:-1]:
        ours, theirs, place = f"{line} ".split(" ", 2)
        pattern = re.escape(ours).replace(r"\*", r"(\d+)")
        read.append((pattern, theirs.replace("*", r"\1"), place.strip()))
    return read


def _flux(config: Mapping[str, Any]) -> tuple[str, list[_Rule]]:
    return "flux", _read(_FLUX)


def _sd3(config: Mapping[str, Any]) -> tuple[str, list[_Rule]]:
    """The context of the last block is modulated as the output is, with scale before shift in diffusers."""
    last = config["num_layers"] - 1
    ours, theirs = f"transformer_blocks.{last}.norm1_context.linear", f"joint_blocks.{last}.context_block"
    return "sd3", [(re.escape(ours), f"{theirs}.adaLN_modulation.1", _SWAPPED), *_read(_SD3)]


def _unet(config: Mapping[str, Any]) -> tuple[str, list[_Rule]]:
    """Latent Diffusion's U-Net: blocks are counted through, with resnet, attention and sampling as parts."""
    large = config.get("addition_embed_type") == "text_time"
    layers = config["layers_per_block"]
    embedding = "add_embedding" if large else "class_embedding"
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        f"{embedding}.linear_1": "label_emb.0.0",
        f"{embedding}.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for stage in range(len(config["block_out_channels"]) if isinstance(layers, int) else 0):
        first = stage * (layers + 1)
        for layer in range(layers):
            names[f"down_blocks.{stage}.resnets.{layer}"] = f"input_blocks.{first + layer + 1}.0"
            names[f"down_blocks.{stage}.attentions.{layer}"] = f"input_blocks.{first + layer + 1}.1"
        names[f"down_blocks.{stage}.downsamplers.0.conv"] = f"input_blocks.{first + layers + 1}.0.op"
        for layer in range(layers + 1):
            names[f"up_blocks.{stage}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            names[f"up_blocks.{stage}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        part = 2 if "Attn" in config["up_block_types"][stage] else 1
        names[f"up_blocks.{stage}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{part}.conv"
    rules = []
    for ours, theirs in names.items():
        pattern, name = re.escape(ours), f"model.diffusion_model.{theirs}"
        if ".resnets." in ours:
            rules += [(rf"{pattern}\.{part}", f"{name}.{their}", "") for part, their in _RESNET.items()]
        elif ".attentions." in ours:
            rules.append((rf"{pattern}\.(.+?)", rf"{name}.\1", ""))
        else:
            rules.append((pattern, name, ""))
    return "sdxl" if large else "sd1", rules


_CLASSES: dict[str, Callable[[Mapping[str, Any]], tuple[str, list[_Rule]]]] = {
    "FluxTransformer2DModel": _flux,
    "SD3Transformer2DModel": _sd3,
    "UNet2DConditionModel": _unet,
}
