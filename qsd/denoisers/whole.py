"""The weight layers and the graph of all that a pipeline denoises with."""

import dataclasses
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from qsd.denoisers.components import Denoisers, class_name, denoiser_of, parts_of
from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.recording import record_inputs
from qsd.denoisers.refusals import check_untouched
from qsd.denoisers.tracing import Traced, chain_graph, trace
from qsd.support.errors import QsdError

if TYPE_CHECKING:  # diffusers imports this module in the middle of its own import
    from diffusers import DiffusionPipeline

GraphKind = Literal["traced", "chain"]


def trace_whole(
    pipe: "DiffusionPipeline | nn.Module",
    *,
    denoiser: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    graph: GraphKind = "traced",
    call: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Traced]:
    """Traces a pipeline's denoiser, or all of several.

    Args:
        pipe: a pipeline, or a denoiser.
        denoiser: name of the pipeline's component to restrict to.
        inputs: keyword arguments of the denoiser's forward, or denoiser name -> such; by default what the
            pipeline's own call gives it (:func:`qsd.denoisers.recording.record_inputs`). Where that cannot be
            recorded, or only a denoiser is given, inputs are guessed from its config.
        graph: "traced", or "chain" for :func:`qsd.denoisers.tracing.chain_graph`.
        call: arguments of the recorded call in place of those that qsd chooses.

    Returns:
        (the denoiser or :class:`Denoisers`, weight layers and graph).

    Raises:
        QsdError: the pipeline has no denoiser of that name, or a forward cannot be traced.
    """
    if graph not in ("traced", "chain"):
        raise QsdError(f"no graph {graph!r}; choose traced or chain")
    module = pipe if isinstance(pipe, nn.Module) else denoiser_of(pipe, denoiser)
    parts = parts_of(module)
    for part in parts.values():
        check_untouched(part)
    if graph == "chain":
        return module, _joined({name: chain_graph(part) for name, part in parts.items()})
    given: Mapping[str, Any] = {} if inputs is None else _by_part(parts, inputs)
    failure: QsdError | None = None
    if inputs is None and not isinstance(pipe, nn.Module):
        try:
            recorded = record_inputs(pipe, denoiser, **call or {})
            given = recorded if isinstance(module, Denoisers) else {"": next(iter(recorded.values()))}
        except QsdError as error:
            failure = error
    if not given:
        _say_guessed(module, failure)
    try:
        return module, _joined({name: trace(part, inputs=given.get(name)) for name, part in parts.items()})
    except QsdError as error:
        raise failure or error from error


def _say_guessed(module: nn.Module, failure: QsdError | None) -> None:
    """A remark, since layers that a guessed call does not reach stay at full precision."""
    why = f": {failure}" if failure else "; qsd.record_inputs(pipe) gives those of a pipeline's call"
    logging.getLogger(__name__).warning(
        "inputs of %s are guessed from its config, not recorded%s", class_name(module), why
    )


def _by_part(parts: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Inputs of each denoiser."""
    if "" not in parts:
        missing = [name for name in parts if not isinstance(inputs.get(name), Mapping)]
        if missing:
            raise QsdError(
                f"inputs name no arguments of '{missing[0]}'; give one entry for each of {', '.join(parts)}, "
                "or restrict to one with denoiser= (`--denoiser`)"
            )
        return {name: inputs[name] for name in parts}
    (only,) = inputs.values() if len(inputs) == 1 else (None,)
    is_named = isinstance(only, Mapping) and not _takes(parts[""], next(iter(inputs)))
    return {"": only if is_named and only is not None else inputs}


def _takes(module: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters


def _joined(traced: Mapping[str, Traced]) -> Traced:
    """Several denoisers as one graph, whose last node joins the outputs of all."""
    if len(traced) == 1:
        return next(iter(traced.values()))
    layers: list[WeightLayer] = []
    nodes: list[Node] = []
    edges: list[np.ndarray] = []
    outputs: list[int] = []
    unused: list[str] = []
    for name, part in traced.items():
        first_block = max((layer.block for layer in layers), default=-1) + 1
        first_stage = max((layer.stage for layer in layers), default=-1) + 1
        first_layer, first_node = len(layers), len(nodes)
        for layer in part.layers:
            layers.append(
                dataclasses.replace(
                    layer,
                    name=f"{name}.{layer.name}",
                    module=f"{name}.{layer.module}",
                    tied=tuple(f"{name}.{path}" for path in layer.tied),
                    block=layer.block if layer.block < 0 else layer.block + first_block,
                    stage=layer.stage + first_stage,
                )
            )
        for node in part.graph.nodes:
            nodes.append(
                dataclasses.replace(
                    node,
                    name=f"{name}.{node.name}",
                    layer=node.layer if node.layer < 0 else node.layer + first_layer,
                    block=node.block if node.block < 0 else node.block + first_block,
                    stage=node.stage + first_stage,
                )
            )
        edges.append(part.graph.edge_index + first_node)
        outputs.append(part.graph.output + first_node)
        unused += [f"{name}.{path}" for path in part.unused]
    nodes.append(Node("join", "join", -1, "join", -1, nodes[-1].stage, 1.0))
    edges.append(np.array([outputs, [len(nodes) - 1] * len(outputs)], dtype=np.int64))
    return Traced(layers, Graph(tuple(nodes), np.concatenate(edges, axis=1)), tuple(unused))
