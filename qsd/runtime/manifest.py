"""The `quantization_config` entry of an exported denoiser's config.json."""

import dataclasses
from enum import StrEnum
from typing import Annotated, Any, Self

from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from pydantic import Field

from qsd.quantizers import Option
from qsd.support.documents import Schema, check_schema
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
        activations: how inputs of layers are rounded (:class:`qsd.bank.carried.Carried`); None: they are not.
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
    activations: dict[str, Any] | None = None
    version: int = VERSION
    quant_method: Method = Method.QSD  # type: ignore[assignment]
    _hashes: dict[str, str] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

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
        facts = check_schema(_Document, entries, "config.json: quantization_config", "export again")
        own = {key: value for key, value in entries.items() if key not in ("hashes", "hash")}
        manifest = cls(**own)
        manifest._hashes = facts.hashes
        return (manifest, kwargs) if return_unused_kwargs else manifest

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without hashes: what is saved again is not what they were taken of."""
        entries = {key: value for key, value in super().to_dict().items() if key != "_hashes"}
        if self.activations is None:
            del entries["activations"]
        return entries

    def hash_of(self, name: str) -> str | None:
        """The hash that the export noted for a tensor of its safetensors file."""
        return self._hashes.get(name)

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


class _Document(Schema):
    layers: dict[str, str]
    segments: dict[str, list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]]]
    tied: dict[str, str]
    denoiser: dict[str, Any]
    options: list[str]
    options_hash: str
    provenance: dict[str, Any]
    activations: dict[str, Any] | None = None
    version: int
    hashes: dict[str, str] = Field(default_factory=dict)
    hash: str | None = None
