"""The formats that ``qsd export --format`` writes, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from qsd.export.native import write_native
from qsd.export.recipe import write_recipe
from qsd.export.sdnq import write_sdnq
from qsd.support.errors import QsdError


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        write: writes the folder of a denoiser: folder, denoiser, bank, config (int8 [L]), provenance, and
            the settings of :func:`qsd.export.shards.write_shards`; returns the sizes of
            :class:`qsd.export.ExportResult`.
        plugin: what a program imports before diffusers opens it; None where diffusers does not open it.
        activations: whether it says how inputs of layers are rounded; ``write`` then takes what
            :class:`qsd.bank.carried.Carried` has, and the table of :class:`qsd.bank.ActivationTable`.
    """

    write: Callable[..., dict[str, int]]
    plugin: str | None
    activations: bool = False


FORMATS: dict[str, Format] = {
    "qsd": Format(write_native, "qsd", activations=True),
    "recipe": Format(write_recipe, None),
    "sdnq": Format(write_sdnq, "sdnq"),
}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        QsdError: there is none.
    """
    if name not in FORMATS:
        raise QsdError(f"unknown export format '{name}': use one of {', '.join(FORMATS)}")
    return FORMATS[name]
