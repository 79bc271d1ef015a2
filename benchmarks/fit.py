"""One training epoch on the full-size PixArt graph, against a plain PyG DataLoader of Data objects.

    python benchmarks/fit.py [--records 500] [--json FILE]

Both train the same network (the default GraphRanker) on the same random records with the same loss and
optimizer, in turns in one run on one thread, in seconds of processor time, so that other programs disturb
neither. The plain way is what a PyG tutorial writes: one Data object per record that holds node features and
edges, a DataLoader that collates them, features embedded node by node. Both run at the batch size of the
shipped configs (32) and at that of the Qua2SeDiMo reference (128). Exits with 1 unless ours is at least 2
times faster at 128 and its data handling takes less than 1 % of the epoch.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

from qsd.configs.sampling import sample_configs
from qsd.denoisers import trace
from qsd.quantizers import DEFAULT_OPTIONS
from qsd.ranker.features import GraphFeatures
from qsd.ranker.network import GraphRanker, NetworkSettings
from qsd.store import Header

LEAST_SPEEDUP = 2.0
LARGEST_DATA_SHARE = 0.01
BATCH_SIZES = 32, 128
JUDGED = 128


def full_size_header() -> Header:
    """PixArt-XL/2 traced on the meta device, with nominal sizes and errors of the six options."""
    with torch.device("meta"):
        denoiser: Any = PixArtTransformer2DModel(sample_size=64, caption_channels=4096)
    traced = trace(denoiser)
    weights = np.array([layer.num_weights for layer in traced.layers])
    bits = np.array([option.traits.bits for option in DEFAULT_OPTIONS])
    return Header(
        denoiser={"class": "PixArtTransformer2DModel"},
        layers=traced.layers,
        graph=traced.graph,
        options=DEFAULT_OPTIONS,
        num_bytes=weights[:, None] * bits // 8,
        relative_error=np.broadcast_to(0.5**bits, (len(weights), len(bits))).astype(np.float64),
        labels=(),
        conditions={},
        provenance={},
    )


def our_epoch(
    network: GraphRanker, graph: GraphFeatures, configs: Tensor, targets: Tensor, batch_size: int
) -> tuple[float, float]:
    """(seconds of the epoch, seconds of it spent on data)."""
    optimizer = torch.optim.AdamW(network.parameters())
    begin = time.process_time()
    data_seconds = 0.0
    for rows in torch.randperm(len(configs)).split(batch_size):
        started = time.process_time()
        batch, wanted = configs[rows], targets[rows]
        data_seconds += time.process_time() - started
        prediction = network(graph, batch)
        step(optimizer, prediction.outputs[:, 0], prediction.norms, wanted)
    return time.process_time() - begin, data_seconds


def data_objects(graph: GraphFeatures, configs: Tensor, targets: Tensor) -> list[Data]:
    """One Data object per record."""
    nodes = torch.arange(graph.num_nodes)
    return [
        Data(
            x=torch.cat([graph.static, graph.option[nodes, config[graph.layer]]], dim=1),
            kind=graph.kind,
            role=graph.role,
            is_weight=graph.is_weight,
            edge_index=graph.edge_index,
            y=target,
        )
        for config, target in zip(configs, targets, strict=True)
    ]


def plain_epoch(network: GraphRanker, records: list[Data], batch_size: int) -> float:
    """Seconds of the epoch."""
    optimizer = torch.optim.AdamW(network.parameters())
    begin = time.process_time()
    for batch in DataLoader(records, batch_size=batch_size, shuffle=True):
        outputs, norms = plain_forward(network, batch)
        step(optimizer, outputs, norms, batch.y)
    return time.process_time() - begin


def plain_forward(network: GraphRanker, batch: Any) -> tuple[Tensor, Tensor]:
    """The network's own modules over a collated batch; outputs [B] and norms [hops, B]."""
    hidden = network.mix(network.features(batch.x) + network.kind(batch.kind) + network.role(batch.role))
    hidden = torch.relu(hidden)
    weights, graphs = batch.is_weight, batch.batch[batch.is_weight]
    hops = [global_mean_pool(hidden[weights], graphs, batch.num_graphs)]
    for conv, norm in zip(network.convs, network.norms, strict=True):
        hidden = torch.relu(norm(conv(hidden, batch.edge_index))) + hidden
        hops.append(global_mean_pool(hidden, batch.batch, batch.num_graphs))
    flat = network.pool_norm(torch.cat(hops, dim=1))
    outputs = (network.head(flat) + network.linear_head(flat))[:, 0]
    return outputs, torch.stack(hops).abs().sum(dim=-1)


def step(optimizer: torch.optim.Optimizer, outputs: Tensor, norms: Tensor, wanted: Tensor) -> None:
    """One update; a plain loss, because losses are not what is compared."""
    loss = (outputs - wanted).square().mean() + 1e-3 * (norms - wanted).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure(num_records: int) -> dict[str, Any]:
    """Times both ways at every batch size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    header = full_size_header()
    graph = GraphFeatures.of(header)
    network = GraphRanker(NetworkSettings(), [graph])
    drawn = sample_configs(header.options, len(header.layers), num_records, 0)
    configs, targets = torch.from_numpy(drawn), torch.randn(num_records)
    records = data_objects(graph, configs.long(), targets)
    seconds = {f"{way}-{size}": 0.0 for size in BATCH_SIZES for way in ("ours", "plain", "data")}
    our_epoch(network, graph, configs[:32], targets[:32], 32)  # the first call of anything is slow
    plain_epoch(network, records[:32], 32)
    for rows in torch.arange(num_records).split(2 * max(BATCH_SIZES)):  # in turns: others slow all alike
        for size in BATCH_SIZES:
            ours, data = our_epoch(network, graph, configs[rows], targets[rows], size)
            seconds[f"ours-{size}"] += ours
            seconds[f"data-{size}"] += data
            seconds[f"plain-{size}"] += plain_epoch(network, [records[row] for row in rows], size)
    return {
        "nodes": graph.num_nodes,
        "edges": int(graph.edge_index.shape[1]),
        "records": num_records,
        "seconds": seconds,
        "speedup": seconds[f"plain-{JUDGED}"] / seconds[f"ours-{JUDGED}"],
        "data_share": seconds[f"data-{JUDGED}"] / seconds[f"ours-{JUDGED}"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.records)
    seconds = result["seconds"]
    title = f"one epoch of {result['records']} records, {result['nodes']} nodes, {result['edges']} edges"
    table = Table("batch size", "ours, s", "of it data", "plain, s", "plain / ours", title=title)
    for size in BATCH_SIZES:
        ours, data, plain = (seconds[f"{way}-{size}"] for way in ("ours", "data", "plain"))
        table.add_row(str(size), f"{ours:.2f}", f"{data / ours:.2%}", f"{plain:.2f}", f"{plain / ours:.2f}")
    console = Console()
    console.print(table)
    fast = result["speedup"] >= LEAST_SPEEDUP
    lean = result["data_share"] <= LARGEST_DATA_SHARE
    console.print(
        f"batch size {JUDGED}: {result['speedup']:.2f} times faster "
        f"({'reaches' if fast else 'misses'} {LEAST_SPEEDUP}); "
        f"data {result['data_share']:.2%} ({'within' if lean else 'above'} {LARGEST_DATA_SHARE:.0%})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(not (fast and lean))


if __name__ == "__main__":
    sys.exit(main())
