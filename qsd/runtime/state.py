"""State dicts in which the weight of a packed layer can be looked up, as loaders of LoRAs do."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from qsd.runtime.layers import QuantizedLayer, quantized_layers


class StateDict(OrderedDict[str, Tensor]):
    """A state dict that also answers to ``LAYER.weight``, without holding it: what is saved is as before."""

    def __init__(self, tensors: "OrderedDict[str, Tensor]", layers: dict[str, QuantizedLayer]) -> None:
        """Takes over tensors, and the metadata that torch notes beside them."""
        super().__init__(tensors)
        self._metadata = getattr(tensors, "_metadata", None)
        self._layers = layers

    def __missing__(self, key: str) -> Tensor:
        layer, _, name = key.rpartition(".")
        if name != "weight" or layer not in self._layers:
            raise KeyError(key)
        return self._layers[layer].weight

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as torch's own, without the layers."""
        return OrderedDict, (), {"_metadata": self._metadata}, None, iter(self.items())


def with_weights(model: nn.Module, tensors: Any, prefix: str, metadata: Any) -> Any:
    """A hook of ``model.state_dict()``."""
    layers = quantized_layers(model)
    return StateDict(tensors, layers) if layers and not prefix else tensors
