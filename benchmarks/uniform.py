"""Measures a miniature whose weights are replaced by any others: what studies of options have in common."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsd.denoisers.layers import WeightLayer
from qsd.denoisers.pipeline import load_pipeline
from qsd.denoisers.whole import trace_whole
from qsd.evaluation.evaluator import Evaluator
from qsd.zoo.registry import MINIATURES, labeling_settings

RESULTS = Path(__file__).parent / "results"
Replace = Callable[[WeightLayer, Tensor], tuple[Tensor, int]]
"""From a layer and its weight to what it computes with, and the bytes that this is stored in."""


class Miniature:
    """A shipped pipeline, its weight layers, and how its labels are measured.

    Args:
        name: of :data:`qsd.zoo.registry.MINIATURES`.
        num_images: images per measurement.
        noise_seed: of these images.
    """

    def __init__(self, name: str, num_images: int = 1000, noise_seed: int = 1) -> None:
        pipe = load_pipeline(f"checkpoints/{name}")
        module, traced = trace_whole(pipe)
        self.layers = traced.layers
        self.weights = {
            layer.name: self._slice(layer, module.get_submodule(layer.module).weight.detach())
            for layer in traced.layers
        }
        self._module = module
        self._seed = noise_seed
        settings = labeling_settings(name, num_images)
        few = min(settings.kid_subset_size, num_images)
        self._evaluator = Evaluator(pipe, dataclasses.replace(settings, kid_subset_size=few))
        self.full = self._evaluator.full_precision(noise_seed).labels

    @staticmethod
    def _slice(layer: WeightLayer, weight: Tensor) -> Tensor:
        return (
            weight if layer.segment is None else weight[:, layer.segment[0] : layer.segment[1]].contiguous()
        )

    @property
    def num_weights(self) -> int:
        """Of all layers."""
        return sum(layer.num_weights for layer in self.layers)

    def measure(self, replace: Replace) -> dict[str, float]:
        """Labels, bytes and average bits with every weight replaced; full precision is restored."""
        parts: dict[str, list[Tensor]] = {}
        num_bytes = 0
        for layer in sorted(self.layers, key=lambda layer: layer.segment or (0, 0)):
            restored, size = replace(layer, self.weights[layer.name])
            parts.setdefault(layer.module, []).append(restored)
            num_bytes += size
        kept = {}
        for name, pieces in parts.items():
            parameter = self._module.get_submodule(name).weight
            kept[name] = parameter.data
            parameter.data = torch.cat(pieces, dim=1).to(parameter.dtype)
        labels = self._evaluator.measure(self._seed).labels
        for name, weight in kept.items():
            self._module.get_submodule(name).weight.data = weight
        return {**labels, "bytes": num_bytes, "avg_bits": 8 * num_bytes / self.num_weights}


def study(
    file: Path,
    variants: Mapping[str, Replace],
    *,
    names: list[str] | None = None,
    num_images: int = 1000,
    noise_seed: int = 1,
) -> dict[str, dict[str, Any]]:
    """Measures every variant on every miniature, going on where a file stops.

    Args:
        file: JSON, miniature -> variant -> labels.
        variants: by name.
        names: miniatures; all by default.
        num_images: as for :class:`Miniature`.
        noise_seed: as for :class:`Miniature`.

    Returns:
        The file's content.
    """
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    for name in names or list(MINIATURES):
        rows = found.setdefault(name, {})
        missing = {key: replace for key, replace in variants.items() if key not in rows}
        if not missing:
            continue
        miniature = Miniature(name, num_images, noise_seed)
        rows["full"] = miniature.full
        for key, replace in missing.items():
            rows[key] = miniature.measure(replace)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(
                f"{name:22s} {key:28s} fid {rows[key].get('fid', 0):7.3f} mse {rows[key]['latent_mse']:.5f}"
            )
    return found
