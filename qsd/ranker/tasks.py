"""From what is at hand (bank, ranker, store, similarities) to the task of a searcher."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from qsd.bank import Bank
from qsd.denoisers.components import denoiser_like
from qsd.denoisers.identity import check_same_denoiser
from qsd.evaluation.grams import feature_grams
from qsd.evaluation.settings import EvaluationSettings
from qsd.ranker.baselines import Ridge, one_hot
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.hop_scores import module_scores, operation_scores
from qsd.ranker.target import Target
from qsd.ranker.universal.completing import filled_in
from qsd.search.budget import Budget
from qsd.search.coupling import Coupling, FormatName, groups_of, held, implied_by
from qsd.search.front import FrontMeta
from qsd.search.methods import METHODS, MethodName
from qsd.search.methods.length import ChangeLength, energies
from qsd.search.methods.orthogonality import Aggregation, importance, total_similarity
from qsd.search.posterior import PosteriorPredictor
from qsd.search.space import Space
from qsd.search.task import Candidates, SearchSettings, Task
from qsd.store import Responses, Store, seen_by
from qsd.support.errors import QsdError
from qsd.support.progress import Progress

ScoreName = Literal["errors", "ridge", "energies"]


@dataclasses.dataclass(frozen=True)
class OrthogonalitySettings:
    """How MPQ-Diff weighs layers; the paper leaves these open (see :mod:`qsd.search.methods.orthogonality`).

    Attributes:
        samples: images whose features are compared; 32 as in OMPQ.
        steps: sampling steps, uniformly spaced, at which they are.
        debiased: debiased CKA; else linear CKA.
        beta: how sharply importance falls with similarity, by the mean gamma of all layers: 1 makes a layer
            of average similarity worth 1/e.
        sweep: further values of beta; the ranker, which a sweep needs, chooses among the configs of all.
        aggregation: over steps, of similarities or of importances.
        decay: weight of step s is decay**s; none weighs all alike.
        suffix_mean: the mean over the layers from each on, as OMPQ.
    """

    samples: int = 32
    steps: int = 4
    debiased: bool = True
    beta: float = 1.0
    sweep: list[float] = dataclasses.field(default_factory=list)
    aggregation: Aggregation = "similarity"
    decay: float | None = None
    suffix_mean: bool = False

    def __post_init__(self) -> None:
        if self.samples < 4 or self.steps < 1 or min([self.beta, *self.sweep]) <= 0:
            raise QsdError("orthogonality: samples must be at least 4, steps at least 1 and beta positive")


@dataclasses.dataclass(frozen=True)
class Known:
    """What there is to search with.

    Attributes:
        bank: sizes and errors.
        ranker: trained on the bank's denoiser and all its options; it becomes that of the bank's table.
        store: of the bank's denoiser and all its options, labeled or probed; likewise.
        gamma: float64 [S, L], similarities of layers by sampling step, for `orthogonality`.
    """

    bank: Bank
    ranker: Ranker | None = None
    store: Store | None = None
    gamma: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.ranker is not None:
            self.ranker.check(self.bank, "bank")
            object.__setattr__(self, "ranker", self.ranker.over(self.bank.options))
        if self.store is not None:
            object.__setattr__(self, "store", store_of(self.store, self.bank))


def space_of(
    bank: Bank,
    keep: Mapping[str, str] | None = None,
    at_least: Mapping[str, str] | None = None,
    *,
    couple: Sequence[Coupling] = (),
    format: FormatName = "qsd",
) -> Space:
    """The space of a bank's configs, with pins and floors by pattern of layer names.

    Args:
        bank: sizes and layers.
        keep: pins, pattern -> option.
        at_least: floors, pattern -> option.
        couple: layers that share an option, beside those that the format asks for.
        format: of the export, which leaves out what it cannot hold.

    Raises:
        QsdError: a layer is left without an option, or a pattern or option is unknown.
    """
    implied = implied_by(format, str(bank.denoiser.get("class", "")))
    space = Space.make(
        held(format, bank.layers, bank.options, bank.num_bytes),
        bank.num_weights,
        bank.options,
        layer_names=bank.layer_names,
        groups=groups_of(bank.layers, {*couple, *implied}),
    )
    return space.restricted(keep or {}, at_least or {}) if keep or at_least else space


def make_task(
    method: MethodName,
    known: Known,
    space: Space,
    *,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    score: ScoreName = "errors",
    orthogonality: OrthogonalitySettings = OrthogonalitySettings(),
    settings: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
    seed: int = 0,
    meta: FrontMeta | None = None,
    progress: Progress | None = None,
) -> Task:
    """What a method needs.

    Args:
        method: a name of :data:`qsd.search.METHODS`.
        known: what there is.
        space: of the bank.
        max_bits: budget in average bits per weight; this, ``max_bytes``, or neither.
        max_bytes: budget in bytes.
        score: of `knapsack`: relative errors of the weights, ridge regression on the store's labels, or
            probed energies.
        orthogonality: of that method.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        meta: names and identities.
        progress: called as the search advances.

    Raises:
        QsdError: the method needs something that is not there, or the budget is below the smallest size.
    """
    if method not in METHODS:
        raise QsdError(f"method {method!r}: there is none; use one of {', '.join(METHODS)}")
    predictor: PosteriorPredictor | None = known.ranker
    table: np.ndarray | None = None
    modules: tuple[Candidates, ...] = ()
    further: tuple[np.ndarray, ...] = ()
    match method:
        case "evolution":
            if known.ranker is None:
                raise QsdError("evolution: needs --ranker; or search without one by --method length")
            further = known.ranker.energies()
        case "length":
            responses = _responses(known, method)
            predictor = ChangeLength(_space_of_images(responses))
            further = tuple(map(energies, responses.spaces.values()))
        case "operation" | "block":
            ranker = _graph_ranker(known, method)
            table = operation_scores(ranker.members, ranker.trained, ranker.store)[:, ranker.places]
            if method == "block":
                if ranker.header is not ranker.trained:
                    raise QsdError("block: needs a bank of all options of the ranker, in its order")
                modules = module_scores(
                    ranker.members, ranker.header, space_of(known.bank).available, ranker.store
                )
        case "orthogonality":
            if known.gamma is None:
                raise QsdError(
                    "orthogonality: needs --pipeline and --evaluation, to draw with full precision"
                )
            if orthogonality.sweep and known.ranker is None:
                raise QsdError(
                    "orthogonality.sweep: needs --ranker, which chooses among values of beta; or give one "
                    "as orthogonality.beta"
                )
            table = bits_by_importance(known, orthogonality)
            further = tuple(
                bits_by_importance(known, dataclasses.replace(orthogonality, beta=beta))
                for beta in orthogonality.sweep
            )
        case "greedy":
            table = -10 * np.log10(np.maximum(-energies(_responses(known, method).spaces["latents"]), 1e-30))
        case "knapsack":
            table = _score(known, score)
        case _:
            table = -known.bank.relative_errors if predictor is None else None
    return Task(
        space=space,
        budget=Budget.make(
            *(space.num_bytes, space.num_weights),
            max_bits=max_bits,
            max_bytes=max_bytes,
            remedy="ease pins and floors",
        ),
        predictor=predictor,
        score=table,
        modules=modules,
        further_scores=further,
        settings=settings,
        seed=seed,
        meta=meta,
        progress=progress,
    )


def similarities(
    pipe: Any,
    bank: Bank,
    evaluation: EvaluationSettings,
    settings: OrthogonalitySettings,
    progress: Progress | None = None,
) -> np.ndarray:
    """Gamma of every layer at every compared step, float64 [S, L], from one drawing at full precision."""
    grams = feature_grams(
        pipe,
        denoiser_like(pipe, bank.denoiser),
        bank.layers,
        evaluation,
        samples=settings.samples,
        steps=settings.steps,
        progress=progress,
    )
    return np.stack([total_similarity(step, debiased=settings.debiased) for step in grams])


def bits_by_importance(known: Known, settings: OrthogonalitySettings) -> np.ndarray:
    """Importance times bits, what MPQ-Diff's program adds up, float64 [L, O]."""
    if known.gamma is None:
        raise ValueError("no similarities")
    bits = np.array([option.traits.bits for option in known.bank.options], dtype=np.float64)
    return theta_of(known.gamma, settings)[:, None] * bits[None, :]


def theta_of(gamma: np.ndarray, settings: OrthogonalitySettings) -> np.ndarray:
    """Importance of layers, float64 [L], by the settings; beta in units of one over the mean similarity."""
    return importance(
        gamma,
        settings.beta / max(float(gamma.mean()), 1e-12),
        aggregation=settings.aggregation,
        decay=settings.decay,
        suffix_mean=settings.suffix_mean,
    )


def store_of(store: Store, bank: Bank) -> Store:
    """A store as the table of a bank shows it: options that the bank lacks are left out, with their records.

    Raises:
        QsdError: it is of another denoiser, or lacks an option of the bank.
    """
    check_same_denoiser(bank.denoiser, store.header.denoiser, store.path)
    unknown = [str(option) for option in bank.options if option not in store.header.options]
    if unknown:
        raise QsdError(
            f"{store.path}: knows nothing of {', '.join(unknown)}, which the bank has; add them with "
            f"`qsd store migrate {store.path} --bank BANK` and `qsd probe`"
        )
    header, records = seen_by(store.header, store.records, bank.options)
    return store if header is store.header else Store(store.path, header, records)


def _score(known: Known, name: ScoreName) -> np.ndarray:
    match name:
        case "errors":
            return -known.bank.relative_errors
        case "energies":
            return energies(_space_of_images(_responses(known, "knapsack --score energies")))
        case "ridge":
            store = known.store
            if store is None or not len(store.records):
                raise QsdError(
                    "knapsack --score ridge: needs --store with labels of the bank's options alone; label "
                    "with `qsd label`"
                )
            target = Target(known.ranker.target if known.ranker else "-log(fid)").evaluate(store)
            rows = np.flatnonzero(target.valid & (store.records.split != 2))
            _check_labeled(store, rows)
            options = len(known.bank.options)
            ridge = Ridge.fit(one_hot(store.records.config[rows], options), target.values[rows])
            return ridge.weights.reshape(-1, options)


def _check_labeled(store: Store, rows: np.ndarray) -> None:
    """Refuses a store where some option is in none of the records that are learned from."""
    seen = np.unique(store.records.config[rows])
    unseen = [str(option) for place, option in enumerate(store.header.options) if place not in seen]
    if unseen:
        raise QsdError(
            f"knapsack --score ridge: no label of {store.path} to learn from has {', '.join(unseen)}; label "
            "more with `qsd label`, or leave these out with `qsd bank --drop`"
        )


def _responses(known: Known, what: str) -> Responses:
    store = filled_in(known.store)[0] if known.store is not None else None
    responses = store.header.responses if store is not None else None
    if store is None or responses is None:
        where = (
            "--store with a probed store" if store is None else f"a probed store, which {store.path} is not"
        )
        raise QsdError(f"{what}: needs {where}; probe one with `qsd probe`")
    if responses.sketched or len(responses.missing()):
        columns = zip(store.header.columns, responses.complete(), strict=True)
        names = ", ".join(str(name) for name, done in columns if not done)
        part = f"in all layers of {names}" if names else "to the end"
        raise QsdError(
            f"{what}: {store.path} is not probed {part}; go on with `qsd probe`, or leave these out with "
            "`qsd bank --drop`"
        )
    return responses


def _space_of_images(responses: Responses) -> np.ndarray:
    return responses.spaces.get("features", responses.spaces["latents"])


def _graph_ranker(known: Known, method: str) -> Ranker:
    ranker = known.ranker
    if ranker is None or not len(ranker.members):
        raise QsdError(
            f"{method}: needs --ranker, a graph network with hop losses such as "
            "`lightning fit --config pixart_paper.yaml` trains"
        )
    return ranker


def meta_of(known: Known, versions: dict[str, Any], command: str) -> FrontMeta:
    """Names and identities of a front."""
    bank, ranker = known.bank, known.ranker
    return FrontMeta(
        layer_names=tuple(bank.layer_names),
        option_names=tuple(str(option) for option in bank.options),
        denoiser=bank.denoiser,
        options_hash=bank.options_hash,
        ranker={} if ranker is None else {"target": ranker.target, "provenance": ranker.provenance},
        command=command,
        versions=versions,
    )
