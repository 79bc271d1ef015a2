"""What every searcher is given, and the front that it gives back."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from qsd.search.budget import Budget
from qsd.search.evaluator import Evaluator
from qsd.search.front import Front, FrontMeta
from qsd.search.posterior import Certain, Posterior, PosteriorPredictor
from qsd.search.space import Space
from qsd.support.errors import QsdError
from qsd.support.progress import Progress


@dataclass(frozen=True)
class SearchSettings:
    """How much to search.

    Attributes:
        population: Configs per generation of NSGA-II.
        generations: Generations of NSGA-II.
        improve_rounds: Rounds of local improvement at the budget, at most, from each of three starts.
        additive_samples: Random configs that the additive approximation is fitted to, where none is given,
            and that random search draws.
        confidence: Configs are scored by what their quality exceeds with this probability; see `Evaluator`.
        max_members: A front is thinned to so many members, evenly along itself; its ends stay.
    """

    population: int = 128
    generations: int = 40
    improve_rounds: int = 40
    additive_samples: int = 1000
    confidence: float = 0.7
    max_members: int = 128

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise QsdError(f"settings.confidence is {self.confidence}; give 0.5 (trust the mean) to below 1")
        if min(self.population, self.additive_samples, self.max_members) < 2:
            raise QsdError("settings: population, additive_samples and max_members must be at least 2")


@dataclass(frozen=True)
class Candidates:
    """What is known of one module: some ways to choose its layers, with a score each.

    Attributes:
        layers: int64 [W], positions of its layers.
        options: int8 [C, W], combinations of options.
        score: float64 [C], larger is better.
    """

    layers: np.ndarray
    options: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Task:
    """A space, a budget, and what is known of configs; a searcher needs a part of it.

    Attributes:
        space: What may be chosen.
        budget: Never exceeded.
        predictor: Of the quality of configs int8 [n, L]. Where there is one, every searcher's configs are
            ranked by it.
        score: float64 [L, O], quality that adds up over layers, larger is better.
        modules: What is known of modules, for `block`.
        further_scores: Other such scores: of other values of beta for `orthogonality`, probed energies where
            `evolution` and `length` start.
        settings: How much to search.
        seed: Equal seeds give equal fronts.
        meta: Names and identities; searchers fill in budget, seed, confidence and settings.
        progress: Called as the search advances.
    """

    space: Space
    budget: Budget
    predictor: PosteriorPredictor | None = None
    score: np.ndarray | None = None
    modules: tuple[Candidates, ...] = ()
    further_scores: tuple[np.ndarray, ...] = ()
    settings: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    meta: FrontMeta | None = None
    progress: Progress | None = None

    @property
    def values(self) -> np.ndarray:
        """The additive score by unit, float64 [U, O]; -infinity where an option is not available."""
        if self.score is None:
            raise ValueError("this searcher needs a score")
        return self.space.by_unit(self.score)

    def evaluator(self) -> Evaluator:
        """Predicts choices int8 [n, U]: by the predictor, or else by the additive score."""
        if self.predictor is None:
            values, units = self.values, np.arange(len(self.space.num_bytes))
            return Evaluator(Certain(lambda chosen: values[units, chosen].sum(axis=1)), 0.5)
        return Evaluator(OfUnits(self.predictor, self.space), self.settings.confidence)

    def front(self, evaluator: Evaluator, method: str) -> Front:
        """The non-dominated choices within the budget among all that an evaluator has predicted."""
        units, predicted, std = evaluator.archive()
        score, size = evaluator(units), self.space.bytes_of(units)
        order = np.lexsort((-score, size))
        order = order[size[order] <= self.budget.max_bytes]
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], score[order][:-1]]))
        order = order[score[order] > best_before]
        if not len(order):
            raise QsdError(
                f"{method}: none of its configs has at most {self.budget.max_bytes} bytes "
                f"({self.budget.max_bits:.4f} average bits); the smallest has {int(size.min())}"
            )
        if len(order) > self.settings.max_members:
            places = np.linspace(0, len(order) - 1, self.settings.max_members)
            order = order[np.unique(places.round().astype(int))]
        return Front(
            configs=self.space.expand(units[order]),
            predicted=predicted[order],
            std=std[order],
            num_bytes=size[order],
            avg_bits=self.space.bits_of(size[order]),
            meta=self.meta_of(method, evaluator.count),
        )

    def meta_of(self, method: str, evaluations: int) -> FrontMeta:
        """Names, identities, budget and settings of a front that a method found."""
        names = tuple(str(option) for option in self.space.options)
        return replace(
            self.meta or FrontMeta(self.space.layer_names, names),
            max_bytes=self.budget.max_bytes if self.budget.stated else None,
            max_bits=self.budget.max_bits if self.budget.stated else None,
            seed=self.seed,
            confidence=0.5 if self.predictor is None else self.settings.confidence,
            settings={"method": method, **asdict(self.settings), "evaluations": evaluations},
        )


Searcher = Callable[[Task], Front]


@dataclass(frozen=True)
class OfUnits:
    """A predictor of configs as one of choices."""

    predictor: PosteriorPredictor
    space: Space

    def posterior(self, configs: np.ndarray, activations: np.ndarray | None = None) -> Posterior:
        return self.predictor.posterior(self.space.expand(configs), activations)
