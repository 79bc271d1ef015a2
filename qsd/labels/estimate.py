"""What probing and labeling will cost, from a few images drawn and one layer quantized."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from qsd.bank import Bank, layer_weight
from qsd.denoisers.layers import WeightLayer
from qsd.evaluation.evaluator import LABELS
from qsd.evaluation.extractors import feature_width
from qsd.evaluation.generate import Generator
from qsd.evaluation.memory import PeakMeter, largest_batch, usable_bytes
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.labeling import num_missing
from qsd.labels.probing import SKETCH
from qsd.labels.shards import stores_with_shards
from qsd.quantizers import Option, quantize
from qsd.store import Store
from qsd.support.heap import peak_bytes


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a job will take.

    Attributes:
        images: by stage, images to draw.
        seconds_per_image: measured at full precision, metrics left out.
        bank_seconds: to quantize every layer by every option, from one layer; 0 where that is done.
        disk_bytes: of what will be written.
        peak_memory: bytes of main memory that this process has needed until now, drawing included.
        batch_size: images a batch, as it is set.
        largest_batch: images that a batch may have in the memory that is free, from the peaks of two batches;
            None where that cannot be told.
        workers: processes that draw side by side.
        remarks: what the numbers should make one think of.
    """

    images: Mapping[str, int]
    seconds_per_image: float
    bank_seconds: float
    disk_bytes: int
    peak_memory: int
    batch_size: int
    largest_batch: int | None
    workers: int = 1
    remarks: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Images of all stages."""
        return sum(self.images.values())

    @property
    def hours(self) -> float:
        """Time of all stages."""
        drawing = self.num_images * self.seconds_per_image / self.workers
        return (self.bank_seconds + drawing) / 3600


def estimate(
    pipe: Any,
    module: nn.Module,
    layers: Sequence[WeightLayer],
    options: Sequence[Option],
    settings: EvaluationSettings,
    images: Mapping[str, int],
    *,
    workers: int = 1,
) -> Cost:
    """Draws a few batches and quantizes one layer; nothing is written.

    Args:
        pipe: at full precision.
        module: its denoiser.
        layers: the weight layers.
        options: the option table.
        settings: how images will be drawn.
        images: by stage, how many.
        workers: processes that will draw side by side.
    """
    middle = sorted(layers, key=lambda layer: layer.num_weights)[len(layers) // 2]
    usable = [option for option in options if option.accepts(middle.shape)]
    weight = layer_weight(module, middle)
    quantize(weight, usable)  # compiles kernels
    start = time.perf_counter()
    quantize(weight, usable)
    bank_seconds = (time.perf_counter() - start) / middle.num_weights * sum(x.num_weights for x in layers)
    peak = peak_bytes()
    drawn = _drawn(pipe, settings, workers)
    return Cost(
        images=images,
        seconds_per_image=drawn.seconds_per_image,
        bank_seconds=bank_seconds,
        disk_bytes=sum(
            option.num_bytes(layer.shape)
            for layer in layers
            for option in options
            if option.accepts(layer.shape)
        ),
        peak_memory=max(peak, peak_bytes()),
        batch_size=settings.batch_size,
        largest_batch=drawn.largest,
        workers=workers,
        remarks=tuple(_remarks(settings)),
    )


def label_cost(
    pipe: Any,
    bank: Bank,
    store: str | Path,
    settings: EvaluationSettings,
    num_configs: int,
    split: str | None = None,
    workers: int = 1,
    active: bool = False,
) -> Cost:
    """What labeling will take from where the store and its shards are; draws a few batches, writes nothing.

    Args:
        pipe: at full precision.
        bank: of its denoiser.
        store: that need not exist.
        settings: how labels are drawn; ``num_images`` is the number of images of each.
        num_configs: that the store shall have: of the stream, of a split of it, or chosen ones.
        split: only configs of this split.
        workers: processes that draw side by side.
        active: whether configs are chosen.
    """
    stores = stores_with_shards(store)
    if active:
        missing = max(num_configs - sum(int((some.records.index < 0).sum()) for some in stores), 0)
    else:
        missing = num_missing(stores, num_configs, settings.noise_seed, settings.num_images, split)
    num_labels = sum(settings.yields(label.name) for label in LABELS)
    images = {"full precision": settings.num_images, "label": missing * settings.num_images}
    disk = missing * record_bytes(len(bank.layers), num_labels)
    return _drawing(pipe, settings, images, disk, workers=workers)


def probe_cost(
    pipe: Any, bank: Bank, store: str | Path, settings: EvaluationSettings, workers: int = 1
) -> Cost:
    """The same of probing; ``settings.num_images`` is the number of images per option."""
    responses = Store.open(store).header.responses if Path(store).exists() else None
    missing = responses.missing() if responses else np.arange(len(bank.layers))
    pairs = int(bank.available[missing].sum())
    images = {"full precision": settings.num_images, "probe": pairs * settings.num_images}
    spaces = 1 if settings.reference is None else 2
    disk = len(missing) * len(bank.options) * SKETCH * 4 * spaces
    return _drawing(pipe, settings, images, disk, workers=workers)


def _drawing(
    pipe: Any, settings: EvaluationSettings, images: Mapping[str, int], disk_bytes: int, *, workers: int = 1
) -> Cost:
    """Draws a few batches for the cost of what needs no more than drawing; nothing is written.

    Args:
        pipe: at full precision.
        settings: how images will be drawn.
        images: by stage, how many.
        disk_bytes: that will be written.
        workers: processes that will draw side by side.
    """
    peak = peak_bytes()
    drawn = _drawn(pipe, settings, workers)
    return Cost(
        images=images,
        seconds_per_image=drawn.seconds_per_image,
        bank_seconds=0.0,
        disk_bytes=disk_bytes,
        peak_memory=max(peak, peak_bytes()),
        batch_size=settings.batch_size,
        largest_batch=drawn.largest,
        workers=workers,
        remarks=tuple(_remarks(settings)),
    )


def record_bytes(num_layers: int, num_labels: int) -> int:
    """What one record takes on disk at most, its journal entry included."""
    return 2 * (2 * num_layers + 8 * num_labels + 64)


def probe_images(layers: Sequence[WeightLayer], options: Sequence[Option], per_option: int) -> int:
    """Images that probing draws, those at full precision included."""
    pairs = sum(option.accepts(layer.shape) for layer in layers for option in options)
    return per_option * (pairs + 1)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """What a few batches took: seconds an image, and how many images a batch may have, if known."""

    seconds_per_image: float
    largest: int | None


def _drawn(pipe: Any, settings: EvaluationSettings, processes: int) -> _Batches:
    """Draws half a batch, a whole one, which warm up and tell what memory an image takes, and a timed one."""
    batch = min(settings.batch_size, max(1, settings.num_images // 2))
    few = dataclasses.replace(settings, num_images=2 * batch, batch_size=batch)
    generator = Generator(pipe, few, unwatched=True)
    meter, peaks = PeakMeter(pipe.device), list[tuple[int, int]]()
    for count in sorted({max(1, batch // 2), batch}):
        generator.draw(slice(0, count), few.noise_seed)
        peak = meter.read()
        peaks += [] if peak is None else [(count, peak)]
    start = time.perf_counter()
    generator.draw(slice(batch, 2 * batch), few.noise_seed)
    seconds = (time.perf_counter() - start) / batch
    usable = usable_bytes(pipe.device, processes)
    if len(peaks) < 2 or usable is None or generator.one_by_one:
        return _Batches(seconds, None)
    return _Batches(seconds, largest_batch(peaks[0], peaks[-1], usable))


def _remarks(settings: EvaluationSettings) -> list[str]:
    if settings.reference is None:
        return ["no real images: only the distance to the full-precision images is measured"]
    width = feature_width(settings.features)
    if width is not None and settings.num_images < 2 * width:
        return [
            f"FID on {settings.num_images} images and {width} features is biased; it ranks configs of one "
            f"model, and should not be compared with others' FID (take {2 * width} images or more for that)"
        ]
    return []
