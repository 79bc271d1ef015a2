"""A denoiser whose weights are read from its folder when they are asked for, so that it is never held."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from qsd.denoisers.checkpoint import Checkpoint, only_variant
from qsd.denoisers.components import denoiser_of, parts_of
from qsd.denoisers.identity import StateHashes, identity, keeps_float32, state_hashes
from qsd.denoisers.layers import parameter_path, tie_equal_weights, weight_at
from qsd.denoisers.pipeline import check_device, load_pipeline
from qsd.denoisers.recording import record_inputs
from qsd.denoisers.tracing import Traced
from qsd.denoisers.weightless import callable_without_weights, weightless_pipeline
from qsd.denoisers.whole import GraphKind, trace_whole
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find

_WEIGHTS = "weights_hash"
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a bank's weights come from.

    Attributes:
        module: the denoiser, or several; on the meta device where weights are read from files.
        identity: see :func:`qsd.denoisers.identity.identity`.
        read: gives the weight of a module by the module's path.
        streamed: whether weights are read from files and not held.
        pipe: the pipeline of the denoiser, on the meta device as far as weights are read from files.
    """

    module: nn.Module
    identity: dict[str, Any]
    read: Callable[[str], torch.Tensor]
    streamed: bool
    pipe: Any
    _whole: Callable[[], "Source"]

    def traced(
        self,
        inputs: Mapping[str, Any] | None = None,
        graph: GraphKind = "traced",
        call: Mapping[str, Any] | None = None,
    ) -> tuple["Source", Traced]:
        """The source with its weight layers and graph; see :func:`qsd.denoisers.whole.trace_whole`.

        Returns:
            (this source, or one that holds the denoiser where the call that records its inputs needs values;
            weight layers and graph).

        Raises:
            QsdError: the denoiser cannot be traced.
        """
        if self.streamed and inputs is None and graph == "traced":
            try:
                with callable_without_weights(self.pipe):
                    recorded = record_inputs(self.pipe, _only_name(self.pipe, self.module), **call or {})
                return self, trace_whole(self.module, inputs=recorded)[1]
            except QsdError as error:
                _logger.info("loaded as a whole (%s)", error)
                whole = self._whole()
                return whole, whole.traced(call=call)[1]
        given: Any = self.module if self.streamed else self.pipe
        name = None if self.streamed else _only_name(self.pipe, self.module)
        return self, trace_whole(given, denoiser=name, inputs=inputs, graph=graph, call=call)[1]


def open_source(
    pipeline: str | Path,
    *,
    denoiser: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Source:
    """Opens the denoiser of a pipeline folder, without holding its weights where the folder allows for it.

    It does where every module is of diffusers or transformers and the files hold the names and shapes that
    the denoiser's config makes. Of other pipelines the whole is loaded.

    Args:
        pipeline: as for :func:`qsd.denoisers.pipeline.load_pipeline`.
        denoiser: name of the component to restrict to.
        device: where weights are read to.
        dtype: of the weights.

    Raises:
        QsdError: there is no such pipeline, it is damaged, or it has no such denoiser.
    """
    check_device(device)

    def whole() -> Source:
        return _held(load_pipeline(pipeline, device=device, dtype=dtype), denoiser)

    try:
        folder = find(pipeline)
        pipe = weightless_pipeline(folder)
        module = denoiser_of(pipe, denoiser)
        files = _files(folder, pipe, module)
    except Exception as error:  # whatever a config or a file may raise; loading says what is wrong
        _logger.info("%s: loaded as a whole (%s)", pipeline, first_line(error))
        return whole()

    def read(name: str) -> torch.Tensor:
        part, key = _split(module, name)
        value = files[part].read(key)
        if not value.is_floating_point():
            return value
        return value.to(torch.float32 if keeps_float32(module, name) else dtype)

    hashes = state_hashes(module, read)
    _tie(module, hashes)
    return Source(
        module,
        identity(module, hashes),
        lambda path: read(parameter_path(module, path)).to(device),
        True,
        pipe,
        whole,
    )


def _held(pipe: DiffusionPipeline, denoiser: str | None) -> Source:
    module = denoiser_of(pipe, denoiser)

    def weight(path: str) -> torch.Tensor:
        return weight_at(module, path).detach()

    def itself() -> Source:
        raise QsdError("the denoiser is held already")

    return Source(module, identity(module), weight, False, pipe, itself)


def _files(folder: Path, pipe: Any, module: nn.Module) -> dict[str, Checkpoint]:
    """Prefix of names -> files of that denoiser.

    Raises:
        QsdError: they do not hold the state of the module.
    """
    found: dict[str, Checkpoint] = {}
    for name, part in zip(_component_names(pipe, module), parts_of(module).items(), strict=True):
        prefix, denoiser = part
        checkpoint = found[prefix] = Checkpoint(folder / name, only_variant(folder))
        wanted = {key: tuple(value.shape) for key, value in denoiser.state_dict().items()}
        if any(checkpoint.shapes.get(key) != shape for key, shape in wanted.items()):
            raise QsdError(f"{folder / name}: holds other tensors than the config makes")
    return found


def _tie(module: nn.Module, hashes: StateHashes) -> None:
    """Ties equal weights of each denoiser as :func:`qsd.denoisers.pipeline.load_pipeline` does."""
    for prefix, part in parts_of(module).items():
        dotted = f"{prefix}." if prefix else ""
        mine = {name.removeprefix(dotted): forms for name, forms in hashes.items() if name.startswith(dotted)}
        tie_equal_weights(part, {name: forms[_WEIGHTS] for name, forms in mine.items()})


def _component_names(pipe: Any, module: nn.Module) -> tuple[str, ...]:
    """Names of the pipeline's components that a denoiser, or several as one, consists of."""
    parts = parts_of(module)
    if "" not in parts:
        return tuple(parts)
    return tuple(name for name, part in pipe.components.items() if part is module)[:1]


def _only_name(pipe: Any, module: nn.Module) -> str | None:
    names = _component_names(pipe, module)
    return names[0] if len(names) == 1 else None


def _split(module: nn.Module, name: str) -> tuple[str, str]:
    if "" in parts_of(module):
        return "", name
    prefix, _, key = name.partition(".")
    return prefix, key
