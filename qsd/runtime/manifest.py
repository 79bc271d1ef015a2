"""The `quantization_config` entry of an exported denoiser's config.json."""

import dataclasses
from enum import StrEnum
from typing import Any, Self

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from qsd.quantizers import Option
from qsd.support.errors import QsdError

VERSION = 1


class Method(StrEnum):
    """Diffusers reads the name of a quantization method from an enumeration."""

    QSD = "qsd"


@dataclasses.dataclass(kw_only=True)
class Manifest(QuantizationConfigMixin):
    """What is stored how in an exported denoiser.

    Attributes:
        layers: layer name -> option text, bank order; a layer that is not named is at full precision.
        segments: module path -> its ranges [start, stop] of input channels, for weights stored in parts.
        tied: name of a parameter or buffer -> name of the one that it is the same object as, which is stored.
        denoiser: identity of the full-precision denoiser.
        options: option texts of the bank's table.
        options_hash: hash of that table.
        provenance: versions, seeds, command.
        version: of this format.
        quant_method: "qsd".
    """

    layers: dict[str, str]
    segments: dict[str, list[list[int]]]
    tied: dict[str, str]
    denoiser: dict[str, Any]
    options: list[str]
    options_hash: str
    provenance: dict[str, Any]
    version: int = VERSION
    quant_method: Method = Method.QSD  # type: ignore[assignment]

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Reads the JSON form.

        Raises:
            QsdError: it is of another version, or an entry is missing or unknown.
        """
        version = config_dict.get("version")
        if version != VERSION:
            raise QsdError(
                f"config.json: exported in format version {version!r} and this qsd reads version {VERSION}; "
                "use the qsd that wrote it or export again"
            )
        entries = {key: value for key, value in config_dict.items() if key != "quant_method"}
        try:
            manifest = cls(**entries)
        except TypeError as error:
            raise QsdError(f"config.json: damaged quantization_config ({error}); export again") from error
        return (manifest, kwargs) if return_unused_kwargs else manifest

    def parts(self) -> dict[str, list[tuple[Option, tuple[int, int] | None]]]:
        """For each quantized module the option and range of input channels (None: all) of its parts.

        Raises:
            QsdError: an option does not exist, or a segment has none.
        """
        from qsd.denoisers.layers import segment_name  # diffusers imports this module while it is imported

        whole = {name: Option.parse(option) for name, option in self.layers.items()}
        found: dict[str, list[tuple[Option, tuple[int, int] | None]]] = {}
        for module, ranges in self.segments.items():
            for start, stop in ranges:
                name = segment_name(module, (start, stop))
                if name not in whole:
                    raise QsdError(f"config.json: segment '{name}' has no option; export again")
                found.setdefault(module, []).append((whole.pop(name), (start, stop)))
        return found | {name: [(option, None)] for name, option in whole.items()}
