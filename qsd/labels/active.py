"""Chooses the next configs to label: those that may be better than the best, and those that tell most.

The process on responses (:mod:`qsd.ranker.process`) says of every config how good it will be and how sure
that is. Half of a batch has the largest expected improvement (Jones, Schonlau and Welch, "Efficient global
optimization of expensive black-box functions", Journal of Global Optimization 13, 1998), the other half the
largest variance. What was chosen counts as measured, at its predicted value, for the rest of its batch
(Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize optimization", 2010).
"""

import dataclasses

import numpy as np
from scipy.stats import norm

from qsd.bank import Bank
from qsd.bank.sizes import average_bits, config_bytes
from qsd.configs.sampling import sample_configs
from qsd.labels.labeling import PatientRun, label
from qsd.labels.measurer import Job
from qsd.labels.watching import Watch
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.posteriors import FEWEST, TARGET, fit_posteriors
from qsd.ranker.predictors import ProcessPredictor
from qsd.ranker.process import ResponseProcess
from qsd.ranker.store_data import prepare
from qsd.ranker.target import Target
from qsd.store import Places, Store
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

_CANDIDATES = 1000
_DRAWS = 20  # times so many random configs are looked at to fill a budget
_MUTATED = 0.05  # of the layers of a good config


@dataclasses.dataclass(frozen=True)
class ActiveSettings:
    """How configs are chosen.

    Attributes:
        target: what shall be large, an expression over labels.
        max_bits: only configs of at most so many average bits per weight; None for all.
        batch: configs chosen at a time; between batches the process learns.
        seed: of the candidates.
    """

    target: str = "-log(fid)"
    max_bits: float | None = None
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise QsdError(f"active: batch is {self.batch}; give at least 1")


def label_actively(
    store: Store,
    bank: Bank,
    num_configs: int,
    noise_seed: int,
    run: PatientRun,
    settings: ActiveSettings,
    *,
    num_images: int | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Store:
    """Chooses, measures and learns until a store has so many chosen configs.

    Records of chosen configs have negative indices, so they are learned from and never tested on.

    Args:
        store: probed; held by :func:`qsd.labels.open_or_create`.
        bank: whose options are chosen from; all of them are probed.
        num_configs: chosen configs that the store shall have in the end.
        noise_seed: of the images.
        run: measures jobs.
        settings: how to choose.
        num_images: of each label; by default those of the store's conditions.
        progress: called after every record.
        watch: told of every record.

    Raises:
        QsdError: the store was not probed, or the budget leaves no configs.
    """
    responses = store.header.responses
    places = Places.of(store.header, bank.options, bank.activation_options)
    if responses is None or responses.unknown()[:, places.columns].any():
        raise QsdError(f"{store.path}: --strategy active needs a probed store; run `qsd probe` first")
    in_bank = np.full(len(store.header.options), -1)
    in_bank[places.options] = np.arange(len(bank.options))
    begun = int((store.records.index < 0).sum())
    while (done := int((store.records.index < 0).sum())) < num_configs:
        chosen = choose(store, min(settings.batch, num_configs - done), settings, places.options, step=done)
        lowest = int(store.records.index.min(initial=0))
        jobs = [
            Job(min(lowest, 0) - 1 - place, in_bank[config].astype(np.int8), noise_seed)
            for place, config in enumerate(chosen)
        ]

        def moved(number: int, total: int, message: str, before: int = done) -> None:
            if progress:
                progress(before - begun + number, num_configs - begun, message)

        label(store, jobs, run, moved, bank=bank, num_images=num_images, watch=watch)
    return store


def choose(
    store: Store, count: int, settings: ActiveSettings, options: np.ndarray, step: int = 0
) -> np.ndarray:
    """The next configs, int8 [count, L], in the store's table.

    Args:
        store: probed.
        count: how many.
        settings: how to choose.
        options: int [O], places in the store's table of the options to choose from.
        step: another one gives other candidates.

    Raises:
        QsdError: the budget leaves no configs.
    """
    rng = np.random.default_rng([settings.seed, step])
    candidates = _candidates(store, settings, options, rng)
    known = {config.tobytes() for config in store.records.config}
    candidates = candidates[[config.tobytes() not in known for config in candidates]]
    predictor = _predictor(store, settings.target)
    if predictor is None:  # nothing to learn from yet
        return candidates[:count]
    return candidates[best_batch(predictor, candidates, count)]


def best_batch(predictor: ProcessPredictor, candidates: np.ndarray, count: int) -> list[int]:
    """Rows of candidates int8 [n, L]: by turns the largest expected improvement and the largest variance."""
    process, kernel = predictor.process, predictor.process.kernel
    configs, warped, counts = predictor.configs, predictor.warped, predictor.num_images
    best = float(warped.max())
    rows: list[int] = []
    for turn in range(min(count, len(candidates))):
        mean, variance = process(candidates)
        certain = np.maximum(variance - kernel.noise, 1e-12)
        value = expected_improvement(mean, certain, best) if turn % 2 == 0 else certain
        value[rows] = -np.inf
        row = int(value.argmax())
        rows.append(row)
        configs, warped = np.vstack([configs, candidates[row]]), np.append(warped, mean[row])
        counts = None if counts is None else np.append(counts, counts.max())
        process = ResponseProcess(process.alone, configs, warped, kernel, counts)
    return rows


def expected_improvement(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    """By how much a normal value of that mean and variance, each float64 [n], exceeds the best on average."""
    deviation = np.sqrt(variance)
    z = (mean - best) / deviation
    return deviation * (z * norm.cdf(z) + norm.pdf(z))


def _predictor(store: Store, target: str) -> ProcessPredictor | None:
    if len(store.records) < FEWEST:
        return None
    found = fit_posteriors(Ensemble(), prepare(store, Target(target)))[TARGET]
    return found if isinstance(found, ProcessPredictor) else None


def _candidates(
    store: Store, settings: ActiveSettings, options: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Random configs within the budget, and the best known ones with a few layers changed."""
    header = store.header
    drawn = options[
        sample_configs(
            [header.options[place] for place in options],
            len(header.layers),
            _CANDIDATES if settings.max_bits is None else _DRAWS * 500,
            int(rng.integers(2**31)),
            available=header.available[:, options],
        )
    ].astype(np.int8)
    if len(store.records):
        value = Target(settings.target).evaluate(store)
        ours = np.isin(store.records.config, options).all(axis=1)
        order = np.argsort(-np.where(value.valid & ours, value.values, -np.inf), kind="stable")
        parents = store.records.config[order[:20]][rng.integers(min(20, len(order)), size=_CANDIDATES)]
        others = drawn[rng.integers(len(drawn), size=_CANDIDATES)]
        drawn = np.concatenate([drawn, np.where(rng.random(parents.shape) < _MUTATED, others, parents)])
    drawn = np.unique(drawn, axis=0)
    if settings.max_bits is not None:
        bits = average_bits(config_bytes(drawn, header.num_bytes), header.num_weights)
        drawn = drawn[bits <= settings.max_bits]
        if not len(drawn):
            raise QsdError(
                f"active: none of {_DRAWS * 500} random configs has at most {settings.max_bits} bits; raise "
                "--active.max-bits"
            )
    return rng.permutation(drawn)[: 2 * _CANDIDATES]
