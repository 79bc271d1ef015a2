"""A recipe as the arguments of other programs, which quantize weights again with rounding of their own."""

import json
import re
from collections.abc import Sequence
from typing import Any

from qsd.denoisers.layers import WeightLayer
from qsd.export.original import Layout
from qsd.quantizers import Option

Chosen = Sequence[tuple[WeightLayer, Option]]


def renderings(chosen: Chosen, layout: Layout) -> dict[str, str]:
    """File name -> text; a program that lacks a type of the recipe, or splits no weights, is left out.

    ``tensor-type-rules.txt`` follows ``--tensor-type-rules`` of stable-diffusion.cpp, ``tensor-type.txt`` has
    one ``--tensor-type`` of llama-quantize a line. Both speak of tensors by their names in the original
    checkpoint, where the class has one. ``sdnq.json`` has the arguments of sdnq's ``SDNQConfig`` that name
    modules, ``torchao.json`` what torchao's ``config_from_dict`` makes a ``FqnToConfig`` of.

    Args:
        chosen: layers and their options.
        layout: of the denoiser's tensors.
    """
    if any(layer.segment for layer, _ in chosen):
        return {}
    held = frozenset.intersection(*(option.carriers for _, option in chosen))
    return (
        (_gguf(chosen, layout) if "gguf" in held else {})
        | (_sdnq(chosen) if "sdnq" in held else {})
        | _torchao(chosen)
    )


def sdnq_settings(option: Option) -> dict[str, Any]:
    """What sdnq calls an option of which :attr:`qsd.quantizers.Option.carriers` names it."""
    traits = option.traits
    if traits.grid == "float" and int(traits.bits) == 8:
        return {"weights_dtype": "float8_e4m3fn", "use_codebook": False, "group_size": -1}
    codebook = traits.grid != "uniform"
    return {
        "weights_dtype": f"uint{int(traits.bits)}",
        "use_codebook": codebook,
        "group_size": traits.group or (-2 if codebook and traits.scope == "tensor" else -1),
    }


def torchao_settings(option: Option) -> dict[str, Any] | None:
    """The configuration of torchao for an option; None if it has none."""
    traits = option.traits
    if traits.rotated or traits.rank:
        return None
    if traits.grid == "float" and int(traits.bits) == 8:
        granularity = ("PerRow", {"dim": -1}) if traits.scope == "row" else ("PerTensor", {})
        return _torchao_object(
            "Float8WeightOnlyConfig",
            2,
            {
                "weight_dtype": _torchao_object("torch.dtype", None, "float8_e4m3fn"),
                "granularity": _torchao_object(granularity[0], 1, granularity[1]),
            },
        )
    if traits.grid != "uniform" or "sdnq" not in option.carriers:
        return None
    grouped = ("PerGroup", {"group_size": traits.group}) if traits.group else ("PerAxis", {"axis": 0})
    return _torchao_object(
        "IntxWeightOnlyConfig",
        2,
        {
            "weight_dtype": _torchao_object("torch.dtype", None, f"int{int(traits.bits)}"),
            "granularity": _torchao_object(grouped[0], 1, grouped[1]),
            "mapping_type": _torchao_object(
                "MappingType", None, "SYMMETRIC" if traits.symmetric else "ASYMMETRIC"
            ),
        },
    )


def _torchao_object(kind: str, version: int | None, data: str | dict[str, Any]) -> dict[str, Any]:
    numbered = {} if version is None else {"_version": version}
    return {"_type": kind, **numbered, "_data": data}


def _torchao(chosen: Chosen) -> dict[str, str]:
    configs: dict[str, Any] = {}
    for layer, option in chosen:
        settings = None if option.traits.keep else torchao_settings(option)
        if not option.traits.keep and (settings is None or layer.kind != "linear"):
            return {}
        configs[layer.module] = settings
    return {
        "torchao.json": json.dumps(_torchao_object("FqnToConfig", 1, {"fqn_to_config": configs}), indent=2)
    }


def _sdnq(chosen: Chosen) -> dict[str, str]:
    names = [(f"{layer.module}.weight", option) for layer, option in chosen]
    arguments = {
        "modules_to_not_convert": [name for name, option in names if option.traits.keep],
        "modules_quant_config": {
            name: sdnq_settings(option) for name, option in names if not option.traits.keep
        },
    }
    return {"sdnq.json": json.dumps(arguments, indent=2)}


def _gguf(chosen: Chosen, layout: Layout) -> dict[str, str]:
    of_key = {f"{layer.module}.weight": _ggml_name(option) for layer, option in chosen}
    rules = []
    for tensor in layout.tensors:
        kinds = {of_key[key] for key in tensor.keys if key in of_key}
        if len(kinds) > 1:
            return {}
        rules += [rf"(^|\.){re.escape(tensor.name)}$={kind}" for kind in kinds]
    return {
        "tensor-type-rules.txt": ",".join(rules),
        "tensor-type.txt": "\n".join(f"--tensor-type '{rule}'" for rule in rules),
    }


def _ggml_name(option: Option) -> str:
    return "f16" if option.traits.keep else str(option).replace("_k", "_K")
