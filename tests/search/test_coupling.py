"""What a target leaves to choose: groups by role, formats by option, and searches that keep to both."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from qsd.denoisers.layers import WeightLayer
from qsd.quantizers import parse_options
from qsd.search import METHODS, Budget, SearchSettings, Space, Task
from qsd.search.coupling import groups_of, held, implied_by, parse_couplings
from qsd.search.methods.length import ChangeLength
from qsd.support.errors import QsdError


def _layer(module: str, role: str, shape: tuple[int, ...] = (32, 32), **rest: object) -> WeightLayer:
    segment = rest.get("segment")
    name = f"{module}[{segment[0]}:{segment[1]}]" if isinstance(segment, tuple) else module
    return WeightLayer(
        name, module, **{"segment": None, "role": role, "kind": "linear", "shape": shape} | rest
    )


LAYERS = [
    _layer("blocks.0.attn1.to_q", "self_attn.q"),
    _layer("blocks.0.attn2.to_q", "cross_attn.q"),
    _layer("blocks.0.attn1.to_k", "self_attn.k"),
    _layer("blocks.0.attn2.to_k", "cross_attn.k"),
    _layer("blocks.0.attn1.to_v", "self_attn.v"),
    _layer("blocks.0.attn2.to_v", "cross_attn.v"),
    _layer("blocks.1.attn1.to_k", "self_attn.k"),
    _layer("blocks.1.attn1.to_q", "self_attn.q"),
    _layer("up.skip", "skip_linear", segment=(0, 32)),
    _layer("up.skip", "skip_linear", segment=(32, 64)),
    _layer("proj_out", "final_proj"),
]


def test_groups_are_attentions_and_weights() -> None:
    assert groups_of(LAYERS, ()) == []
    assert groups_of(LAYERS, ("qkv",)) == [[0, 2, 4], [3, 5], [6, 7]]
    assert groups_of(LAYERS, ("segments",)) == [[8, 9]]
    assert groups_of(LAYERS, ("segments", "qkv")) == [[0, 2, 4], [3, 5], [6, 7], [8, 9]]
    flux = [
        _layer("transformer_blocks.0.attn.to_q", "self_attn.q"),
        _layer("transformer_blocks.0.attn.add_q_proj", "added_attn.q"),
        _layer("transformer_blocks.0.attn.to_v", "self_attn.v"),
        _layer("transformer_blocks.0.attn.add_k_proj", "added_attn.k"),
        _layer("single_transformer_blocks.0.proj_mlp", "ff.in"),
        _layer("single_transformer_blocks.0.attn.to_q", "self_attn.q"),
    ]
    assert groups_of(flux, ("qkv",)) == [[0, 2], [1, 3], [4, 5]]


def test_words_and_what_formats_imply() -> None:
    assert parse_couplings("segments, qkv") == ("qkv", "segments")
    assert parse_couplings(None) == ()
    with pytest.raises(QsdError, match="couple 'kv': there is none; use qkv or segments"):
        parse_couplings("kv")
    assert implied_by("qsd", "FluxTransformer2DModel") == ()
    assert implied_by("gguf", "FluxTransformer2DModel") == ("qkv", "segments")
    assert implied_by("gguf", "PixArtTransformer2DModel") == ("segments",)


def _sizes(options: list[str], layers: list[WeightLayer] = LAYERS) -> tuple[tuple, np.ndarray]:
    table = parse_options(options)
    return table, np.array(
        [[o.num_bytes(layer.shape) if o.accepts(layer.shape) else -1 for o in table] for layer in layers]
    )


def test_formats_hold_what_their_carriers_say() -> None:
    conv = _layer("conv_in", "conv_in", (32, 4, 3, 3), kind="conv2d")
    layers = [LAYERS[0], LAYERS[8], conv]
    options, sizes = _sizes(["uaq-4", "int8", "q8_0", "lloyd-4g32:f8", "keep"], layers)
    for format, expected in {
        "qsd": sizes >= 0,
        "gguf": [[0, 0, 1, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]],
        "sdnq": [[1, 1, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 0, 0, 1]],
        "comfy": [[0, 1, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]],
    }.items():
        found = held(format, layers, options, sizes)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found >= 0, np.array(expected, bool), err_msg=format)
        np.testing.assert_array_equal(found[found >= 0], sizes[found >= 0])
    with pytest.raises(
        QsdError, match=r"'up\.skip\[0:32\]'.*: sdnq can hold none .*; sdnq splits no weights"
    ):
        held("sdnq", layers, options[:2], sizes[:, :2])
    with pytest.raises(QsdError, match=r"gguf can hold none of the bank's options for it; add some with"):
        held("gguf", layers, options[:2], sizes[:, :2])
    with pytest.raises(QsdError, match="format 'ggml': there is none; use one of qsd, sdnq"):
        held("ggml", layers, options, sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["knapsack", "greedy", "evolution", "length", "random", "uniform"])
def test_coupled_layers_agree_and_the_best_is_found(method: str) -> None:
    """Against every config of four layers of which two are one weight and two one attention."""
    layers = [LAYERS[8], LAYERS[0], LAYERS[9], LAYERS[2]]
    options, sizes = _sizes(["uaq-3", "uaq-4", "q8_0", "keep"], layers)
    sizes = held("qsd", layers, options, sizes)
    groups = groups_of(layers, ("qkv", "segments"))
    assert groups == [[0, 2], [1, 3]]
    weights = np.array([layer.num_weights for layer in layers])
    space = Space.make(sizes, weights, options, groups=groups)
    rng = np.random.default_rng(5)
    change = rng.normal(size=(4, 4, 3)) / np.array([2, 4, 16, 64])[:, None]
    score = -np.square(change).sum(axis=2)
    predictor = ChangeLength(change) if method in ("evolution", "length") else None
    budget = Budget.make(space.num_bytes, space.num_weights, max_bits=6.0)
    quick = SearchSettings(
        population=16, generations=6, improve_rounds=4, additive_samples=40, confidence=0.5
    )
    front = METHODS[method](Task(space, budget, predictor, score, settings=quick))  # type: ignore[index]
    configs = front.configs.astype(int)
    assert (configs[:, 0] == configs[:, 2]).all() and (configs[:, 1] == configs[:, 3]).all()
    assert (sizes[np.arange(4), configs].sum(axis=1) == front.num_bytes).all()
    assert (front.num_bytes <= budget.max_bytes).all()
    every = np.array([(a, b, a, b) for a, b in product(range(4), repeat=2)])
    fits = sizes[np.arange(4), every].sum(axis=1) <= budget.max_bytes
    truth = predictor.posterior(every).mean if predictor else score[np.arange(4), every].sum(axis=1)
    if method in ("knapsack", "evolution", "length"):
        assert front.predicted.max() == pytest.approx(truth[fits].max())


def test_keep_alone_over_the_budget_names_the_smallest_size() -> None:
    _, sizes = _sizes(["keep"])
    weights = np.array([layer.num_weights for layer in LAYERS])
    with pytest.raises(
        QsdError, match=rf"3\.5 bits is below the smallest possible size, {sizes.sum()} bytes"
    ):
        Budget.make(sizes, weights, max_bits=3.5)


def test_a_group_has_the_options_of_all_its_layers() -> None:
    """A group has the options that all of its layers can take."""
    layers = [LAYERS[0], dataclasses.replace(LAYERS[2], shape=(32, 24))]
    options, sizes = _sizes(["uaq-4", "q8_0"], layers)
    space = Space.make(sizes, np.array([1024, 768]), options, groups=groups_of(layers, ("qkv",)))
    assert space.available.tolist() == [[True, False]]
