"""Exported tiny denoisers for tests of what a quantized denoiser behaves like."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.tiny import tiny_pixart
from support.tiny_pipelines import tiny_unet
from torch import nn

from qsd.bank import Bank, build_bank
from qsd.export.write import export
from qsd.quantizers import parse_options

OPTIONS = ("uaq-3", "kmeans_c-4", "kmeans_a-5", "uaq-8")


def exported(folder: Path, family: str = "pixart") -> Path:
    """The folder of a tiny denoiser in which every option of :data:`OPTIONS` occurs."""
    denoiser: Any = tiny_pixart() if family == "pixart" else tiny_unet()
    bank = build_bank(denoiser, parse_options(OPTIONS))
    return export(denoiser, bank, mixed(bank), folder).path


def mixed(bank: Bank) -> np.ndarray:
    """A config in which every option occurs."""
    order = np.random.default_rng(0).permutation(len(bank.options))
    return np.resize(order, len(bank.layers)).astype(np.int8)


@torch.no_grad()
def forward(denoiser: nn.Module, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Output for inputs in a dtype."""
    cast = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs.items()
    }
    return denoiser(**cast, return_dict=False)[0]
