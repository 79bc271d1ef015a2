"""A small store with a known truth: log-FID of damage that adds up and interacts within blocks."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from support.options import SIX

from qsd.configs.sampling import sample_configs
from qsd.denoisers.graph import Graph, Node
from qsd.denoisers.layers import WeightLayer
from qsd.store import Header, Label, Records, Responses, Store, split_of_index

_ROLES = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.out", "ff.in", "ff.out")


def synthetic_header(num_blocks: int = 3, seed: int = 0) -> Header:
    """Header of a little transformer: two embedders, blocks of six layers, a projection."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    layers: list[WeightLayer] = []

    def add(kind: str, role: str, block: int, *sources: int) -> int:
        layer = -1
        name = f"{role}-{block}"
        if kind == "weight":
            layer = len(layers)
            shape = (32, 128) if role == "ff.out" else (128, 32) if role == "ff.in" else (32, 32)
            layers.append(WeightLayer(name, name, None, role, "linear", shape, block))
        nodes.append(
            Node(name if kind == "weight" else f"{kind}-{role}-{block}", kind, layer, role, block, 0, 0.0)
        )
        edges.extend((source, len(nodes) - 1) for source in sources)
        return len(nodes) - 1

    time = add("weight", "time_embed", -1)
    stream = add("weight", "patch_embed", -1)
    for block in range(num_blocks):
        entry = add("modulate", "modulate", block, stream, time)
        q, k, v = (add("weight", f"self_attn.{part}", block, entry) for part in "qkv")
        scores = add("qk", "self_attn.qk", block, q, k)
        mixed = add("sv", "self_attn.sv", block, scores, v)
        out = add("weight", "self_attn.out", block, mixed)
        stream = add("add", "add", block, stream, out)
        hidden = add("weight", "ff.in", block, stream)
        stream = add("add", "add", block, stream, add("weight", "ff.out", block, hidden))
    add("weight", "final_proj", -1, stream)

    depth = np.linspace(0, 1, len(nodes))
    nodes = [Node(**{**vars(node), "depth": float(at)}) for node, at in zip(nodes, depth, strict=True)]
    edge_index = np.array(sorted(edges, key=lambda edge: (edge[1], edge[0])), dtype=np.int64).T
    base = {
        "uaq-3": 0.3,
        "uaq-4": 0.14,
        "kmeans_c-3": 0.2,
        "kmeans_c-4": 0.1,
        "kmeans_a-3": 0.25,
        "kmeans_a-4": 0.12,
    }
    error = np.array([base[str(option)] for option in SIX])
    num_bytes = np.array([[option.num_bytes(layer.shape) for option in SIX] for layer in layers])
    weights = np.array([layer.num_weights for layer in layers])
    return Header(
        denoiser={"class": "Synthetic", "num_parameters": int(weights.sum()), "weights_hash": f"{seed:032x}"},
        layers=layers,
        graph=Graph(tuple(nodes), edge_index),
        options=SIX,
        num_bytes=num_bytes,
        relative_error=error * np.exp(rng.normal(0, 0.25, (len(layers), len(error)))),
        labels=(
            Label("fid", False, "synthetic"),
            Label("clip", True, "synthetic, falls with the logarithm of fid"),
        ),
        conditions={"num_images": 0},
        provenance={"command": "tests/synthetic_store.py"},
    )


def synthetic_fid(header: Header, configs: np.ndarray, seed: int = 0) -> np.ndarray:
    """The truth, float64 [n]: 4 + damage per layer + the squared sum of signed shifts per block."""
    latents, features = synthetic_responses(header, seed).spaces.values()
    chosen = np.arange(len(header.layers)), configs.astype(np.int64)
    own, shifts = latents[chosen].sum(axis=1), features[chosen].sum(axis=1)
    return 4 + 40 * (own**2).sum(axis=1) + 2 * (shifts**2).sum(axis=1)


def synthetic_responses(header: Header, seed: int = 0) -> Responses:
    """What options do alone: in latents layers go their own ways, in features those of a block meet."""
    rng = np.random.default_rng([seed, 1])
    num_layers = len(header.layers)
    sensitivity = np.exp(rng.normal(0, 1.0, num_layers))
    direction = rng.normal(size=(num_layers, 3))
    error = header.relative_error
    own = np.einsum("lo,lm->lom", error * np.sqrt(sensitivity)[:, None], np.eye(num_layers))
    block = np.array([layer.block for layer in header.layers])
    member = block[:, None] == np.unique(block)
    shift = np.einsum("lo,lb,lx->lobx", error * sensitivity[:, None], member, direction)
    return Responses({"latents": own, "features": shift.reshape(*error.shape, -1)}, 4, 0)


def synthetic_store(
    path: Path,
    num_records: int = 120,
    num_blocks: int = 3,
    seed: int = 0,
    noise: float = 0.02,
    probed: bool = False,
) -> Store:
    """Writes a store of labeled random configs; ``noise`` is the standard deviation of log-FID."""
    header = synthetic_header(num_blocks, seed)
    if probed:
        header = replace(header, responses=synthetic_responses(header, seed))
    configs = sample_configs(header.options, len(header.layers), num_records, seed)
    fid = synthetic_fid(header, configs, seed)
    fid *= np.exp(np.random.default_rng([seed, 2]).normal(0, noise, num_records))
    index = np.arange(num_records)
    records = Records(
        index=index,
        config=configs,
        labels=np.stack([fid, 30 - 3 * np.log(fid)], axis=1),
        noise_seed=np.zeros(num_records, np.int64),
        split=split_of_index(index),
        activation=np.zeros_like(configs),
        seconds=np.ones(num_records, np.float32),
        num_images=np.zeros(num_records, np.int32),
    )
    return Store.create(path, header, records)


def as_schema_1(path: Path) -> None:
    """Rewrites a store as the first schema had it."""
    store = Store.open(path)
    with h5py.File(path) as file:
        meta = json.loads(file["meta"][()].tobytes())
    for key in ("hashes", "replaced", "activation_options", "responses"):
        del meta[key]
    with h5py.File(path, "w") as file:
        file.attrs.update(format="qsd-store", schema_version=1)
        file["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        file["graph/edge_index"] = store.header.graph.edge_index
        file["options/num_bytes"] = store.header.num_bytes
        file["options/relative_error"] = store.header.relative_error
        file["options/num_weights"] = store.header.num_weights
        for field in ("index", "config", "labels", "noise_seed", "split", "seconds"):
            file[f"records/{field}"] = getattr(store.records, field)
        if store.header.responses is not None:
            group = file.create_group("options/responses")
            group.attrs.update(num_images=store.header.responses.num_images, noise_seed=0)
            for name, values in store.header.responses.spaces.items():
                group[name] = values
