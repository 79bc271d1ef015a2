"""Rounds the operands of attention products while an attention module runs, however it computes them."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qsd.quantizers.activations import Rounding, round_probabilities
from qsd.support.errors import QsdError

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_BATCHED = 3  # axes at least; layers in it rotate by, and dequantize with, matrices
_PRODUCTS = {torch.bmm, Tensor.bmm, torch.matmul, Tensor.matmul, Tensor.__matmul__}


class RoundedAttention(TorchFunctionMode):
    """Replaces attention products by products of rounded operands, as long as it is active.

    It sees what an attention processor calls: ``scaled_dot_product_attention`` (the processors of today,
    joint attention included), or a product, a softmax and a product (diffusers' ``AttnProcessor``, sliced
    attention). Queries, keys and values are rounded token by token, probabilities to 8 bits with zero point
    0.

    Args:
        name: of the attention module, for messages.
        query, key, value: how each is rounded; None leaves it as it is.
    """

    def __init__(
        self, name: str, query: Rounding | None, key: Rounding | None, value: Rounding | None
    ) -> None:
        super().__init__()
        self._name = name
        self._query, self._key, self._value = (part or _unchanged for part in (query, key, value))
        self._has_probabilities = False
        self._seen = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._seen += 1
            return self._attend(*args, **kwargs)
        if func in _SOFTMAX:
            self._has_probabilities = True
            return round_probabilities(func(*args, **kwargs))
        if func in _PRODUCTS and len(args) == 2 and min(args[0].ndim, args[1].ndim) >= _BATCHED:
            return func(*self._operands(*args), **kwargs)
        if func is torch.baddbmm and len(args) == 3:
            return func(args[0], *self._operands(*args[1:]), **kwargs)
        return func(*args, **kwargs)

    def finish(self) -> None:
        """Called after the module has run.

        Raises:
            QsdError: no attention product was seen.
        """
        if not self._seen:
            raise QsdError(
                f"{self._name}: computes attention by an operation that qsd cannot round; choose diffusers' "
                "native attention (set_attention_backend('native')) or option 16 for its q, k and v"
            )

    def _operands(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        self._seen += 1
        if self._has_probabilities:
            self._has_probabilities = False
            return left, self._value(right)
        return self._query(left), self._key(right.mT).mT

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        query, key, value = self._query(query), self._key(key), self._value(value)
        if enable_gqa:
            copies = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(copies, dim=-3) for part in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
        probabilities = scores.softmax(dim=-1, dtype=torch.float32)
        if is_causal or attn_mask is not None:
            probabilities = probabilities.nan_to_num(0.0)  # of a query that may look at nothing
        return round_probabilities(probabilities).to(value.dtype) @ value


def _unchanged(values: Tensor) -> Tensor:
    return values
