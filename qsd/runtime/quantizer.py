"""How diffusers loads and saves a denoiser that was exported by qsd."""

import operator
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers.base import DiffusersQuantizer

from qsd.quantizers import QuantizedWeight
from qsd.runtime.layers import check_supported, quantized_layers
from qsd.runtime.manifest import Manifest
from qsd.runtime.offloading import check_present
from qsd.runtime.packed import Bits, PackedParts, PackedWeight, bits_of
from qsd.runtime.stacks import is_stack, pack, unpack, weight_shape
from qsd.runtime.state import with_weights
from qsd.support.errors import QsdError
from qsd.support.hashing import verifying
from qsd.support.tensors import tensor_hash

if TYPE_CHECKING:
    from qsd.bank.carried import Carried

_PACKED = ".packed."


class QsdQuantizer(DiffusersQuantizer):
    """Gives the empty model its runtime layers before diffusers fills in the file's tensors."""

    use_keep_in_fp32_modules = True
    quantization_config: Manifest
    _model: Callable[[], Any]

    def __init__(self, quantization_config: Manifest, **kwargs: Any) -> None:
        """Called by diffusers.

        Raises:
            QsdError: the model to load is at full precision.
        """
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise QsdError("qsd does not quantize while loading; build a bank and export the model instead")
        self._dtype = torch.float32
        self._loaded: set[str] = set()
        self._stored_dtypes: dict[str, torch.dtype] = {}
        self._parts = quantization_config.parts()
        self._tied_tensors = dict(quantization_config.tied)
        self._tied_layers: dict[str, str] = {}
        for alias, source in quantization_config.tied.items():
            layer, _, name = source.rpartition(".")
            if name == "weight" and layer in self._parts:
                self._tied_layers[alias.rpartition(".")[0]] = layer
                del self._tied_tensors[alias]

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """Remembers the dtype to compute in; float32 by default."""
        self._dtype = torch_dtype or torch.float32
        return self._dtype

    def _process_model_before_weight_loading(
        self, model: Any, keep_in_fp32_modules: list[str] | None = None, **_: Any
    ) -> None:
        kept = set(keep_in_fp32_modules or ())

        def dtype_of(path: str) -> torch.dtype:
            return torch.float32 if kept & set(path.split(".")) else self._dtype

        modules = dict(model.named_modules(remove_duplicate=False))
        for path, parts in self._parts.items():
            if path not in modules and not _has_stack(model, path):
                raise QsdError(
                    f"config.json: layer '{path}' is not in {type(model).__name__}; load the folder with the "
                    "class that its config.json names, or export again"
                )
            if path in modules:
                check_supported(modules[path], path)
            shape = weight_shape(model, path)
            weights = [
                QuantizedWeight.empty(option, _part_shape(shape, segment)) for option, segment in parts
            ]
            pack(model, path, PackedParts(weights), dtype_of(path))
        for alias, source in self._tied_layers.items():
            if modules[alias] is not modules[source]:
                pack(model, alias, modules[source].packed, dtype_of(alias))
        if (carried := self._carried()) is not None:
            carried.attach(model)
        model.register_to_config(quantization_config=self.quantization_config)

    def check_if_quantized_param(
        self, model: Any, param_value: Any, param_name: str, *_: Any, **__: Any
    ) -> bool:
        """Whether a tensor of the file belongs to a packed weight."""
        return isinstance(model.get_submodule(param_name.rpartition(".")[0]), PackedWeight)

    def check_quantized_param_shape(
        self, param_name: str, current: torch.Tensor, loaded: torch.Tensor
    ) -> bool:
        """Diffusers found a tensor of another size than config.json asks for.

        Raises:
            QsdError: always.
        """
        raise QsdError(
            f"tensor '{param_name}' has shape {tuple(loaded.shape)}, and config.json asks for "
            f"{tuple(current.shape)}; the two files do not belong together: export again"
        )

    def create_quantized_param(  # type: ignore[override]
        self,
        model: Any,
        param_value: torch.Tensor,
        param_name: str,
        target_device: torch.device,
        *_: Any,
        **__: Any,
    ) -> None:
        """Takes over bits."""
        module, _dot, name = param_name.rpartition(".")
        setattr(model.get_submodule(module), name, Bits(param_value.to(target_device)))

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Remembers what the file holds."""
        self._loaded = set(loaded_keys)
        return loaded_keys

    def maybe_update_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Gives packed tensors to diffusers as bits, which it does not cast; remembers their types."""
        for key, tensor in state_dict.items():
            noted = self.quantization_config.hash_of(key)
            if noted is not None and verifying() and tensor_hash(tensor) != noted:
                raise QsdError(f"tensor '{key}' differs from its hash (damaged); export again")
            if _PACKED in key:
                self._stored_dtypes[key] = tensor.dtype
                state_dict[key] = bits_of(tensor)
        return state_dict

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """Tied tensors are not in the file; everything else must be, and nothing more.

        Raises:
            QsdError: a tensor is missing, or is nobody's.
        """
        extra = sorted(self._loaded - set(model.state_dict()))
        if extra:
            raise QsdError(f"tensor '{extra[0]}' of the safetensors file is not in config.json; export again")
        missing = sorted(key for key in missing_keys if not self._is_tied(key))
        if missing:
            raise QsdError(f"tensor '{missing[0]}' is missing from the safetensors file; export again")
        return []

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        for alias, source in self._tied_tensors.items():
            owner, _dot, name = alias.rpartition(".")
            setattr(model.get_submodule(owner), name, operator.attrgetter(source)(model))
        for path, module in model.named_modules():
            if isinstance(module, PackedWeight):
                for name in module.stored_dtypes:
                    dtype = self._stored_dtypes[f"{path}.{name}"]
                    module.stored_dtypes[name] = str(dtype).removeprefix("torch.")
                try:
                    module.quantized()
                except QsdError as error:
                    raise QsdError(f"layer '{path.partition(_PACKED)[0]}': {error}") from error
        if (carried := self._carried()) is not None:
            carried.start(model)
        # Diffusers' word for "must not be cast": a cast changes the type that weights are dequantized to.
        model.is_quantized = False
        self._model = weakref.ref(model)
        model._register_state_dict_hook(with_weights)

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What ``save_pretrained`` writes: tied tensors once, tables in their own types."""
        stored = {
            f"{path}.{name}": tensor
            for path, module in self._model().named_modules()
            if isinstance(module, PackedWeight)
            for name, tensor in module.stored().items()
        }
        return {
            key: stored.get(key, value) for key, value in state_dict.items() if not self._is_tied(key)
        }, {}

    def _carried(self) -> "Carried | None":
        """What the export says of activations."""
        from qsd.bank.carried import Carried  # diffusers imports this module while it is imported

        entry = self.quantization_config.activations
        return None if entry is None else Carried.from_json(entry)

    def _dequantize(self, model: Any) -> Any:
        from qsd.bank.carried import stop

        check_present(model, "dequantize", unmoved=True)
        stop(model)
        unpack(model)
        settings = {key: value for key, value in model.config.items() if key != "quantization_config"}
        model._internal_dict = FrozenDict(settings)  # diffusers has no way to take an entry back
        return model

    def _is_tied(self, key: str) -> bool:
        prefixes = tuple(f"{alias}{_PACKED}" for alias in self._tied_layers)
        return key in self._tied_tensors or key.startswith(prefixes)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is of the model that is copied with it."""
        return self.__dict__ | {"_model": self._model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if (model := state["_model"]) is not None:
            self._model = weakref.ref(model)

    @property
    def is_serializable(self) -> bool:
        """``save_pretrained`` writes the packed form; it asks before it touches a file.

        Raises:
            QsdError: a weight was edited in place, which the packed form cannot hold, or is offloaded, or the
                layer is another one by now.
        """
        check_present(self._model(), "save_pretrained")
        layers = quantized_layers(self._model())
        edited = [name for name, layer in layers.items() if layer.packed.edited is not None]
        if edited:
            raise QsdError(
                f"layer '{edited[0]}' was edited in place, and its packed weight was not: save the model "
                "after model.dequantize(), or take the edits back by qsd.discard_edits(model)"
            )
        replaced = [path for path in self._parts if path not in layers]
        if replaced:
            raise QsdError(
                f"layer '{replaced[0]}' was wrapped or replaced (by an adapter or use_int8, for example), so "
                "that nobody could open what would be saved: save the model before, or unload adapters"
            )
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes have no gradient."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Dequantizing is one node of a compiled graph."""
        return True


def _has_stack(model: Any, path: str) -> bool:
    owner = path.rpartition(".")[0]
    return owner in dict(model.named_modules()) and is_stack(model, path)


def _part_shape(shape: tuple[int, ...], segment: tuple[int, int] | None) -> tuple[int, ...]:
    return shape if segment is None else (shape[0], segment[1] - segment[0], *shape[2:])
