"""Linear layers that compute in integers: 8-bit inputs, rounded on the fly, times 8-bit weights.

The arithmetic of activation option 8 (or 8h), done for real: every token x is rounded to codes a on its own
grid, x = step * (a - zero), every row of the weight to codes w, and a product of integers does the work:
x w = step * scale * (a w - zero * sum(w)). On CUDA that is ``torch._int_mm``; on the CPU it is oneDNN's
integer matrix product, which uses the instructions that a processor has for it (VNNI, AMX). Rotation and
smoothing in front of the rounding are folded into the weight.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qsd.quantizers.activations import ActivationOption, Calibrated, rotate
from qsd.runtime import int8_kernels as kernels
from qsd.support.errors import QsdError

_LEVELS = 255
_CUDA_MULTIPLE = 8  # of both sizes of a weight, for torch._int_mm
_CUDA_ROWS = 17


class Int8Linear(nn.Module):
    """A Linear layer on 8-bit weights whose input is rounded to 8 bits, token by token.

    Attributes:
        codes: int8 [O, I], the weight's rows, rotated beforehand where inputs are.
        scale: float32 [O], of the rows.
        sums: float32 [O], sums of the rows' codes.
        bias: float [O], or None.
        rotated: whether inputs are rotated before they are rounded.
        divisors: float32 [I], what inputs are divided by before they are rounded, or None.
    """

    codes: Tensor
    scale: Tensor
    sums: Tensor
    bias: Tensor | None
    divisors: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        rotated: bool = False,
        divisors: Tensor | None = None,
    ) -> None:
        """Rounds a weight.

        Args:
            weight: float [O, I]; exact where it has at most 8 bits, symmetric around 0, by row.
            bias: float [O], or None.
            rotated: rotate inputs (and the weight) by blocks.
            divisors: float [I], divide the channels of inputs (and multiply those of the weight).
        """
        super().__init__()
        rows = weight.detach().float()
        if divisors is not None:
            rows = rows * divisors.to(rows)
        if rotated:
            rows = rotate(rows)
        scale = row_scales(rows)
        codes = torch.round(rows / scale[:, None]).clamp_(-127, 127).to(torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("sums", codes.sum(dim=1, dtype=torch.int32).float())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("divisors", None if divisors is None else divisors.detach().float().clone())
        self.out_features, self.in_features = weight.shape
        self.rotated = rotated
        self._packed: Any = None

    def forward(self, values: Tensor) -> Tensor:
        """Float [..., I] to float [..., O] of the same dtype.

        Raises:
            QsdError: the input holds NaN or infinity, or is to be differentiated.
        """
        if torch.is_grad_enabled() and values.requires_grad:
            raise QsdError("int8: integers have no gradient; compute under torch.no_grad()")
        rows = values.detach().reshape(-1, self.in_features)
        if self.divisors is not None:
            rows = rows.float() / self.divisors
        codes, step, zero = round_rows(rotate(rows.float()) if self.rotated else rows)
        product = self._product(codes)
        if product.is_cuda:
            scaled = product.addcmul_(zero, self.sums, value=-1).mul_(step).mul_(self.scale)
            out = (scaled if self.bias is None else scaled.add_(self.bias)).to(values.dtype)
        else:
            bias = torch.zeros(self.out_features) if self.bias is None else self.bias.float()
            out = torch.empty(product.shape, dtype=_compiled(values.dtype))
            kernels.finish(product, step, zero, self.sums, self.scale, bias, out)
        return out.to(values.dtype).view(*values.shape[:-1], self.out_features)

    def _product(self, codes: Tensor) -> Tensor:
        """int8 [M, I] times the weight's codes, float32 [M, O]."""
        if codes.device.type != "cpu" or not _has_onednn():
            return int_mm(codes, self.codes).float()
        if self._packed is None:
            ones, zeros = torch.ones(self.out_features), torch.zeros(self.out_features, dtype=torch.int64)
            self._packed = (torch.ops.onednn.qlinear_prepack(self.codes, None), ones, zeros)
        weight, ones, zeros = self._packed
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        self._packed = None
        kept = {name: getattr(self, name) for name in ("scale", "sums", "divisors")}
        super()._apply(fn, recurse)
        for name, value in kept.items():  # stay float32
            setattr(self, name, None if value is None else value.to(self.codes.device))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along: not oneDNN's form of the codes, which is made again."""
        return self.__dict__ | {"_packed": None}

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rotated={self.rotated}"


def row_scales(rows: Tensor) -> Tensor:
    """Steps of the symmetric 8-bit grid of every row, float32 [O]; rows on a coarser grid keep theirs.

    A row that stands for codes of few bits times a scale lies on an even grid: its step is found and kept, so
    that nothing is lost. Other rows get their largest magnitude over 127.
    """
    largest = rows.abs().amax(dim=1)
    sorted_rows = rows.sort(dim=1).values
    gaps = sorted_rows.diff(dim=1) if rows.shape[1] > 1 else largest[:, None]
    tiny = largest[:, None] * 1e-4
    smallest = torch.where(gaps > tiny, gaps, torch.inf).amin(dim=1)
    codes = rows / smallest[:, None]
    on_grid = ((codes - codes.round()).abs().amax(dim=1) < 1e-2) & (codes.abs().amax(dim=1) < 127.5)
    fitted = (rows * codes.round()).sum(dim=1) / codes.round().square().sum(dim=1).clamp_min(1)
    scale = torch.where(on_grid & smallest.isfinite(), fitted, largest / 127)
    return torch.where(scale > 0, scale, 1.0)


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds every row on its own grid of 8 bits, as :func:`qsd.quantizers.activations.round_tokens` does.

    Args:
        rows: float [M, I].

    Returns:
        Codes int8 [M, I], step and zero point float32 [M, 1]: a row is about step * (codes - zero point).

    Raises:
        QsdError: a row holds NaN or infinity.
    """
    codes = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    step, zero = (torch.empty(len(rows), 1, device=rows.device) for _ in range(2))
    if not rows.is_cuda:
        finite = kernels.round_rows(rows.to(_compiled(rows.dtype)).contiguous(), codes, step, zero)
    else:
        low, high = torch.aminmax(rows.float(), dim=-1, keepdim=True)
        width = (high - low) / _LEVELS
        single = width <= torch.finfo(torch.float32).tiny
        step = torch.where(single, torch.where(low == 0, 1.0, low.abs()), width)
        first = torch.round(low / step)
        zero = -128 - first
        codes = (rows / step).round_().sub_(first + 128).clamp_(-128, 127).to(torch.int8)
        finite = bool(step.isfinite().all())
    if not finite:
        raise QsdError(
            "int8: an input holds NaN or infinity; compute in float32 or keep this layer's 16 bits"
        )
    return codes, step, zero


def int_mm(left: Tensor, right: Tensor) -> Tensor:
    """Product of int8 [M, I] and int8 [O, I] transposed, int32 [M, O], by ``torch._int_mm``.

    Sizes that CUDA's kernel does not take are filled up with zeros.
    """
    if not left.is_cuda:
        return torch._int_mm(left, right.T)
    rows, outputs = len(left), len(right)
    missing = -left.shape[1] % _CUDA_MULTIPLE
    left = nn.functional.pad(left, (0, missing, 0, max(0, _CUDA_ROWS - rows)))
    right = nn.functional.pad(right, (0, missing, 0, -outputs % _CUDA_MULTIPLE))
    return torch._int_mm(left, right.T)[:rows, :outputs]


def use_int8(
    denoiser: nn.Module,
    options: Mapping[str, ActivationOption],
    ranges: Mapping[str, Calibrated] | None = None,
) -> list[str]:
    """Replaces Linear layers of a denoiser by integer ones, in place.

    Args:
        denoiser: with the weights that shall be used, quantized or not.
        options: activation option by module path; only Linear layers with 8, 8h or 8m are replaced.
        ranges: of their inputs, by module path, for 8m.

    Returns:
        Paths of the layers replaced.

    Raises:
        QsdError: there is no such layer, or no range of its input; nothing was changed then.
    """
    replaced: dict[int, Int8Linear] = {}
    done = []
    modules = dict(denoiser.named_modules(remove_duplicate=False))
    for path, option in options.items():
        if path not in modules:
            raise QsdError(f"use_int8: there is no layer '{path}'; leave it out of `options`")
        if is_integer(option) and option.needs_ranges and path not in (ranges or {}):
            raise QsdError(f"use_int8: option {option} of layer '{path}' needs `ranges` of its input")
    for path, option in options.items():
        module = modules[path]
        if not isinstance(module, nn.Linear) or not is_integer(option):
            continue
        if id(module) not in replaced:
            divisors = (ranges or {})[path].calibration(option).divisors if option.needs_ranges else None
            replaced[id(module)] = Int8Linear(
                module.weight, module.bias, rotated=option.transform == "h", divisors=divisors
            )
        _put(denoiser, path, replaced[id(module)])
        done.append(path)
    return done


@contextlib.contextmanager
def integer_layers(
    denoiser: nn.Module,
    options: Mapping[str, ActivationOption],
    ranges: Mapping[str, Calibrated] | None = None,
) -> Iterator[list[str]]:
    """:func:`use_int8` for a while; the layers that were there come back."""
    before = {path: denoiser.get_submodule(path) for path in options}
    try:
        yield use_int8(denoiser, options, ranges)
    finally:
        for path, module in before.items():
            _put(denoiser, path, module)


def _put(denoiser: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(denoiser.get_submodule(owner), name, module)


def is_integer(option: ActivationOption) -> bool:
    """Whether an option's arithmetic is what :class:`Int8Linear` does: 8 bits by token."""
    return option.bits == 8 and not option.static


def _compiled(dtype: torch.dtype) -> torch.dtype:
    """The type that compiled loops read or write for one."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _has_onednn() -> bool:
    return hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()
