"""What images are drawn from: prompts that are encoded once, classes, or plain text."""

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch

from qsd.denoisers.components import denoiser_of
from qsd.denoisers.encoders import attach, is_encoded_text
from qsd.evaluation.call import accepted_by, guidance_of
from qsd.evaluation.embeddings import encoded
from qsd.support.errors import QsdError
from qsd.support.packages import missing_package

Conditions = dict[str, torch.Tensor | list[Any]]
"""Keyword arguments of a pipeline's call, one row an image."""

NULL_CLASS = 1000
"""The class that ``DiTPipeline`` takes for no class, whatever the denoiser's number of classes."""


@dataclasses.dataclass(frozen=True)
class _Encoding:
    """One call of a pipeline's ``encode_prompt``.

    Attributes:
        returned: the arguments of the pipeline's call that the returned values are; None where one is not
            needed.
        arguments: what this call needs beside the arguments that all pipelines share.
        guided: whether the negative prompt is encoded beside the prompt. Guided pipelines without it are
            given plain text.
        trimmed: whether text is cut to the longest prompt: masked tokens change nothing but the time.
    """

    returned: tuple[str | None, ...]
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    guided: bool = True
    trimmed: bool = False


_PLAIN = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_PLAIN, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
_HUNYUAN = (*_PLAIN, "prompt_attention_mask", "negative_prompt_attention_mask")

_ENCODINGS: dict[str, tuple[_Encoding, ...]] = {
    "PixArtAlphaPipeline": (_Encoding(_MASKED, trimmed=True),),
    "PixArtSigmaPipeline": (_Encoding(_MASKED, trimmed=True),),
    "StableDiffusionPipeline": (_Encoding(_PLAIN),),
    "StableDiffusionXLPipeline": (_Encoding(_POOLED),),
    "StableDiffusion3Pipeline": (_Encoding(_POOLED, {"prompt_2": None, "prompt_3": None}),),
    "FluxPipeline": (_Encoding(("prompt_embeds", "pooled_prompt_embeds", None), guided=False),),
    "WanPipeline": (_Encoding(_PLAIN),),
    "HunyuanDiTPipeline": (
        _Encoding(_HUNYUAN, {"text_encoder_index": 0, "max_sequence_length": 77}),
        _Encoding(
            tuple(f"{name}_2" for name in _HUNYUAN), {"text_encoder_index": 1, "max_sequence_length": 256}
        ),
    ),
}
"""Pipelines whose text is encoded once; the others encode it again for every batch."""


def conditions_of(
    pipe: Any,
    prompts: list[str] | None,
    guidance: float,
    batch_size: int,
    max_sequence_length: int | None = None,
    call: Mapping[str, Any] | None = None,
) -> Conditions:
    """The conditions of the images of a pipeline.

    Args:
        pipe: a diffusers pipeline.
        prompts: n prompts; of a class-conditional pipeline, names that it knows or numbers of classes. None
            for a pipeline that draws from nothing, from images alone, or from text that ``call`` gives
            encoded (``prompt_embeds``).
        guidance: above 1 the negative (empty) prompt is a condition too.
        batch_size: prompts per forward pass of a text encoder.
        max_sequence_length: tokens that a prompt is padded or cut to, where the pipeline's default is not.
        call: further arguments of the pipeline's call. Where one of them is about text (``clip_skip``), text
            is encoded by that call, batch by batch.

    Returns:
        Tensors [n, ...] on the CPU, or lists of n.

    Raises:
        QsdError: the pipeline draws from text and there is none, or from no text and there is some, or a
            prompt is no class of it, or a package that cleans prompts is missing.
    """
    accepted = accepted_by(pipe)
    takes_text = "prompt" in accepted
    if prompts is None:
        if is_encoded_text(call or {}):
            attach(pipe)
        elif takes_text or _has_classes(pipe):
            raise QsdError(f"{type(pipe).__name__}: draws from prompts; name a file of them as prompts")
        return {}
    if "class_labels" in accepted and _has_classes(pipe):
        return {"class_labels": _classes(pipe, prompts, guidance)}
    _check_cleaning(pipe)
    call = call or {}
    encodings = _ENCODINGS.get(type(pipe).__name__, ())
    if encodings and not call.keys().isdisjoint(inspect.signature(pipe.encode_prompt).parameters):
        encodings = ()
    if encodings and (guidance <= 1 or all(encoding.guided for encoding in encodings)):
        how = {
            "encodings": [dataclasses.asdict(encoding) for encoding in encodings],
            "prompts": prompts,
            "guided": guidance > 1,
            "batch_size": batch_size,
            "max_sequence_length": max_sequence_length,
        }
        encode = lambda: _encoded(  # noqa: E731
            pipe, encodings, prompts, guidance > 1, batch_size, max_sequence_length
        )
        return {**encoded(pipe, how, encode)}
    attach(pipe)
    if not takes_text:
        raise QsdError(f"{type(pipe).__name__}: draws from neither prompts nor classes; leave prompts out")
    conditions: Conditions = {"prompt": prompts}
    negative = call.get("negative_prompt")
    if isinstance(negative, str):
        conditions["negative_prompt"] = [negative] * len(prompts)
    elif negative is None and guidance > 1 and _needs_negative(pipe, guidance):
        conditions["negative_prompt"] = [""] * len(prompts)  # without one such pipelines do not guide
    return conditions


def _needs_negative(pipe: Any, guidance: float) -> bool:
    guided = "true_cfg_scale" in guidance_of(pipe, guidance) or getattr(pipe, "guider", None) is not None
    return guided and "negative_prompt" in accepted_by(pipe)


def _check_cleaning(pipe: Any) -> None:
    """Refuses a pipeline whose cleaning of prompts needs a package that is not there.

    diffusers leaves out the import of such a package (ftfy) and calls it all the same.
    """
    owners: list[Any] = [*(sys.modules[cls.__module__] for cls in type(pipe).__mro__)]
    owners.append(getattr(pipe, "text_preprocessor", None))
    for clean in (getattr(owner, "basic_clean", None) for owner in owners):
        if clean is None:
            continue
        try:
            clean("a")
        except NameError as error:
            package = missing_package(error)
            raise QsdError(
                f"{type(pipe).__name__}: cleans prompts by {package}, which is not installed; "
                f"`pip install {package}`"
            ) from error


@torch.no_grad()  # not inference_mode: whether such tensors were changed cannot be told
def _encoded(
    pipe: Any,
    encodings: tuple[_Encoding, ...],
    prompts: list[str],
    guided: bool,
    batch_size: int,
    max_sequence_length: int | None,
) -> dict[str, torch.Tensor]:
    conditions: dict[str, torch.Tensor] = {}
    accepted = inspect.signature(pipe.encode_prompt).parameters
    shared = {
        "device": pipe.device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": guided,
        "max_sequence_length": max_sequence_length,
    }
    usable = {name: value for name, value in shared.items() if name in accepted and value is not None}
    for encoding in encodings:
        parts: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(prompts), batch_size):
            values = pipe.encode_prompt(
                prompt=prompts[start : start + batch_size], **usable | encoding.arguments
            )
            for name, value in zip(encoding.returned, values, strict=True):
                if name is not None and value is not None:
                    parts.setdefault(name, []).append(value.cpu())
        joined = {name: torch.cat(values) for name, values in parts.items()}
        conditions |= _trimmed(joined) if encoding.trimmed else joined
    return conditions


def _trimmed(encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut to the longest text; both prompts of a guided pair share one length."""
    used = [value.sum(1).max() for name, value in encoded.items() if name.endswith("mask")]
    tokens = int(torch.stack(used).max())
    return {name: value[:, :tokens].contiguous() for name, value in encoded.items()}


def num_classes(pipe: Any) -> int:
    """Classes that a pipeline draws from; 0 for none."""
    config: Any = denoiser_of(pipe).config
    return int(config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0)


def _has_classes(pipe: Any) -> bool:
    return "class_labels" in accepted_by(pipe) and num_classes(pipe) > 0


def _classes(pipe: Any, prompts: list[str], guidance: float) -> list[int]:
    classes = num_classes(pipe)
    if guidance > 1 and classes < NULL_CLASS and "guidance_scale" in accepted_by(pipe):
        raise QsdError(
            f"{type(pipe).__name__}: guides with class {NULL_CLASS}, and the denoiser has {classes}; "
            "set guidance to 1"
        )
    names: dict[str, int] = getattr(pipe, "labels", None) or {}
    known: dict[str, int] = {str(index): index for index in range(classes)} | names
    for prompt in prompts:
        if prompt.strip() not in known:
            raise QsdError(
                f"{prompt.strip()!r} is no class of the pipeline; prompts must be class names "
                f"({', '.join([*names][:3]) or 'it has none'}, ...) or numbers from 0 to {classes - 1}"
            )
    return [known[prompt.strip()] for prompt in prompts]
