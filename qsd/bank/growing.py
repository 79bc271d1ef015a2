"""Banks whose option table changes: new options are quantized, old weights stay as they are."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import nn

from qsd.bank.bank import Bank
from qsd.bank.building import build_bank
from qsd.denoisers.identity import check_same_denoiser, identity
from qsd.denoisers.tracing import Traced
from qsd.quantizers import Option
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

_MOST = 127


def with_options(
    bank: Bank,
    denoiser: nn.Module,
    options: Sequence[Option],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Bank:
    """A bank with more options, behind those that it has.

    Args:
        bank: its weights are kept as they are.
        denoiser: the bank's, at full precision.
        options: those that the bank has already are not quantized again.
        threads: layers quantized at a time.
        progress: called once per layer.

    Raises:
        QsdError: another denoiser, an option that no layer can take, or more than 127 options.
    """
    check_same_denoiser(identity(denoiser), bank.denoiser, "bank")
    new = [option for option in options if option not in bank.options]
    if not new:
        return bank
    if len(bank.options) + len(new) > _MOST:
        raise QsdError(f"bank: {len(bank.options) + len(new)} options; a table has at most {_MOST}")
    traced = Traced(bank.layers, bank.graph, ())
    more = build_bank(denoiser, new, traced=traced, threads=threads, progress=progress, partial=True)
    return dataclasses.replace(
        bank,
        options=(*bank.options, *new),
        weights=[[*old, *added] for old, added in zip(bank.weights, more.weights, strict=True)],
        relative_errors=np.concatenate([bank.relative_errors, more.relative_errors], axis=1),
    )


def without_options(bank: Bank, options: Sequence[Option]) -> Bank:
    """A bank without some of its options.

    Raises:
        QsdError: it has no such option, or a layer would be left without any.
    """
    for option in options:
        if option not in bank.options:
            raise QsdError(f"the bank has no option {option}; it has {', '.join(map(str, bank.options))}")
    kept = [place for place, option in enumerate(bank.options) if option not in options]
    bare = np.flatnonzero(~bank.available[:, kept].any(axis=1))
    if len(bare):
        raise QsdError(
            f"layer '{bank.layers[bare[0]].name}' can take none of the options that are left; keep another"
        )
    return dataclasses.replace(
        bank,
        options=tuple(bank.options[place] for place in kept),
        weights=[[row[place] for place in kept] for row in bank.weights],
        relative_errors=bank.relative_errors[:, kept],
    )
