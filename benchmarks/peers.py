"""Does any uniform config of another library lie above our searched front? In FID or latent MSE, by bytes.

    python benchmarks/peers.py --miniatures digits-pixart-alpha --images 1000 \
        --fronts runs/front.json --bank runs/bank.safetensors [--packages FOLDER] [--out FILE]

Every library that can be imported quantizes each weight of the denoiser with its own functions, at every
width and group that it has up to 6 bits (GGUF types as libgguf writes them); what it cannot take stays in 16
bits. The restored weights are drawn and measured by the evaluator of `qsd measure`, in one run with members
of the fronts of `qsd search`, and everything is counted in bytes: codes at their width, scales and offsets at
16 bits (32 bits in some libraries; this favours them), double-quantized ones as they are. Libraries that are
not installed are named and left out; `pip install --no-deps --target FOLDER ...` and `--packages FOLDER` do.
A weight that reads a skip concatenation is quantized by segments, as ours. Rows that are in FILE are not
measured again. Exits with 1 if a peer lies above.
"""

import argparse
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from uniform import RESULTS, Replace, study

from qsd.bank import Bank
from qsd.denoisers.layers import WeightLayer
from qsd.search import Front

MOST_BITS = 6.0
_MEMBERS = 8  # of a front, evenly along it
Quantized = tuple[Tensor, float] | None
"""Restored weight and bits per weight; None where a library cannot take it."""
Peer = Callable[[Tensor], Quantized]


def sdnq() -> Iterator[tuple[str, Peer]]:
    """Affine grids of rows and groups."""
    from sdnq.quantizer import sdnq_quantize_layer_weight

    for bits in (2, 3, 4, 5, 6):
        for group in (-1, 0, 32):  # rows, the library's own choice, 32

            def quantize(weight: Tensor, bits: int = bits, group: int = group) -> Quantized:
                kind = "Linear" if weight.dim() == 2 else f"Conv{weight.dim() - 2}d"
                found = sdnq_quantize_layer_weight(
                    weight.clone(),
                    kind,
                    weights_dtype=f"uint{bits}",
                    group_size=group,
                    torch_dtype=torch.float32,
                )
                if found is None:
                    return None
                dequantizer, stored = found
                scales = sum(
                    stored[key].numel() for key in ("scale", "zero_point") if stored[key] is not None
                )
                restored = dequantizer(**stored, dtype=torch.float32, skip_compile=True)
                return restored.view_as(weight), bits + 16 * scales / weight.numel()

            yield f"uint{bits} group {group}", quantize


def optimum_quanto() -> Iterator[tuple[str, Peer]]:
    """Groups of at most 128 input channels, as `quantize` chooses them."""
    from optimum.quanto import freeze, qint2, qint4, quantize
    from optimum.quanto.library.extensions import get_extension

    def unpack(packed: Tensor, bits: int) -> Tensor:
        return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)])

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)  # or C++ is compiled to unpack codes

    for bits, kind in ((2, qint2), (4, qint4)):

        def apply(weight: Tensor, bits: int = bits, kind: Any = kind) -> Quantized:
            if weight.dim() not in (2, 4):
                return None
            module = _module(weight)
            quantize(module, weights=kind)
            freeze(module)
            held = module[0].weight
            scales = held._scale.numel() + getattr(held, "_shift", torch.empty(0)).numel()
            return held.dequantize().float(), bits + 16 * scales / weight.numel()

        yield f"qint{bits}", apply


def torchao() -> Iterator[tuple[str, Peer]]:
    """Integers of any width, by groups or rows, symmetric or not."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_primitives import MappingType

    for bits in (2, 3, 4, 5, 6):
        for group in (0, 32, 128):
            for mapping in (MappingType.SYMMETRIC, MappingType.ASYMMETRIC):

                def apply(
                    weight: Tensor, bits: int = bits, group: int = group, mapping: Any = mapping
                ) -> Quantized:
                    if weight.dim() != 2 or (group and weight.shape[1] % group):
                        return None
                    module = _module(weight)
                    config = IntxWeightOnlyConfig(
                        weight_dtype=getattr(torch, f"int{bits}"),
                        granularity=PerGroup(group) if group else PerAxis(0),
                        mapping_type=mapping,
                    )
                    quantize_(module, config)
                    numbers = 16 + (bits if mapping == MappingType.ASYMMETRIC else 0)
                    return module[0].weight.dequantize().float(), bits + numbers / (group or weight.shape[1])

                yield f"int{bits} group {group or 'row'} {mapping.name.lower()}", apply


def bitsandbytes() -> Iterator[tuple[str, Peer]]:
    """nf4 and fp4 in blocks of 64, with plain and with double-quantized scales."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for kind in ("nf4", "fp4"):
        for double in (False, True):

            def apply(weight: Tensor, kind: str = kind, double: bool = double) -> Quantized:
                if weight.dim() != 2 or weight.numel() % 64:
                    return None
                row = weight.reshape(1, -1)  # of other widths its CPU code takes wrong scales (findings/)
                codes, state = quantize_4bit(row, blocksize=64, quant_type=kind, compress_statistics=double)
                bits = 4 + (8 + 32 / 256 if double else 16) / 64
                return dequantize_4bit(codes, state).view_as(weight).float(), bits

            yield f"{kind}{' double' if double else ''}", apply


def hqq() -> Iterator[tuple[str, Peer]]:
    """Half-quadratic quantization of groups and rows."""
    from hqq.core.quantize import Quantizer

    for bits in (2, 3, 4, 5, 6):
        for group in (32, 64, 0):

            def apply(weight: Tensor, bits: int = bits, group: int = group) -> Quantized:
                if weight.dim() != 2 or (group and weight.shape[1] % group):
                    return None
                codes, meta = Quantizer.quantize(
                    weight,
                    nbits=bits,
                    group_size=group or weight.shape[1],
                    optimize=True,
                    axis=1,
                    bitpack=False,
                    compute_dtype=torch.float32,
                    device="cpu",
                )
                restored = Quantizer.dequantize(codes, meta).view_as(weight).float()
                return restored, bits + 32 / (group or weight.shape[1])

            yield f"{bits} bits group {group or 'row'}", apply


def libgguf() -> Iterator[tuple[str, Peer]]:
    """Block types as llama.cpp's family writes them."""
    import libgguf as library

    for name in ("Q2_K", "Q3_K", "IQ3_S", "IQ4_XS", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_K"):

        def apply(weight: Tensor, name: str = name) -> Quantized:
            kind = library.GGMLQuantizationType[name]
            block = 32 if name.endswith(("_0", "_1")) else 256
            if weight.dim() != 2 or weight.shape[1] % block:
                return None
            rows = np.ascontiguousarray(weight.float().numpy())
            blocks = np.asarray(library.quantize_rows(rows, kind), dtype=np.uint8)
            restored = np.array(library.dequantize_rows(blocks, kind), dtype=np.float32)
            return torch.from_numpy(restored.reshape(weight.shape)), 8 * blocks.size / weight.numel()

        yield name, apply


PEERS: dict[str, Callable[[], Iterator[tuple[str, Peer]]]] = {
    "sdnq": sdnq,
    "optimum.quanto": optimum_quanto,
    "torchao": torchao,
    "bitsandbytes": bitsandbytes,
    "hqq": hqq,
    "libgguf": libgguf,
}
"""What is imported -> its uniform configs."""


def _module(weight: Tensor) -> nn.Sequential:
    """A module with that weight; libraries replace its child."""
    out, inside, *taps = weight.shape
    layer: nn.Module = (
        nn.Conv2d(inside, out, tuple(taps), bias=False) if taps else nn.Linear(inside, out, False)
    )
    layer.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
    return nn.Sequential(layer)


def replacing(peer: Peer) -> Replace:
    """The uniform config of a peer; what it cannot take is rounded to 16 bits."""

    def replace(layer: WeightLayer, weight: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad():
            found = peer(weight.detach().float())
        if found is None:
            return weight.half().to(weight.dtype), 2 * weight.numel()
        restored, bits = found
        return restored.detach(), int(np.ceil(bits * weight.numel() / 8))

    return replace


def members(front: Path, bank: Bank) -> Iterator[tuple[str, Replace]]:
    """Some configs of a front, as what replaces weights."""
    loaded = Front.load(front)
    assert loaded.meta.layer_names == tuple(bank.layer_names), "the bank is that of the front"
    index = {layer.name: place for place, layer in enumerate(bank.layers)}
    options = list(map(str, bank.options))
    columns = np.array([options.index(name) for name in loaded.meta.option_names])
    for member in np.unique(np.linspace(0, len(loaded) - 1, _MEMBERS).round().astype(int)):
        config = columns[loaded.configs[member].astype(int)]

        def replace(layer: WeightLayer, weight: Tensor, config: np.ndarray = config) -> tuple[Tensor, int]:
            form = bank.weights[index[layer.name]][config[index[layer.name]]]
            assert form is not None, "a front holds available options alone"
            return form.dequantize(), form.num_bytes

        yield f"qsd {loaded.avg_bits[member]:.3f} bits, {front.stem} {member}", replace


def installed(only: list[str] | None) -> dict[str, Replace]:
    """All uniform configs of the libraries that can be imported."""
    found: dict[str, Replace] = {}
    for name, configs in PEERS.items():
        if only and name not in only:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
                peers = dict(configs())
                for peer in peers.values():
                    peer(torch.eye(64))
        except Exception as error:  # whatever keeps a library from working here
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0][:90]})")
            continue
        found |= {f"{name} {text}": replacing(peer) for text, peer in peers.items()}
    return found


def above(rows: dict[str, dict[str, float]]) -> list[str]:
    """Peers that are better in FID or latent MSE than all our configs of at most their bytes."""
    ours = [row for name, row in rows.items() if name.startswith("qsd ")]
    found = []
    for name, row in rows.items():
        if name == "full" or name.startswith("qsd ") or not row["avg_bits"] <= MOST_BITS:
            continue
        within = [mine for mine in ours if mine["bytes"] <= row["bytes"]]
        for label in ("fid", "latent_mse"):
            best = min((mine[label] for mine in within), default=np.inf)
            if best > row[label]:
                found.append(
                    f"{name}: {label} {row[label]:.4g} at {row['avg_bits']:.2f} bits, ours {best:.4g}"
                )
    return found


def main() -> int:
    """Measures, prints by size, and says which peers lie above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--miniatures", nargs="+", default=["digits-pixart-alpha"])
    parser.add_argument("--fronts", nargs="+", type=Path, default=[], help="of one miniature")
    parser.add_argument("--bank", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--noise-seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="libraries")
    parser.add_argument("--packages", type=Path, help="folder of further packages")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    given = parser.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    variants: dict[str, Replace] = {}
    if given.fronts:
        bank = Bank.load(given.bank)
        variants |= {name: replace for front in given.fronts for name, replace in members(front, bank)}
    variants |= installed(given.only)
    found = study(
        given.out, variants, names=given.miniatures, num_images=given.images, noise_seed=given.noise_seed
    )
    better: list[str] = []
    for name in given.miniatures:
        rows = {key: row for key, row in found[name].items() if key == "full" or key in variants}
        for key, row in sorted(rows.items(), key=lambda item: item[1].get("bytes", np.inf)):
            bits = f"{row['avg_bits']:5.2f}" if "avg_bits" in row else "   16"
            print(f"{bits} bits  fid {row['fid']:7.3f}  mse {row['latent_mse']:.5f}  {name} {key}")
        better += [f"{name} {line}" for line in above(rows)] if given.fronts else []
    print(json.dumps(better, indent=1) if better else "no peer lies above")
    return 1 if better else 0


if __name__ == "__main__":
    sys.exit(main())
