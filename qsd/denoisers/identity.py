"""What makes a denoiser, or any other component of a pipeline, this one and no other: its content.

Values are hashed by the name they have in the state of a module, each name by itself, so that equal weights
and shared ones (:func:`qsd.denoisers.layers.tie_equal_weights`) are the same. Paths, the layout of files and
the way of loading do not count.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qsd.denoisers.components import class_name, num_parameters, parts_of
from qsd.support.errors import QsdError
from qsd.support.hashing import array_hash, json_hash

StateHashes = Mapping[str, Mapping[str, str]]
_ROUNDED = {"float16_hash": torch.float16, "bfloat16_hash": torch.bfloat16}
_FORMS = {"weights_hash": torch.float32, **_ROUNDED}
_NO_CONTENT = (
    *("transformers_version", "dtype", "torch_dtype", "architectures"),
    *("image_processor_type", "data_format", "input_data_format", "device", "return_tensors"),
    "disable_grouping",
)
_BACKENDS = ("Fast", "Pil")  # of one processor: which one transformers takes depends on torchvision
_PARTS = {
    "class": "class",
    "config_hash": "configuration",
    "num_parameters": "number of parameters",
    "weights_hash": "weights",
}


def identity(denoiser: nn.Module, hashes: StateHashes | None = None) -> dict[str, Any]:
    """What makes a denoiser this one and no other.

    Args:
        denoiser: at full precision (no config applied).
        hashes: of its state, where they are known already: the denoiser may then be on the meta device.

    Returns:
        ``class``; ``num_parameters``, every name of a tied one counted; ``config_hash``, of its configuration
        without the facts of one file or version; ``weights_hash``, of the names, shapes and values in float32
        of its state; ``float16_hash`` and ``bfloat16_hash``, of the values as they are once it is loaded in
        these types. By the last two, :func:`same_denoiser` knows a checkpoint that was loaded in 16 bits for
        the one it was rounded from, although the values differ.
    """
    hashes = hashes or state_hashes(denoiser)
    return {
        "class": class_name(denoiser),
        "num_parameters": num_parameters(denoiser),
        "config_hash": json_hash({name: config_hash(part) for name, part in parts_of(denoiser).items()}),
        **{form: json_hash({name: forms[form] for name, forms in hashes.items()}) for form in _FORMS},
    }


def state_hashes(denoiser: nn.Module, read: Callable[[str], torch.Tensor] | None = None) -> StateHashes:
    """Hashes of the values of a denoiser's state, name by name.

    Args:
        denoiser: its parameters and the buffers that it saves count.
        read: gives the value of a name; by default the denoiser has it.

    Returns:
        Name -> form (``weights_hash``, ``float16_hash``, ``bfloat16_hash``) -> hash.
    """
    state = {name: value for name, value in denoiser.state_dict().items() if isinstance(value, torch.Tensor)}

    def of(name: str) -> dict[str, str]:
        value = state[name] if read is None else read(name)
        return {
            form: _tensor_hash(value, torch.float32 if keeps_float32(denoiser, name) else dtype)
            for form, dtype in _FORMS.items()
        }

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter lock
        return dict(zip(state, pool.map(of, state), strict=True))


def keeps_float32(denoiser: nn.Module, name: str) -> bool:
    """Whether diffusers loads a value of the state in float32 whatever type is asked for."""
    parts = parts_of(denoiser)
    prefix = "" if "" in parts else name.partition(".")[0]
    kept = getattr(parts[prefix], "_keep_in_fp32_modules", None) or ()
    return any(word in kept for word in name.removeprefix(f"{prefix}.").split("."))


def same_denoiser(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are of one checkpoint: equal, or one the other rounded to 16 bits."""
    return differing_part(one, other) is None


def differing_part(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """In what two denoisers differ (class, configuration or weights), None if they are one checkpoint."""
    for key, part in _PARTS.items():
        if one.get(key) != other.get(key) and not (key == "weights_hash" and _rounds(one, other)):
            return part
    return None


def check_same_denoiser(expected: Mapping[str, Any], found: Any, file: str | Path) -> None:
    """Refuses a file that was made for another denoiser.

    Args:
        expected: identity of the denoiser at hand.
        found: identity that the file carries.
        file: its name.

    Raises:
        QsdError: the identities differ, or what the file carries is none; names the file, both denoisers,
            and in what they differ.
    """
    if not isinstance(found, Mapping):
        raise QsdError(f"{file}: its 'denoiser' is {found!r}, no identity of one; make the file again")
    if part := differing_part(expected, found):
        if "config_hash" in expected and "config_hash" not in found:
            raise QsdError(f"{file}: made by an older qsd, whose identity says less; make it again")
        raise QsdError(
            f"{file}: made for {describe(found)}, but this denoiser is {describe(expected)} "
            f"(another {part}); use the file's own denoiser or make the file again"
        )


def describe(denoiser: Mapping[str, Any]) -> str:
    """A denoiser in a few words, for messages."""
    return f"{denoiser.get('class')} with weights {str(denoiser.get('weights_hash'))[:8]}"


def component_identity(component: Any) -> dict[str, str]:
    """What decides how a component of a pipeline (a scheduler, an encoder, a tokenizer, ...) behaves.

    Args:
        component: what diffusers or transformers loaded.

    Returns:
        ``class``; ``config``, a hash; of a module ``weights``, a hash of its state as it is, and ``dtype``;
        of a tokenizer ``vocabulary``, a hash.
    """
    name = type(component).__name__
    for backend in _BACKENDS:
        name = name.removesuffix(backend)
    facts = {"class": name, "config": config_hash(component)}
    if isinstance(component, nn.Module):
        types = {str(p.dtype).removeprefix("torch.") for p in component.parameters() if p.is_floating_point()}
        facts |= {"weights": weights_hash(component), "dtype": "+".join(sorted(types))}
    elif hasattr(component, "get_vocab"):
        facts["vocabulary"] = _vocabulary_hash(component)
    return facts


def weights_hash(module: nn.Module) -> str:
    """Hash of the state of a module by name, buffers that it saves included; floats in float32.

    Parameters that transformers found in no file and drew at random (such as the pooler of an encoder that
    was saved without one) are no content: they differ from one loading to the next.
    """
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    for name in _made_up(module):
        state.pop(name, None)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(lambda value: _tensor_hash(value, torch.float32), state.values())
        return json_hash(dict(zip(state, hashes, strict=True)))


def config_hash(component: Any) -> str:
    """Hash of a configuration (of diffusers or transformers), without the facts of one file or version."""
    config = getattr(component, "config", None)
    source = config if config is not None else component
    to_dict: Callable[[], dict[str, Any]] | None = getattr(source, "to_dict", None)
    plain = to_dict() if callable(to_dict) else source if isinstance(source, Mapping) else {}
    return json_hash(_content(plain))


def _rounds(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the weights of one are those of the other, rounded."""
    return any(
        fine.get(name) is not None and fine.get(name) == coarse.get("weights_hash")
        for fine, coarse in ((one, other), (other, one))
        for name in _ROUNDED
    )


def _made_up(module: nn.Module) -> list[str]:
    """Names of parameters that no file had, where transformers marked those that one had."""
    marked = {
        name: hasattr(parameter, "_is_hf_initialized")
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
    return [name for name, found in marked.items() if not found] if any(marked.values()) else []


def _tensor_hash(value: torch.Tensor, rounded_to: torch.dtype) -> str:
    value = value.detach().cpu()
    return array_hash((value.to(rounded_to).float() if value.is_floating_point() else value).numpy())


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {str(key): inner for key, inner in value.items()}
        return {
            key: _content(inner)
            for key, inner in kept.items()
            if inner is not None and not key.startswith("_") and key not in _NO_CONTENT
        }
    if isinstance(value, list | tuple):
        return [_content(inner) for inner in value]
    is_plain = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else str(value)


def _vocabulary_hash(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    # what the last call padded and cut is no content
    rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    return json_hash([rules, tokenizer.model_max_length])
