"""Where a denoiser keeps what calibration found for the inputs of its layers: buffers that its file holds."""

import dataclasses

import torch
from torch import Tensor, nn

from qsd.quantizers.activations import ActivationOption, Calibration

HOLDER = "activation_ranges"
"""Submodule of a layer that holds what calibration found."""


class Holder(nn.Module):
    """Numbers of calibration, float32 as the integers that have their bits, so that no cast changes them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def read(self, part: int, option: ActivationOption) -> Calibration:
        """What was stored for an option of a part of the layer's input channels."""
        found = {
            kind: self.get_buffer(buffer_name(part, option, kind)).view(torch.float32)
            for kind in ("span", "divisors")
            if buffer_name(part, option, kind) in self._buffers
        }
        return Calibration(**found)


@dataclasses.dataclass(frozen=True)
class Stored:
    """The calibration of a layer of a loaded denoiser."""

    holder: Holder
    part: int

    def calibration(self, option: ActivationOption) -> Calibration:
        return self.holder.read(self.part, option)


def buffer_name(part: int, option: ActivationOption, kind: str) -> str:
    """The name of a number: part of the module's input channels, option, ``span`` or ``divisors``."""
    return f"{part}_{option}_{kind}"
