"""From a weight to its quantized forms, one per option."""

import importlib.util
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from qsd.quantizers.option import Option, Rows
from qsd.quantizers.weight import QuantizedWeight
from qsd.support.errors import QsdError

BACKENDS = ("numba", "torch")


def quantize(
    weight: Tensor, options: Sequence[Option], *, name: str = "weight", method_backend: str | None = None
) -> dict[Option, QuantizedWeight]:
    """Quantizes one weight in each of several options, sharing the work that they have in common.

    Uses one thread, and leaves the interpreter to others while it computes.

    Args:
        weight: float16, bfloat16 or float32, shape [O, I] (Linear) or [O, I, ...] (convolution), any device.
        options: What to make; the order does not matter.
        name: Name of the layer, for error messages.
        method_backend: "numba" (compiled, exact, CPU) or "torch" (any device, k-means within 1 % of the
            optimum); by default numba where it is installed and the weight is on the CPU.

    Returns:
        A quantized weight per option that can store this shape, on the device of ``weight``.

    Raises:
        QsdError: If the weight is not finite, is empty, or has another type or fewer than two dimensions.
    """
    compiled = _is_compiled(weight, method_backend)
    shape = tuple(weight.shape)
    rows = Rows(_finite_rows(weight.detach(), name), shape, storage_dtype(weight), compiled)
    by_class: dict[type[Option], list[Option]] = {}
    for option in options:
        if option.accepts(shape):
            by_class.setdefault(type(option), []).append(option)
    found: dict[Option, QuantizedWeight] = {}
    for found_class, wanted in by_class.items():
        for option, tensors in found_class.quantize_together(wanted, rows).items():
            found[option] = QuantizedWeight(option, shape, tensors)
    return found


def quantize_all(
    weights: Iterable[tuple[str, Tensor]],
    options: Sequence[Option],
    *,
    threads: int = 1,
    method_backend: str | None = None,
) -> Iterator[tuple[str, dict[Option, QuantizedWeight]]]:
    """Quantizes many weights, ``threads`` of them at a time.

    Args:
        weights: Names and weights, taken one by one as threads become free.
        options: As for :func:`quantize`.
        threads: Number of threads.
        method_backend: As for :func:`quantize`.

    Yields:
        Name and quantized forms, in the order of ``weights``.
    """
    if threads == 1:  # in this very thread: one heap, and nothing prepared ahead
        for name, weight in weights:
            yield name, quantize(weight, options, name=name, method_backend=method_backend)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[str, Future[dict[Option, QuantizedWeight]]]] = deque()
        for name, weight in weights:
            job = pool.submit(quantize, weight, options, name=name, method_backend=method_backend)
            running.append((name, job))
            if len(running) > threads:
                done, job = running.popleft()
                yield done, job.result()
        for done, job in running:
            yield done, job.result()


def storage_dtype(weight: Tensor) -> torch.dtype:
    """The 16-bit type of codebooks and scales: float16, and bfloat16 where that is the weight's own type or
    where float32 values are too large or too small for float16."""
    if weight.dtype != torch.float32:
        return weight.dtype
    largest = weight.abs().max().item()
    fits = largest == 0 or 2.0**-12 <= largest <= torch.finfo(torch.float16).max
    return torch.float16 if fits else torch.bfloat16


def _is_compiled(weight: Tensor, method_backend: str | None) -> bool:
    if method_backend not in (None, *BACKENDS):
        raise QsdError(f"unknown quantizer backend '{method_backend}': use one of {', '.join(BACKENDS)}")
    if method_backend is None:
        return weight.device.type == "cpu" and importlib.util.find_spec("numba") is not None
    return method_backend == "numba"


def _finite_rows(weight: Tensor, name: str) -> Tensor:
    """The weight as float32 [O, n] after checks."""
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise QsdError(
            f"layer '{name}' has {weight.dtype} weights: convert it to float32, float16 or bfloat16"
        )
    if weight.ndim < 2 or weight.numel() == 0:
        raise QsdError(
            f"layer '{name}' has a weight of shape {tuple(weight.shape)}: only non-empty Linear and "
            "convolution weights [outputs, inputs, ...] can be quantized; leave this layer out"
        )
    rows = weight.reshape(len(weight), -1).float().contiguous()
    if not torch.isfinite(rows).all():
        raise QsdError(f"layer '{name}' has NaN or infinite weights: repair or reload the checkpoint")
    return rows
