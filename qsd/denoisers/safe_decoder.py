"""Image autoencoders in float32 whatever else is in 16 bits, where many overflow or lose detail."""

import types
from typing import Any

import torch
from torch import Tensor

from qsd.denoisers.decoders import DECODERS


def keep_safe(pipe: Any, dtype: torch.dtype) -> None:
    """Lets a pipeline call its float32 autoencoders with whatever type it computes in.

    Some pipelines give an autoencoder pictures in bfloat16 even if all of their parts are in float32.

    Args:
        pipe: its :data:`qsd.denoisers.decoders.DECODERS` become float32 if they are not.
        dtype: of the rest. What an autoencoder decodes is cast to its own type; what it encodes comes back
            in ``dtype``. Weights and configuration stay as they are.
    """
    for name in DECODERS:
        autoencoder = getattr(pipe, name, None)
        if autoencoder is None:
            continue
        autoencoder.to(torch.float32)
        autoencoder.qsd_outer_dtype = dtype
        autoencoder.decode = types.MethodType(_decode, autoencoder)
        autoencoder.encode = types.MethodType(_encode, autoencoder)


def _decode(self: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
    return type(self).decode(self, _cast(z, self.dtype), *args, **kwargs)


def _encode(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    encoded = type(self).encode(self, _cast(x, self.dtype), *args, **kwargs)
    return _cast(encoded, self.qsd_outer_dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in another type, also those of a distribution or in an output of diffusers."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    if hasattr(value, "__dict__"):
        for name, item in list(vars(value).items()):
            if isinstance(item, Tensor) or hasattr(item, "__dict__"):
                setattr(value, name, _cast(item, dtype))
    return value
