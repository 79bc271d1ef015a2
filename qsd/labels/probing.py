"""What each option of each layer does alone: cheap drawings that tell which errors add up and which cancel.

A label needs hundreds of images, because a distribution has to be estimated. The change that one option makes
is seen on a few: prompt and noise are those of the full-precision image, so the difference is the option's
doing. To first order the change of a config is the sum of the changes of its options.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsd.bank import FULL_PRECISION, Applier, Bank
from qsd.configs.activations import can_round
from qsd.denoisers.components import denoiser_like
from qsd.evaluation.calibration import calibrate
from qsd.evaluation.extractors import load_features
from qsd.evaluation.generate import Generator
from qsd.evaluation.memory import enough_memory
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.influence import PART, changed_by, say_if_unmoved
from qsd.labels.leases import Claims
from qsd.labels.leaving_out import Failure, check_complete
from qsd.store import Basis, Places, Response, Responses, Store
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

SKETCH = 8192  # numbers that are kept of a change while layers are still to be measured
_COORDINATES = 256  # and in the end
_MOST_OF_BYTE = 127


@dataclasses.dataclass(frozen=True)
class Cells:
    """What to measure of one layer.

    Attributes:
        layer: position in bank order.
        columns: positions among the options of the bank, and behind them its activation options but 16.
    """

    layer: int
    columns: tuple[int, ...]


Changes = dict[str, np.ndarray]
"""By space, sketches of what each of n options of a layer changes, float32 [n, images * e]."""
RunLayers = Callable[[Iterable[Cells]], Iterator[tuple[Cells, Changes] | Failure[Cells]]]
"""Measures layers, here (:meth:`Prober.run`) or in several processes (:meth:`qsd.labels.pool.Pool.run`)."""


def probe(
    store: Store,
    bank: Bank,
    settings: EvaluationSettings,
    run: RunLayers,
    *,
    provenance: dict[str, Any],
    layers: Sequence[int] | None = None,
    restart: bool = False,
    claim: Callable[[list[Cells]], Sequence[Cells] | Claims[Cells]] | None = None,
    progress: Progress | None = None,
) -> Store:
    """Measures what each option of each layer does alone and writes it into a store, layer by layer.

    Args:
        store: of the bank's denoiser, held by :func:`qsd.labels.open_or_create`; layers that it
            knows are not measured again. Of a table that has grown only the new options are.
        bank: the denoiser's bank.
        settings: how to draw; ``num_images`` is the number of images per option.
        run: measures layers under these settings.
        provenance: versions and command.
        layers: positions of those to measure in bank order; the others stay NaN in the store. None for all.
        restart: measures all layers anew; what the store knew is lost.
        claim: takes, of the missing layers, those that this process shall measure.
        progress: called after every layer.

    Returns:
        The store.

    Raises:
        QsdError: the store's responses were begun with other images or by an older version, an option draws
            no finite images; all other layers were written.
    """
    if restart and store.header.responses is not None:
        store.forget_responses()
    responses = store.header.responses
    known = responses and (responses.num_images, responses.noise_seed)
    if known and known != (settings.num_images, settings.noise_seed):
        raise QsdError(
            f"{store.path}: probed with {known[0]} images of noise seed {known[1]}, "
            f"not {settings.num_images} of {settings.noise_seed}; go on with the former or restart"
        )
    begun = store.header.provenance.get("probe", {}).get("around")
    if known and begun != provenance.get("around"):
        raise QsdError(f"{store.path}: probed around another config; go on with that one, or restart")
    columns = Places.of(store.header, bank.options, bank.activation_options).columns
    unknown = np.ones((len(bank.layers), len(columns)), dtype=bool)
    if responses is not None:
        unknown = responses.unknown()[:, columns]
    if layers is not None:
        unknown[np.setdiff1d(np.arange(len(unknown)), np.asarray(layers, dtype=np.int64))] = False
    if responses is not None and unknown.any() and not responses.sketched:
        sketches = resketched(responses, store.path)
        store.rewrite(dataclasses.replace(store.header, responses=sketches))
    jobs = [
        Cells(int(at), tuple(np.flatnonzero(unknown[at]).tolist())) for at in np.flatnonzero(unknown.any(1))
    ]
    wanted = claim(jobs) if claim and jobs else jobs
    failures: list[Failure[Cells]] = []
    moved: list[bool] = []
    for done, result in enumerate(run(wanted) if wanted else ()):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        cells, changes = result
        moved.append(changed_by(changes))
        places = tuple(columns[list(cells.columns)].tolist())
        store.append_response(
            Response(cells.layer, changes, settings.num_images, settings.noise_seed, provenance, places)
        )
        if progress:
            progress(done + 1, len(wanted), bank.layers[cells.layer].name)
    if len(moved) >= PART * len(bank.layers):  # a few may be those that nothing depends on
        say_if_unmoved(moved, "layers")
    known = store.header.responses
    if known is not None and known.sketched:
        finish = summarized if layers is None else summarized_in_part
        store.rewrite(dataclasses.replace(store.header, responses=finish(known)))
    check_complete(failures)
    return store


class Prober:
    """Draws the images of full precision once, and those of any option of any layer.

    Args:
        pipe: at full precision.
        bank: the denoiser's bank.
        settings: how to draw; ``num_images`` is the number of images per option.
        around: int8 [L], a config that an option is measured in, in place of full precision: where errors do
            not add up from full precision on, they do from there. The changes of all layers' options add up
            to the change from full precision in either case.
    """

    def __init__(
        self, pipe: Any, bank: Bank, settings: EvaluationSettings, around: np.ndarray | None = None
    ) -> None:
        self._bank = bank
        denoiser = denoiser_like(pipe, bank.denoiser)
        table = calibrate(pipe, denoiser, bank.layers, bank.activation_options, settings)
        self._applier = Applier(bank, denoiser, table)
        self._all_full = np.full(len(bank.layers), FULL_PRECISION, dtype=np.int8)
        self._untouched = np.zeros(len(bank.layers), dtype=np.int8)
        self._generator = Generator(pipe, settings, unwatched=True)
        self._features = load_features(settings.features).to(pipe.device) if settings.reference else None
        self._full = self._draw()
        self._around = self._all_full if around is None else around
        self._base = self._full
        if around is not None:
            with self._applier as applier:
                applier.apply(around, self._untouched)
                self._base = self._draw()

    def run(self, cells: Iterable[Cells]) -> Iterator[tuple[Cells, Changes]]:
        """Measures layers one after another.

        Raises:
            QsdError: an option draws no finite images.
        """
        for some in cells:
            yield some, self._changes(some)

    def _changes(self, cells: Cells) -> Changes:
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self._full}
        layer, alone = cells.layer, list(self._alone(cells.layer))
        for spelled, config, activations in (alone[column] for column in cells.columns):
            drawn = self._base  # where a layer cannot take an option nothing changes
            if (config != self._around).any() or activations.any():
                with self._applier as applier:
                    applier.apply(config, activations)
                    try:
                        drawn = self._draw()
                    except QsdError as error:
                        raise QsdError(
                            f"{self._bank.layers[layer].name}: {spelled} alone: {error}"
                        ) from error
            for name, full in self._full.items():
                base = self._base[name]
                change = drawn[name] - base
                if not activations.any():  # every config has one weight option in each layer
                    change = change + (base - full) / len(self._bank.layers)
                if not change.isfinite().all():
                    raise QsdError(f"{self._bank.layers[layer].name}: {spelled} alone draws no finite images")
                rows[name].append(_sketched(change).flatten())
        return {name: np.stack(values) for name, values in rows.items()}

    def _alone(self, layer: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Every option of a layer, then every activation option of it: text, config, activations."""
        for option, weights in enumerate(self._bank.options):
            config = self._around.copy()
            if self._bank.weights[layer][option] is not None:
                config[layer] = option
            yield str(weights), config, self._untouched
        roundable = can_round(self._bank.macs)[layer]
        for option, rounded in enumerate(self._bank.activation_options[1:], start=1):
            activations = self._untouched.copy()
            if roundable:
                activations[layer] = option
            yield f"activation option {rounded}", self._around, activations

    @torch.no_grad()  # not inference_mode: some pipelines are guided by gradients
    def _draw(self) -> dict[str, torch.Tensor]:
        """Latents and, where there is an extractor, features, float32 [images, d].

        The squared length of an image's latents is their mean square.
        """
        drawn: dict[str, list[torch.Tensor]] = {"latents": []}
        if self._features is not None:
            drawn["features"] = []
        for _, latents, images in self._generator.batches(self._generator.settings.noise_seed):
            drawn["latents"].append(latents.flatten(1) / latents[0].numel() ** 0.5)
            if self._features is not None:
                with enough_memory("measuring", self._generator.settings.batch_size):
                    drawn["features"].append(self._features(images)[0].float().cpu())
        return {name: torch.cat(parts) for name, parts in drawn.items()}


def _sketched(values: torch.Tensor) -> np.ndarray:
    """A random projection of every image that keeps lengths and angles, float32 [images, d] to [images, e].

    It is the same for all images, so a mean of sketches is a sketch of the mean. Every element is added, with
    a random sign, to a random one of e sums: Weinberger et al., "Feature hashing for large scale multitask
    learning" (ICML 2009). What is small enough stays as it is.
    """
    images, size = values.shape
    count = max(1, SKETCH // images)
    if size <= count:
        return values.numpy()
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(count, (size,), generator=generator)
    sign = torch.randint(2, (size,), generator=generator) * 2 - 1
    return torch.zeros(images, count).index_add_(1, place, values * sign).numpy()


def summarized(responses: Responses) -> Responses:
    """What is kept of sketches: principal coordinates of each space and of the mean of features.

    Options that are not measured in all layers stay NaN.
    """
    complete, images = responses.complete(), responses.num_images
    if not complete.any():
        return responses
    spaces: dict[str, np.ndarray] = {}
    bases: dict[str, Basis] = {}
    for name, sketches in responses.spaces.items():
        rows = sketches[:, complete].astype(np.float64)
        changes = rows.reshape(*rows.shape[:2], images, -1)
        unit = _units(changes)
        balanced = np.divide(changes, unit[:, None], out=np.zeros_like(changes), where=unit[:, None] > 0)
        spaces[name], directions = _principal(balanced.reshape(*rows.shape[:2], -1) / images**0.5)
        blocks = directions.reshape(len(directions), images, -1)
        scale = np.abs(blocks).max(axis=2) / _MOST_OF_BYTE
        codes = np.rint(blocks / np.where(scale > 0, scale, 1)[:, :, None]).astype(np.int8)
        bases[name] = Basis(codes, scale.astype(np.float32), unit.astype(np.float32))
        if name == "features":  # FID begins with the shift of their mean
            spaces["mean_features"], _ = _principal(balanced.mean(axis=2))
    kept: dict[str, np.ndarray] = {}
    for name, values in spaces.items():
        kept[name] = np.full((len(values), len(complete), values.shape[2]), np.nan, np.float32)
        kept[name][:, complete] = values
    return dataclasses.replace(responses, spaces=kept, sketched=False, bases=bases)


def summarized_in_part(responses: Responses) -> Responses:
    """:func:`summarized` of the layers of which everything is measured; the others are NaN."""
    layers, missing = len(next(iter(responses.spaces.values()))), responses.missing()
    measured = np.setdiff1d(np.arange(layers), missing)
    if not len(measured) or not len(missing):
        return summarized(responses)
    part = {name: values[measured] for name, values in responses.spaces.items()}
    found = summarized(dataclasses.replace(responses, spaces=part))
    spaces = {}
    for name, values in found.spaces.items():
        spaces[name] = np.full((layers, *values.shape[1:]), np.nan, np.float32)
        spaces[name][measured] = values
    return dataclasses.replace(found, spaces=spaces)


def resketched(responses: Responses, path: str | Path) -> Responses:
    """The sketches that coordinates stand for, but for what 256 coordinates leave out.

    Args:
        responses: coordinates, with their bases.
        path: of the store, for the message.

    Raises:
        QsdError: there are no bases.
    """
    if not responses.bases:
        raise QsdError(
            f"{path}: probed by an older qsd, which did not keep what new options are compared by; "
            "probe again with --restart true"
        )
    spaces = {}
    for name, basis in responses.bases.items():
        directions = basis.directions * (basis.scale * basis.unit)[:, :, None].astype(np.float64)
        rows = responses.spaces[name] @ directions.reshape(len(directions), -1)
        spaces[name] = (rows * responses.num_images**0.5).astype(np.float32)
    return dataclasses.replace(responses, spaces=spaces, sketched=True, bases={})


def _units(changes: np.ndarray) -> np.ndarray:
    """Of changes [L, O, images, e], units in which all images change equally, over all options, [images].

    A few sensitive images turn into others under many options. They would fill the sums, and they are not
    those that turn when a label's hundreds are drawn.
    """
    mean_square = np.square(changes).sum(axis=3).mean(axis=(0, 1))
    return np.asarray(np.sqrt(mean_square / max(mean_square.mean(), 1e-300)))


def _principal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along the at most 256 directions in which the changes [L, O, d] differ most.

    Returns:
        Coordinates float32 [L, O, c], and the directions float64 [c, d].
    """
    flat = values.reshape(-1, values.shape[-1])
    left, lengths, directions = np.linalg.svd(flat, full_matrices=False)
    count = max(1, int((lengths > 1e-7 * lengths[0]).sum()))  # the rest is what float32 rounds away
    count = min(count, _COORDINATES)
    coordinates = (left * lengths)[:, :count].reshape(*values.shape[:2], -1)
    return coordinates.astype(np.float32), directions[:count]
