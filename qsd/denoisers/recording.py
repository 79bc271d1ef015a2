"""The arguments that a pipeline's own call gives its denoisers."""

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import nn

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.decoders import picture_mode
from qsd.denoisers.encoders import is_encoded_text
from qsd.denoisers.pictured import Parameters, as_argument, mask_name, picture_names
from qsd.support.errors import QsdError, first_line
from qsd.support.packages import missing_package
from qsd.support.quiet import quiet

LATENT_SIDE = 16
"""Side of the recorded latents, which patches and downsamplings of all pipelines divide."""

Inputs = dict[str, Any]


class _Recorded(BaseException):
    """Ends a call once all denoisers were reached. No error, so that pipelines do not catch it."""


def record_inputs(pipe: Any, name: str | None = None, **call: Any) -> dict[str, Inputs]:
    """Calls a pipeline for two steps of a tiny output and notes what its denoisers are called with.

    The call ends where the last of the denoisers is reached: with one denoiser, before it has computed
    anything. It may be on the meta device.

    Args:
        pipe: any diffusers pipeline.
        name: record this denoiser only.
        call: arguments of the pipeline's call in place of those that qsd chooses, such as ``image=``.

    Returns:
        Denoiser name -> argument name -> value, a batch of one image. Arguments are what the call gives:
        tensors, containers, flags, None.

    Raises:
        QsdError: the call fails, or a denoiser is not reached.
    """
    wanted = {key: part for key, part in denoisers_of(pipe).items() if name in (None, key)}
    found: dict[str, Inputs] = {}
    failure: Exception | None = None
    for arguments in _attempts(pipe):
        if is_encoded_text(call):
            arguments = {name: value for name, value in arguments.items() if not name.endswith("prompt")}
        try:
            found |= _call(pipe, wanted, arguments | call)
        except Exception as error:  # every pipeline has errors of its own
            failure = error  # of the attempt that gives the most
        if found.keys() == wanted.keys():
            return found
    _borrow(found, wanted)
    missing = [key for key in wanted if key not in found]
    if missing and isinstance(failure, NameError):  # diffusers leaves out imports of packages it lacks
        package = missing_package(failure)
        raise QsdError(f"{type(pipe).__name__}: {first_line(failure)}; `pip install {package}`")
    if missing:
        reason = first_line(failure) if failure else "its call never reaches it"
        reached = f", or take '{next(iter(found))}' alone (`--denoiser {next(iter(found))}`)" if found else ""
        raise QsdError(
            f"{type(pipe).__name__}: no inputs of '{missing[0]}' could be recorded ({reason}); name what the "
            "call needs as `--evaluation.images` or `--evaluation.call`, or pass inputs= (`--inputs FILE`, "
            f"which qsd.save_inputs writes), such as qsd.record_inputs(pipe, image=...){reached}"
        )
    return found


def _call(pipe: Any, wanted: Mapping[str, nn.Module], arguments: Mapping[str, Any]) -> dict[str, Inputs]:
    """What the denoisers that one call reaches are first called with."""
    found: dict[str, Inputs] = {}

    def note(key: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if key not in found:
            found[key] = first_of_batch(_by_name(module, args, kwargs))
        if found.keys() == wanted.keys():
            raise _Recorded

    with contextlib.ExitStack() as stack:
        for key, module in wanted.items():
            hook = module.register_forward_pre_hook(
                lambda module, args, kwargs, key=key: note(key, module, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        stack.enter_context(_processors_kept(wanted))
        stack.enter_context(quiet())
        stack.enter_context(_unsupervised(pipe))
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(torch.no_grad())
        with contextlib.suppress(_Recorded):
            pipe(**arguments)
    return found


@contextlib.contextmanager
def _processors_kept(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Puts back the attention processors that a pipeline sets while it draws: the call is not ended by it."""
    kept: list[tuple[Any, Any]] = [
        (module, module.processor)
        for part in parts.values()
        for module in part.modules()
        if hasattr(module, "set_processor") and hasattr(module, "processor")
    ]
    try:
        yield
    finally:
        for module, processor in kept:
            if module.processor is not processor:
                module.set_processor(processor)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Arguments of the forward by name, those in ``**kwargs`` too."""
    signature = inspect.signature(module.forward)
    named: Inputs = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def first_of_batch(inputs: Mapping[str, Any]) -> Inputs:
    """The arguments of the first image of a batch, found by the size of the first tensor's first axis.

    A pipeline that guides calls its denoiser with two images or more for each that it draws. What has a row
    a frame of a video [B, C, F, H, W] keeps those of the first.
    """
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim]
    batch = len(tensors[0]) if tensors else 1
    frames = tensors[0].shape[2] if tensors and tensors[0].ndim == 5 else 0

    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim and frames and len(value) == batch * frames:
            return value[:frames].clone()
        if isinstance(value, torch.Tensor):
            return value[:1].clone() if value.ndim and len(value) == batch else value.clone()
        if isinstance(value, list) and len(value) == batch:
            return [cut(value[0])]
        if isinstance(value, list | tuple):
            return type(value)(cut(item) for item in value)
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        return value

    return {name: cut(value) for name, value in inputs.items()} if 1 < batch <= 4 else dict(inputs)


def _borrow(found: dict[str, Inputs], wanted: Mapping[str, nn.Module]) -> None:
    """A denoiser that the call did not reach takes the inputs of one of the same class and config."""
    for key, module in wanted.items():
        if key in found:
            continue
        for other, inputs in found.items():
            twin: Any = wanted[other]
            if type(twin) is type(module) and dict(twin.config) == dict(module.config):  # type: ignore[arg-type]
                found[key] = inputs
                break


def _attempts(pipe: Any) -> Iterator[Inputs]:
    """Arguments for a call: first as little as it asks for, then its own steps, images, guidance, size."""
    accepted = inspect.signature(pipe.__call__).parameters
    side = LATENT_SIDE * int(getattr(pipe, "vae_scale_factor", None) or _spatial(pipe) or 8)
    small: Inputs = {"height": side, "width": side, "num_frames": 5, "video_length": 5, "frames": 5}
    steps: Inputs = {"num_inference_steps": 2}
    larger = small | {"height": 2 * side, "width": 2 * side, "num_frames": 9}
    sizes: list[Inputs] = [small | steps, small, larger | steps, {}]  # some calls depend on their own steps
    needed = {name for name, parameter in accepted.items() if parameter.default is parameter.empty}
    ways = itertools.product((True, False), (False, True), sizes, (False, True))
    for in_latents, guided, size, with_images in ways:
        known = _plain_arguments(pipe, guided) | size
        if not in_latents:
            del known["output_type"]
        images = _image_arguments(accepted, size.get("height", side), picture_mode(pipe))
        chosen = known | {name: value for name, value in images.items() if with_images or name in needed}
        yield {name: value for name, value in chosen.items() if name in accepted}


def _spatial(pipe: Any) -> int | None:
    return getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_spatial_scale_factor", None)


def _plain_arguments(pipe: Any, guided: bool) -> Inputs:
    text = "a photograph"
    scales = {} if guided else {"guidance_scale": 1.0, "true_cfg_scale": 1.0}
    guiding = {"negative_prompt": ""} if guided else {}
    return {
        "prompt": text,
        "class_labels": [0],
        "output_type": "latent",
        "strength": 1.0,
        "use_resolution_binning": False,
        "clean_caption": False,
        **scales,
        **guiding,
    }


def _image_arguments(accepted: Parameters, side: int, mode: str) -> Inputs:
    """Grey pictures for everything that a pipeline may edit, animate or enlarge."""
    image = Image.new(mode, (side, side), (128,) * len(mode))
    mask = Image.new("L", (side, side), 255)
    names = picture_names(accepted)
    given: Inputs = {name: as_argument(accepted[name], [image], 5) for name in names}
    masked = mask_name(accepted)
    if masked is not None:
        given[masked] = as_argument(accepted[masked], [mask], 5)
    return given | {"ip_adapter_image": None, "reference_image": image, "source_prompt": "a photograph"}


@contextlib.contextmanager
def _unsupervised(pipe: Any) -> Iterator[None]:
    """Without a progress bar."""
    before = dict(getattr(pipe, "_progress_bar_config", None) or {})
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**{"disable": False, **before})
