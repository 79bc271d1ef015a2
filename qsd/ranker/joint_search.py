"""The search over weights and activations together, wired to a ranker and a bank."""

import dataclasses

import numpy as np

from qsd.bank import Bank
from qsd.configs.activations import sample_activations
from qsd.configs.sampling import sample_configs
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.joint import pairs, unpaired
from qsd.search.costs import JointCosts
from qsd.search.joint import JointSettings, joint_search
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
        settings: how much to search.
        seed: equal seeds give equal configs.
        progress: called per generation.

    Raises:
        QsdError: ranker and bank do not belong together, or no config fits the budgets.
    """
    ranker.check(bank, "bank")
    ranker = ranker.over(bank.options)
    costs = joint_costs(bank, max_bits=max_bits, max_act_bits=max_act_bits, max_bops=max_bops)
    count, layers = len(bank.activation_options), len(bank.layers)
    drawn = sample_configs(bank.options, layers, settings.samples, seed, available=bank.num_bytes >= 0)
    rounded = sample_activations(bank.activation_options, bank.macs, settings.samples, seed)

    def score(genes: np.ndarray) -> np.ndarray:
        parts = np.array_split(genes, max(1, len(genes) // 512))
        return np.concatenate([ranker.posterior(*unpaired(part, count)).mean for part in parts])

    found = joint_search(
        score, costs, pairs(drawn, rounded, count), settings=settings, seed=seed, progress=progress
    )
    return JointConfig(*unpaired(found.pairs, count), found.predicted, found.costs, found.evaluations)


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
