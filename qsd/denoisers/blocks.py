"""Where a module stands: its repeated block and its U-Net stage."""

import re
from collections.abc import Iterable

from torch import nn

from qsd.denoisers.layers import kind_of

_STAGE = re.compile(r"^(down_blocks|mid_block|up_blocks)(?:\.(\d+))?")


def block_paths(denoiser: nn.Module) -> set[str]:
    """Paths of the blocks: innermost elements of module lists that hold two or more weight layers."""
    elements = {
        f"{path}.{index}" if path else str(index)
        for path, module in denoiser.named_modules()
        if isinstance(module, nn.ModuleList)
        for index, element in enumerate(module)
        if element is not None and sum(kind_of(child) is not None for child in element.modules()) >= 2
    }
    return {element for element in elements if not any(other.startswith(element + ".") for other in elements)}


def block_of(module: str, blocks: Iterable[str]) -> str | None:
    """The block that holds a module path, None outside of the blocks."""
    return next((block for block in blocks if module == block or module.startswith(block + ".")), None)


def stage_of(module: str) -> str | None:
    """The U-Net stage that holds a module path, None outside of the stages."""
    match = _STAGE.match(module)
    return match.group(0) if match else None
