"""The demo: ``qsd compress`` on a miniature whose store is labeled already, with more comparisons."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from qsd.bank import Applier, Bank
from qsd.cli.compressing import Bar, Compression, Fit, Plan
from qsd.cli.goals import Effort, Goal
from qsd.configs.document import load_config
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.search import SearchSettings
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.paths import find


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on.

    Attributes:
        pipeline: the pipeline to quantize.
        store: labeled configs that come with it, over the option table that is searched.
        evaluation: how the store was labeled; images per label and per KID subset are the store's own.
        verification_images: images per config and noise seed when full precision, uniform, random and
            searched configs are compared.
        ranker: YAML that ``lightning fit`` reads.
        extra_labels: configs labeled on top of the store's, to show how labeling goes.
        max_bits: budgets in average bits; what is found for the last one is exported.
        noise_seeds: seeds of the verification; not the one that the labels were measured with.
        search: how much to search.
        workers: processes that measure side by side.
    """

    pipeline: str
    store: str
    evaluation: EvaluationSettings
    ranker: str
    verification_images: int = 1000
    extra_labels: int = 4
    max_bits: tuple[float, ...] = (4.0, 3.5)
    noise_seeds: tuple[int, ...] = (1, 2, 3)
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    workers: int = 2


def run_demo(
    settings: DemoSettings, out: str | Path, *, bar: Bar, fit: Fit, command: str = ""
) -> dict[str, Any]:
    """Runs every stage of ``qsd compress`` on the store's copy, and opens the export again.

    Args:
        settings: what to run on.
        out: folder to write to.
        bar: makes a progress bar from a title.
        fit: runs ``lightning fit`` with the given words.
        command: for the provenance.

    Returns:
        The content of ``summary.json``.

    Raises:
        QsdError: the evaluation names no real images.
    """
    if settings.evaluation.reference is None:
        raise QsdError("the demo compares FIDs, which need real images; name them as evaluation.reference")
    shipped = Store.open(find(settings.store))
    conditions, responses = shipped.header.conditions, shipped.header.responses
    evaluation = dataclasses.replace(
        settings.evaluation,
        num_images=conditions["num_images"],
        kid_subset_size=conditions["kid_subset_size"],
    )
    begun = set(shipped.records.index.tolist())
    labels = next(index for index in itertools.count() if index not in begun) + settings.extra_labels
    plan = Plan(
        Effort(responses.num_images if responses else 16, labels, len(settings.noise_seeds)),
        [str(option) for option in shipped.header.options],
        evaluation,
        dataclasses.replace(evaluation, num_images=settings.verification_images),
        settings.ranker,
        settings.search,
        tuple(settings.noise_seeds),
        every=True,
        workers=settings.workers,
    )
    goals = [Goal(max_bits=bits) for bits in settings.max_bits]
    run = Compression(settings.pipeline, out, goals, plan, command=command, bar=bar)
    if not (run.work / "store.h5").exists():
        Store.create(run.work / "store.h5", shipped.header, shipped.records)
    summary = run.run(fit)
    summary["max_abs_difference"] = _difference(run)
    summary["settings"] = dataclasses.asdict(settings)
    run.save(summary)
    return summary


def _difference(run: Compression) -> float:
    """Largest difference of what the export draws, once diffusers has opened it, to the config itself."""
    evaluation = dataclasses.replace(run.verification, num_images=run.verification.batch_size)
    bank = Bank.load(run.work / "bank.safetensors")
    names = [str(option) for option in bank.options]
    config = load_config(run.out / "config.json", bank.layer_names, names, bank.denoiser)
    reloaded = _latents(load_pipeline(run.out / "pipeline"), evaluation, run.seeds[0])
    with Applier(bank, denoiser_of(run.pipe)) as applier:
        applier.apply(config)
        applied = _latents(run.pipe, evaluation, run.seeds[0])
    return float((reloaded - applied).abs().max())


def _latents(pipe: DiffusionPipeline, evaluation: EvaluationSettings, noise_seed: int) -> torch.Tensor:
    """The final latents of a few images, float32 [n, C, h, w]."""
    return torch.cat([latents for _, latents, _ in Generator(pipe, evaluation).batches(noise_seed)])
