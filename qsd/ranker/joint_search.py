"""The search over weights and activations together, wired to a ranker and a bank."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from qsd.bank import Bank
from qsd.configs.activations import can_round, sample_activations
from qsd.configs.sampling import sample_configs
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.joint import pairs, unpaired
from qsd.ranker.tasks import space_of
from qsd.search.costs import JointCosts
from qsd.search.joint import JointSettings, joint_search
from qsd.search.pins import apart, matching, permitted
from qsd.support.progress import Progress


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """A config with its activations.

    Attributes:
        config: int8 [L].
        activations: int8 [L], into the bank's activation options.
        predicted: predicted target.
        costs: average bits, mean bits of activations, and bit-operations of one forward pass of one image.
        evaluations: configs that were predicted.
    """

    config: np.ndarray
    activations: np.ndarray
    predicted: float
    costs: dict[str, float]
    evaluations: int


def search_with_activations(
    ranker: Ranker,
    bank: Bank,
    *,
    max_bits: float | None = None,
    max_act_bits: float | None = None,
    max_bops: float | None = None,
    keep: Mapping[str, str] | None = None,
    at_least: Mapping[str, str] | None = None,
    settings: JointSettings = JointSettings(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: Progress | None = None,
) -> JointConfig:
    """Searches options of weights and activations that a ranker likes, within every budget.

    Args:
        ranker: trained on a store with the bank's options of both.
        bank: the denoiser's bank.
        max_bits: average bits per weight, codebooks and scales included.
        max_act_bits: mean bits of activations, each layer counting by its multiply-accumulates.
        max_bops: bit-operations of one forward pass of one image.
        keep: pins, pattern of layer names -> option of the weight, ``@`` and one of the activations, or both,
            such as ``{"proj_out": "int8@16", "pos_embed.*": "@8"}``.
        at_least: floors, likewise.
        settings: how much to search.
        seed: equal seeds give equal configs.
        progress: called per generation.

    Raises:
        QsdError: ranker and bank do not belong together, or no config fits the budgets.
    """
    ranker.check(bank, "bank")
    ranker = ranker.over(bank.options)
    costs = joint_costs(bank, max_bits=max_bits, max_act_bits=max_act_bits, max_bops=max_bops)
    costs = costs.restricted(allowed_pairs(bank, keep or {}, at_least or {}))
    count, layers = len(bank.activation_options), len(bank.layers)
    drawn = sample_configs(bank.options, layers, settings.samples, seed, available=bank.num_bytes >= 0)
    rounded = sample_activations(bank.activation_options, bank.macs, settings.samples, seed)

    def score(genes: np.ndarray) -> np.ndarray:
        parts = np.array_split(genes, max(1, len(genes) // 512))
        return np.concatenate([ranker.posterior(*unpaired(part, count)).mean for part in parts])

    able = np.isfinite(costs.tables[0])
    start = _within(pairs(drawn, rounded, count), able, np.random.default_rng(seed))
    found = joint_search(score, costs, start, settings=settings, seed=seed, progress=progress)
    return JointConfig(*unpaired(found.pairs, count), found.predicted, found.costs, found.evaluations)


def allowed_pairs(bank: Bank, keep: Mapping[str, str], at_least: Mapping[str, str]) -> np.ndarray:
    """Pairs that pins and floors leave, bool [L, O * A].

    Raises:
        QsdError: a pattern matches no layer, an option is unknown, or nothing is left for a layer.
    """
    (pins, rounded_pins), (floors, rounded_floors) = apart(keep), apart(at_least)
    weights = space_of(bank, pins, floors).available
    options = bank.activation_options
    able = can_round(bank.macs)[:, None] | np.array([option.is_full for option in options])
    rounded = permitted(
        able,
        [str(option) for option in options],
        np.array([option.bits for option in options]),
        rounded_pins,
        rounded_floors,
        units=lambda pattern, rule: np.array(matching(bank.layer_names, pattern, rule)),
        name=lambda layer: f"activations of layer {bank.layer_names[layer]}",
    )
    return np.logical_and(weights[:, :, None], rounded[:, None]).reshape(len(weights), -1)


def allowed_activations(bank: Bank, keep: Mapping[str, str], at_least: Mapping[str, str]) -> np.ndarray:
    """Activation options that pins and floors leave, bool [L, A]; errors as of :func:`allowed_pairs`."""
    allowed = allowed_pairs(bank, keep, at_least)
    return np.logical_or.reduce(allowed.reshape(len(allowed), -1, len(bank.activation_options)), axis=1)


def _within(drawn: np.ndarray, able: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs int64 [n, L] with those that are not able replaced by others."""
    other = np.where(able[None], rng.random((len(drawn), *able.shape)), -1.0).argmax(axis=2)
    return np.where(able[np.arange(drawn.shape[1]), drawn], drawn, other)


def joint_costs(
    bank: Bank,
    *,
    max_bits: float | None = None,
    max_act_bits: float | None = None,
    max_bops: float | None = None,
) -> JointCosts:
    """The costs of a bank's pairs of options under budgets."""
    return JointCosts.make(
        bank.num_bytes,
        bank.num_weights,
        bank.macs,
        [option.traits.bits for option in bank.options],
        bank.activation_options,
        max_bits=max_bits,
        max_act_bits=max_act_bits,
        max_bops=max_bops,
    )
