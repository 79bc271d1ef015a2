"""Whether a bank or a store is of the denoiser, layers, options and codes that a ranker was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qsd.bank import Bank
from qsd.denoisers.identity import describe, differing_part
from qsd.denoisers.layers import WeightLayer
from qsd.quantizers.options import Option
from qsd.ranker.joint import weight_options
from qsd.store import Header
from qsd.support.errors import QsdError


class Described(Protocol):
    """What a bank and the header of a store both say about themselves."""

    @property
    def denoiser(self) -> dict[str, Any]: ...
    @property
    def layers(self) -> list[WeightLayer]: ...
    @property
    def options(self) -> tuple[Option, ...]: ...
    @property
    def activation_options(self) -> Sequence[object]: ...


def check_same(folder: Path, header: Header, other: Described, file: str | Path) -> None:
    """Refuses a bank or the header of a store that a ranker was not trained for.

    Args:
        folder: the ranker's, for the message.
        header: what it was trained on.
        other: the bank or header.
        file: where that comes from, for the message.

    Raises:
        QsdError: another option table, another denoiser, other layers or other codes.
    """
    activations = tuple(map(str, other.activation_options))
    if activations != header.activation_options:
        raise QsdError(
            f"{file}: its activation options are {', '.join(activations)}, but the ranker {folder} was "
            f"trained on {', '.join(header.activation_options)}; use files of one table"
        )
    options = weight_options(header)
    theirs = weight_options(other) if isinstance(other, Header) else tuple(other.options)
    unknown = [str(option) for option in theirs if option not in options]
    if unknown and not isinstance(other, Header):
        raise QsdError(
            f"{file}: {', '.join(unknown)} neither labeled nor probed in the store that the ranker {folder} "
            "learned from; run `qsd probe` with this bank, train again, or `qsd bank --drop` them"
        )
    if theirs != options and isinstance(other, Header):
        raise QsdError(
            f"{file}: its options are {', '.join(map(str, theirs))}, but the ranker {folder} was "
            f"trained on {', '.join(map(str, options))}; use files of one option table"
        )
    if part := differing_part(header.denoiser, other.denoiser):
        raise QsdError(
            f"{file}: made for {describe(other.denoiser)}, but the ranker {folder} was trained for "
            f"{describe(header.denoiser)} (another {part}); use files of one denoiser"
        )
    layers, others = ([layer.name for layer in one.layers] for one in (header, other))
    if layers != others:
        raise QsdError(
            f"{file}: its weight layers differ from those of the ranker {folder} "
            f"({len(others)} and {len(layers)}); make both with one version of qsd"
        )
    _check_same_codes(folder, header.conditions.get("bank"), other, file)


def _check_same_codes(
    folder: Path, learned: Mapping[str, str] | None, other: Described, file: str | Path
) -> None:
    """Equal options of equal denoisers may still have other codes, if another quantizer made the bank."""
    codes = other.option_hashes() if isinstance(other, Bank) else getattr(other, "conditions", {}).get("bank")
    for option, found in (codes or {}).items():
        if (learned or {}).get(option, found) != found:
            raise QsdError(
                f"{file}: its codes of {option} are not those that the ranker {folder} learned from; "
                "use the bank that its store was labeled with, or label a store of this one"
            )
