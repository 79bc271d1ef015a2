"""The search: seeds from the additive approximation, NSGA-II, then local improvement at the budget."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from qsd.bank.sizes import average_bits, config_bytes
from qsd.configs.sampling import sample_configs
from qsd.quantizers.options import Option
from qsd.search.budget import Budget, uniform_configs
from qsd.search.evaluator import Evaluator, Predictor
from qsd.search.front import Front, FrontMeta
from qsd.search.improve import improve
from qsd.search.knapsack import solve_knapsack
from qsd.search.lagrangian import fit_additive, lagrangian_front
from qsd.search.nsga2 import evolve
from qsd.search.repair import Downgrades, repair
from qsd.support.progress import Progress


@dataclass(frozen=True)
class SearchSettings:
    """How much to search.

    Attributes:
        population: Configs per generation of NSGA-II.
        generations: Generations of NSGA-II.
        improve_rounds: Rounds of local improvement at the budget, at most.
        additive_samples: Random configs that the additive approximation is fitted to, where none is given.
        kappa: Configs are scored by predicted mean - kappa * ensemble spread; see `Evaluator`.
        max_members: A front is thinned to so many members, evenly along itself; its ends stay.
    """

    population: int = 128
    generations: int = 40
    improve_rounds: int = 40
    additive_samples: int = 1000
    kappa: float = 0.5
    max_members: int = 128


def search(
    predictor: Predictor,
    num_bytes: np.ndarray,
    num_weights: np.ndarray,
    options: Sequence[Option],
    *,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    additive: np.ndarray | None = None,
    meta: FrontMeta | None = None,
    settings: SearchSettings = SearchSettings(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Front:
    """Searches configs of high predicted quality and few bytes, none above the budget.

    Args:
        predictor: int8 [n, L] -> predicted quality float [n], larger is better; or an object with
            `predict_with_spread`, see `Predictor`.
        num_bytes: int64 [L, O], exact bytes of each option of each layer.
        num_weights: int64 [L].
        options: The option table, O entries.
        max_bits: Budget in average bits per weight; give this, `max_bytes`, or neither (no limit).
        max_bytes: Budget in bytes.
        additive: float [L, O], an additive approximation of the quality for seeds and repairs; None fits one
            to the predictor.
        meta: Names and identities; the search fills in budget, seed, kappa and settings.
        settings: How much to search.
        seed: Equal seeds give equal fronts.
        progress: Called per generation and per round.

    Returns:
        The non-dominated configs among all that were predicted and fit the budget.

    Raises:
        QsdError: The budget is below the smallest possible size, or the predictor returns NaN.
    """
    budget = Budget.make(num_bytes, num_weights, max_bits=max_bits, max_bytes=max_bytes)
    rng = np.random.default_rng(seed)
    evaluator = Evaluator(predictor, settings.kappa)
    random_configs = sample_configs(options, len(num_bytes), settings.additive_samples, seed)
    if additive is None:
        additive = fit_additive(random_configs, evaluator(random_configs), len(options))
    downgrades = Downgrades.make(additive, num_bytes)

    def fit(configs: np.ndarray) -> np.ndarray:
        return repair(configs, num_bytes, budget.max_bytes, downgrades, rng)

    steps = settings.generations + settings.improve_rounds
    population = evolve(
        evaluator,
        seed_configs(additive, num_bytes, budget, random_configs[: settings.population]),
        num_bytes,
        fit,
        rng,
        settings.population,
        settings.generations,
        _shifted(progress, 0, steps),
    )
    improve(
        evaluator,
        population,
        num_bytes,
        budget.max_bytes,
        _additive_near_the_best(evaluator, len(options)),
        rng,
        settings.improve_rounds,
        settings.population,
        _shifted(progress, settings.generations, steps),
    )
    names = tuple(str(option) for option in options)
    meta = meta or FrontMeta(tuple(f"layer{index}" for index in range(len(num_bytes))), names)
    meta = replace(
        meta,
        max_bytes=budget.max_bytes,
        max_bits=budget.max_bits,
        seed=seed,
        kappa=settings.kappa,
        settings={**asdict(settings), "evaluations": evaluator.count},
    )
    return front_of(evaluator, num_bytes, num_weights, budget, meta, settings.max_members)


def seed_configs(
    additive: np.ndarray, num_bytes: np.ndarray, budget: Budget, random_configs: np.ndarray
) -> np.ndarray:
    """The first population: the best additive configs, the exact one at the budget, uniform and random ones.

    Args:
        additive: float [L, O].
        num_bytes: int64 [L, O].
        budget: What the exact additive optimum is computed for.
        random_configs: int8 [r, L].

    Returns:
        int8 [s, L]; some may exceed the budget.
    """
    hull = lagrangian_front(additive, num_bytes)
    within = hull[config_bytes(hull, num_bytes) <= budget.max_bytes]
    exact = solve_knapsack(additive, num_bytes, budget.max_bytes)
    uniform = uniform_configs(*num_bytes.shape)
    return np.concatenate([exact[None, :], within, uniform, random_configs])


def _additive_near_the_best(evaluator: Evaluator, num_options: int) -> np.ndarray:
    """The additive approximation fitted anew to the best configs seen, float64 [L, O]."""
    configs, _, _ = evaluator.archive()
    score = evaluator(configs)
    best = np.argsort(-score, kind="stable")[:2000]
    return fit_additive(configs[best], score[best], num_options)


def front_of(
    evaluator: Evaluator,
    num_bytes: np.ndarray,
    num_weights: np.ndarray,
    budget: Budget,
    meta: FrontMeta,
    max_members: int,
) -> Front:
    """The non-dominated configs within the budget among all that an evaluator has predicted."""
    configs, predicted, spread = evaluator.archive()
    score, size = evaluator(configs), config_bytes(configs, num_bytes)
    order = np.lexsort((-score, size))
    order = order[size[order] <= budget.max_bytes]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], score[order][:-1]]))
    order = order[score[order] > best_before]
    if len(order) > max_members:
        order = order[np.unique(np.linspace(0, len(order) - 1, max_members).round().astype(int))]
    return Front(
        configs=configs[order],
        predicted=predicted[order],
        spread=None if spread is None else spread[order],
        num_bytes=size[order],
        avg_bits=average_bits(size[order], num_weights),
        meta=meta,
    )


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Progress of one phase as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _, message: progress(start + done, total, message)
