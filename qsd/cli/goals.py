"""What ``qsd compress`` is asked for: how small, and how much may be drawn on the way."""

import dataclasses
import math
import re

from qsd.support.errors import QsdError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is drawn.

    Attributes:
        probe_images: per option of a layer.
        labels: random configs measured end to end; with none the search goes by the probed changes alone.
        seeds: noise seeds of the verification.
    """

    probe_images: int
    labels: int
    seeds: int


EFFORTS = {"quick": Effort(16, 0, 2), "normal": Effort(32, 50, 2), "thorough": Effort(64, 300, 3)}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What the small denoiser may be: exactly one of the three.

    Attributes:
        max_bits: average bits per weight.
        max_bytes: bytes of the weight layers.
        within: largest FID as a multiple of full precision's; the smallest config that keeps it is searched.
    """

    max_bits: float | None = None
    max_bytes: int | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in dataclasses.astuple(self) if value is not None]
        if len(given) != 1:
            raise QsdError(
                "compress: say how small, with one of --max-bits 3.5, --max-size 1.2GB, --within 1.1x"
            )
        if not math.isfinite(given[0]):
            raise QsdError(f"compress: {given[0]} is no size; give a number such as --max-bits 3.5")

    @classmethod
    def parse(cls, max_bits: float | None, max_size: str | None, within: str | None) -> "Goal":
        """The goal as people type it.

        Raises:
            QsdError: a size or a factor that is none, or not exactly one of the three.
        """
        return cls(max_bits, _bytes(max_size), _factor(within))


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?b?)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise QsdError(f"max-size {text!r}: give a size such as 1.2GB, 900MiB or 1200000")
    return int(float(match[1]) * _UNITS[match[2]])


def _factor(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        factor = float(text.lower().removesuffix("-fid").removesuffix("x"))
    except ValueError:
        factor = math.nan
    if not 1 <= factor < math.inf:
        raise QsdError(f"within {text!r}: give a multiple of full precision's FID, at least 1, such as 1.1x")
    return factor
