"""What each option of each layer does alone: cheap drawings that tell which errors add up and which cancel.

A label needs hundreds of images, because a distribution has to be estimated. The change that one option makes
is seen on a few: prompt and noise are those of the full-precision image, so the difference is the option's
doing. To first order the change of a config is the sum of the changes of its options.
"""

from typing import Any

import numpy as np
import torch

from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.denoisers.pipeline import denoiser_of
from qsd.errors import QsdError
from qsd.labels.extractors import load_features
from qsd.labels.generate import Generator
from qsd.labels.settings import EvaluationSettings
from qsd.progress import Progress
from qsd.store import Responses, Store

_SKETCH = 1024  # dimensions of a change while layers are still to be measured
_COORDINATES = 64  # and in the end


def probe(
    store: Store,
    pipe: Any,
    bank: Bank,
    settings: EvaluationSettings,
    *,
    provenance: dict[str, Any],
    progress: Progress | None = None,
) -> Store:
    """Measures what each option of each layer does alone and writes it into a store, layer by layer.

    Args:
        store: of the bank's denoiser; layers that it knows are not measured again.
        pipe: at full precision.
        bank: the denoiser's bank.
        settings: how to draw; ``num_images`` is the number of images per option.
        provenance: versions and command.
        progress: called after every layer.

    Returns:
        The store.

    Raises:
        QsdError: the store's responses were begun with other images, an option draws no finite images, or
            another process is writing the store.
    """
    responses = store.header.responses
    if responses is None:
        responses = _nothing_measured(store, settings)
    elif (responses.num_images, responses.noise_seed) != (settings.num_images, settings.noise_seed):
        raise QsdError(
            f"{store.path}: probed with {responses.num_images} images of noise seed {responses.noise_seed}, "
            f"not {settings.num_images} of {settings.noise_seed}; go on with the former or probe a copy"
        )
    missing = responses.missing()
    if not len(missing):
        return store
    with store.locked():
        prober = _Prober(pipe, bank, settings)
        for done, layer in enumerate(missing):
            for name, values in prober.changes(int(layer)).items():
                responses.spaces[name][layer] = values
            if done + 1 == len(missing):
                spaces = {name: _principal(values) for name, values in responses.spaces.items()}
                responses = Responses(spaces, responses.num_images, responses.noise_seed)
            store.set_responses(responses, provenance)
            if progress:
                progress(done + 1, len(missing), bank.layers[layer].name)
    return store


class _Prober:
    """Draws the images of full precision once, and those of any option of any layer."""

    def __init__(self, pipe: Any, bank: Bank, settings: EvaluationSettings) -> None:
        self._bank = bank
        self._applier = Applier(bank, denoiser_of(pipe))
        self._generator = Generator(pipe, settings)
        self._features = load_features(settings.features).to(pipe.device) if settings.reference else None
        self._full = self._draw()

    def changes(self, layer: int) -> dict[str, np.ndarray]:
        """Sketches of what each option of a layer changes, by space, float32 [O, 1024]."""
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self._full}
        config = np.full(len(self._bank.layers), FULL_PRECISION, dtype=np.int8)
        for option, spelled in enumerate(self._bank.options):
            config[layer] = option
            with self._applier as applier:
                applier.apply(config)
                drawn = self._draw()
            for name, full in self._full.items():
                change = drawn[name] - full
                if not change.isfinite().all():
                    raise QsdError(f"{self._bank.layers[layer].name}: {spelled} alone draws no finite images")
                size = change.numel() if name == "latents" else len(change)
                rows[name].append(_sketched(change.flatten() / size**0.5))
        return {name: np.stack(values) for name, values in rows.items()}

    @torch.inference_mode()
    def _draw(self) -> dict[str, torch.Tensor]:
        """Latents and, where there is an extractor, features of the images."""
        drawn: dict[str, list[torch.Tensor]] = {"latents": []}
        if self._features is not None:
            drawn["features"] = []
        for _, latents, images in self._generator.batches(self._generator.settings.noise_seed):
            drawn["latents"].append(latents)
            if self._features is not None:
                drawn["features"].append(self._features(images)[0].float().cpu())
        return {name: torch.cat(parts) for name, parts in drawn.items()}


def _nothing_measured(store: Store, settings: EvaluationSettings) -> Responses:
    shape = (*store.header.relative_error.shape, _SKETCH)
    names = ("latents", "features") if settings.reference else ("latents",)
    spaces = {name: np.full(shape, np.nan, np.float32) for name in names}
    return Responses(spaces, settings.num_images, settings.noise_seed)


def _sketched(values: torch.Tensor) -> np.ndarray:
    """A random projection that keeps lengths and angles, float32 [n] to [1024].

    Every element is added, with a random sign, to a random one of the sums: Weinberger et al., "Feature
    hashing for large scale multitask learning" (ICML 2009).
    """
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(_SKETCH, values.shape, generator=generator)
    sign = torch.randint(2, values.shape, generator=generator) * 2 - 1
    return torch.zeros(_SKETCH).index_add_(0, place, values * sign).numpy()


def _principal(values: np.ndarray) -> np.ndarray:
    """The 64 directions in which the changes [L, O, d] differ most, float32 [L, O, at most 64]."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    left, lengths, _ = np.linalg.svd(flat, full_matrices=False)
    return (left * lengths)[:, :_COORDINATES].reshape(*values.shape[:2], -1).astype(np.float32)
