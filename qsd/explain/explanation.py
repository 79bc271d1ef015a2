"""Everything that is said about the layers of a denoiser around one config."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from qsd.bank.sizes import config_bytes, uniform_configs
from qsd.explain.flips import costs_alone, costs_around
from qsd.explain.groups import KINDS, membership
from qsd.explain.score import Score, probed_change, score_of
from qsd.explain.shapley import of_squared_length, shapley_values
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.hop_scores import module_scores, operation_scores
from qsd.search.task import Candidates
from qsd.store import Header, Store


@dataclasses.dataclass(frozen=True)
class Group:
    """One role, block or stage.

    Attributes:
        name: of the group.
        layers: how many it has.
        weights: in all of them.
        cost: sum of the costs of its layers' options, each around the config.
        shapley: Shapley value of the cost of the whole config.
        error: standard error of that; 0 where it is exact.
    """

    name: str
    layers: int
    weights: int
    cost: float
    shapley: float
    error: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """L layers, O options. Costs are what the score loses; larger is worse.

    Attributes:
        header: of the store.
        config: int8 [L], what it is an explanation of.
        around: what the user calls that config.
        score: what is explained.
        cost_alone: float64 [L, O], of one layer while all others are at full precision.
        cost_around: float64 [L, O], of one layer while all others have the config's options.
        probed: float64 [L, O], mean square change of the images by each option alone, if it was measured.
        hop_scores: float64 [L, O], at hop 0, where the ranker has a network that ranks by hops.
        modules: hop scores of modules, likewise.
        interactions: float64 [L, L], what two layers' changes together add to the mean square change beyond
            the sum of both; negative where they cancel, 0 on the diagonal.
        groups: by kind.
    """

    header: Header
    config: np.ndarray
    around: str
    score: Score
    cost_alone: np.ndarray
    cost_around: np.ndarray
    probed: np.ndarray | None
    hop_scores: np.ndarray | None
    modules: tuple[Candidates, ...]
    interactions: np.ndarray | None
    groups: dict[str, list[Group]]

    @property
    def cost(self) -> np.ndarray:
        """Of every layer's option around the config, float64 [L]."""
        return self.cost_around[np.arange(len(self.config)), self.config.astype(np.int64)]

    @property
    def reference(self) -> str:
        """What costs are relative to."""
        return "full precision" if self.score.restorable else "each layer's largest option"

    def pairs(self, count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Pairs of layers whose changes add up most, and those whose changes cancel most."""
        if self.interactions is None:
            return [], []
        rows, columns = np.triu_indices(len(self.config), 1)
        values = self.interactions[rows, columns]
        order = np.argsort(-values, kind="stable")

        def named(places: np.ndarray) -> list[tuple[int, int]]:
            return [(int(rows[place]), int(columns[place])) for place in places]

        adding = order[values[order] > 0][:count]
        cancelling = order[::-1][values[order[::-1]] < 0][:count]
        return named(adding), named(cancelling)


def explain(
    store: Store,
    config: np.ndarray,
    *,
    ranker: Ranker | None = None,
    label: str | None = None,
    around: str = "config",
) -> Explanation:
    """Explains a config.

    Args:
        store: probed or labeled.
        config: int8 [L], option index in the order of the store's options.
        ranker: of the store's denoiser and options.
        label: a label instead of the ranker's target; see :func:`qsd.explain.score.score_of`.
        around: what the user calls the config.

    Raises:
        QsdError: there is nothing to explain by, or the files do not belong together.
    """
    header = store.header
    score = score_of(store, ranker, label)
    change = probed_change(store)
    chosen = None if change is None else change[np.arange(len(config)), config.astype(np.int64)]
    hops, modules = _hop_scores(ranker, header)
    alone = costs_alone(score, header.num_bytes)
    costs = costs_around(score, config, header.num_bytes)
    return Explanation(
        header=header,
        config=config,
        around=around,
        score=score,
        cost_alone=alone,
        cost_around=costs,
        probed=None if change is None else np.square(change).sum(axis=-1),
        hop_scores=hops,
        modules=modules,
        interactions=None if chosen is None else _interactions(chosen),
        groups={kind: _groups(score, config, costs, header, kind) for kind in KINDS},
    )


def _interactions(chosen: np.ndarray) -> np.ndarray:
    products = 2 * chosen @ chosen.T
    np.fill_diagonal(products, 0.0)
    return products


def _groups(score: Score, config: np.ndarray, costs: np.ndarray, header: Header, kind: str) -> list[Group]:
    names, inside = membership(header.layers, kind)
    own = costs[np.arange(len(config)), config.astype(np.int64)]
    weights = header.num_weights
    values, errors = _shapley(score, config, header.num_bytes, inside)
    return [
        Group(
            name, int(row.sum()), int(weights[row].sum()), float(own[row].sum()), float(value), float(error)
        )
        for name, row, value, error in zip(names, inside, values, errors, strict=True)
    ]


def _shapley(
    score: Score, config: np.ndarray, num_bytes: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of groups bool [G, L]: the game is from the reference to the config, group by group."""
    if score.change is not None:
        parts = inside.astype(float) @ score.change[np.arange(len(config)), config.astype(np.int64)]
        return of_squared_length(parts), np.zeros(len(inside))
    largest = num_bytes.argmax(axis=1).astype(np.int8)  # a logarithm has no value at full precision

    def value(coalitions: np.ndarray) -> np.ndarray:
        taken = coalitions.astype(np.int64) @ inside.astype(np.int64) > 0
        return -score(np.where(taken, config, largest))

    return shapley_values(value, len(inside))


def _hop_scores(ranker: Ranker | None, header: Header) -> tuple[np.ndarray | None, tuple[Candidates, ...]]:
    if ranker is None or len(header.activation_options) > 1:
        return None, ()
    weights = [member.hop_weight[ranker.store] for member in ranker.members]
    if not weights or not any(float(weight[0]) > 0 for weight in weights):
        return None, ()
    operations = operation_scores(ranker.members, ranker.header, ranker.store)
    if not all(any(float(weight[hop]) > 0 for weight in weights) for hop in range(len(weights[0]))):
        return operations, ()
    return operations, module_scores(ranker.members, ranker.header, header.available, ranker.store)


def default_config(store: Store) -> tuple[np.ndarray, str]:
    """The uniform config of middling size, int8 [L], and its option."""
    header = store.header
    configs = uniform_configs(header.num_bytes, header.num_weights)
    order = np.argsort(config_bytes(configs, header.num_bytes), kind="stable")
    middle = int(order[len(order) // 2])
    return configs[middle], str(header.options[middle])


def rows_of(explanation: Explanation) -> list[dict[str, Any]]:
    """One row per layer and option that it can take."""
    header = explanation.header
    rows: list[dict[str, Any]] = []
    for index, layer in enumerate(header.layers):
        for place, option in enumerate(header.options):
            if header.num_bytes[index, place] < 0:
                continue
            rows.append(
                {
                    "layer": layer.name,
                    "role": layer.role,
                    "block": layer.block,
                    "stage": layer.stage,
                    "weights": layer.num_weights,
                    "option": str(option),
                    "bytes": int(header.num_bytes[index, place]),
                    "chosen": int(explanation.config[index] == place),
                    "cost_alone": float(explanation.cost_alone[index, place]),
                    "cost_around": float(explanation.cost_around[index, place]),
                    "probed_change": _of(explanation.probed, index, place),
                    "hop_score": _of(explanation.hop_scores, index, place),
                }
            )
    return rows


def option_means(explanation: Explanation) -> list[dict[str, Any]]:
    """What each option costs on average over the layers that can take it."""
    available = explanation.header.available
    return [
        {
            "name": str(option),
            "layers": int(available[:, place].sum()),
            "cost_alone": float(np.nanmean(explanation.cost_alone[:, place])),
            "cost_around": float(np.nanmean(explanation.cost_around[:, place])),
        }
        for place, option in enumerate(explanation.header.options)
        if available[:, place].any()
    ]


def pair_rows(explanation: Explanation, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Names and interaction of pairs of layers."""
    table = explanation.interactions
    names = [layer.name for layer in explanation.header.layers]
    return [
        {"one": names[i], "other": names[j], "change": float(table[i, j])}
        for i, j in pairs
        if table is not None
    ]


def _of(table: np.ndarray | None, layer: int, option: int) -> float | None:
    return None if table is None else float(table[layer, option])
