"""Schedules under budgets that hold on average over the sampling steps: other activation options by step.

What a layer's option costs in quality is divided over the groups of steps, and a linear program over integers
chooses an option for each layer and group. The damage is a ranker's, layer by layer around a config, and its
division what `qsd probe --steps-groups` measured; or, as in MPQ-Diff, bits are worth a layer's importance in
each step, which no label is read for.
"""

import dataclasses

import numpy as np

from qsd.bank import Bank
from qsd.configs.schedule import Schedule
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.joint_search import JointConfig, allowed_activations, joint_costs
from qsd.ranker.tasks import OrthogonalitySettings
from qsd.search.costs import bit_operations
from qsd.search.methods.orthogonality import importance, solve_program
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Bounds of the mean over the steps; None bounds nothing. See :class:`qsd.search.costs.JointCosts`.

    Attributes:
        max_act_bits: mean bits of activations.
        max_bops: bit-operations.
    """

    max_act_bits: float | None = None
    max_bops: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Scheduled:
    """A schedule, and what it costs on average over the steps.

    Attributes:
        schedule: options by range of steps.
        costs: mean bits of activations and bit-operations.
        gain: by how much the program's sum exceeds that of the same options in every step.
    """

    schedule: Schedule
    costs: dict[str, float]
    gain: float


def by_damage(
    ranker: Ranker,
    bank: Bank,
    found: JointConfig,
    ranges: tuple[tuple[int, int], ...],
    shares: np.ndarray,
    budgets: Budgets,
    able: np.ndarray | None = None,
) -> Scheduled:
    """The schedule of least predicted damage to first order, the weights being those of a config.

    Args:
        ranker: predicts the quality.
        bank: of its denoiser.
        found: the config, with the options that are best in all steps.
        ranges: G ranges of steps.
        shares: float [A, G], which share of the change by an activation option each group has.
        budgets: of the mean.
        able: bool [L, A], options that a layer may take; by default those of the bank.

    Raises:
        QsdError: no schedule keeps the budgets.
    """
    damage = damages(ranker.over(bank.options), found, len(bank.activation_options))
    values = -damage[None] * shares.T[:, None, :]
    return _solved(bank, found.config, ranges, values, budgets, found.activations, able)


def by_importance(
    bank: Bank,
    config: np.ndarray,
    ranges: tuple[tuple[int, int], ...],
    gamma: np.ndarray,
    budgets: Budgets,
    settings: OrthogonalitySettings,
    able: np.ndarray | None = None,
) -> Scheduled:
    """MPQ-Diff's schedule: the most bits, each worth its layer's importance in its step.

    Args:
        bank: of the denoiser.
        config: int8 [L], the weights.
        ranges: S ranges of steps.
        gamma: float64 [S, L], similarities of layers in each.
        budgets: of the mean.
        settings: how layers are weighed.
        able: as for :func:`by_damage`.

    Raises:
        QsdError: no schedule keeps the budgets.
    """
    beta = settings.beta / max(float(gamma.mean()), 1e-12)
    theta = np.stack([importance(step[None], beta, suffix_mean=settings.suffix_mean) for step in gamma])
    bits = np.array([option.bits for option in bank.activation_options], dtype=np.float64)
    values = _lengths(ranges)[:, None, None] * theta[:, :, None] * bits
    return _solved(bank, config, ranges, values, budgets, None, able)


def damages(ranker: Ranker, found: JointConfig, num_options: int) -> np.ndarray:
    """What the predicted quality loses by each option of each layer, beside 16 bits in it, float64 [L, A].

    All other layers are those of the config. A gain counts as no loss.
    """
    layers = len(found.config)
    rounded = np.repeat(found.activations[None], layers * num_options, axis=0)
    position = np.repeat(np.arange(layers), num_options)
    rounded[np.arange(len(rounded)), position] = np.tile(np.arange(num_options), layers)
    configs = np.repeat(found.config[None], len(rounded), axis=0)
    parts = np.array_split(np.arange(len(rounded)), max(1, len(rounded) // 512))
    quality = np.concatenate([ranker.posterior(configs[part], rounded[part]).mean for part in parts])
    quality = quality.reshape(layers, num_options)
    return np.maximum(quality[:, :1] - quality, 0.0)


def _solved(
    bank: Bank,
    config: np.ndarray,
    ranges: tuple[tuple[int, int], ...],
    values: np.ndarray,
    budgets: Budgets,
    everywhere: np.ndarray | None,
    able: np.ndarray | None,
) -> Scheduled:
    """The schedule of the largest sum of values [G, L, A]; its gain over options [L] in all steps."""
    groups, layers, count = values.shape
    names, sizes, most = _limits(bank, config, ranges, budgets)
    left = allowed_activations(bank, {}, {}) if able is None else able
    usable = np.where(left[None], values, -np.inf).reshape(groups * layers, count)
    bounded = np.isfinite(most)
    if not bounded.any():
        raise QsdError("schedule: needs a budget, --max-act-bits or --max-bops")
    flat = sizes.reshape(len(names), groups * layers, count)
    chosen = solve_program(usable, flat[bounded], most[bounded]).reshape(groups, layers)
    place = np.arange(groups)[:, None], np.arange(layers)[None], chosen
    total = sizes[(slice(None), *place)].sum(axis=(1, 2))
    gain = float(values[place].sum())
    if everywhere is not None:
        gain -= float(values[:, np.arange(layers), everywhere].sum())
    return Scheduled(Schedule(ranges, chosen), dict(zip(names, total.tolist(), strict=True)), gain)


def _limits(
    bank: Bank, config: np.ndarray, ranges: tuple[tuple[int, int], ...], budgets: Budgets
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of costs, their shares float64 [C, G, L, A] in the mean over steps, and their limits [C]."""
    joint_costs(bank, max_act_bits=budgets.max_act_bits)  # says which is the smallest, where none fits
    bits = np.array([option.bits for option in bank.activation_options], dtype=np.float64)
    weights = np.array([option.traits.bits for option in bank.options], dtype=np.float64)[config]
    operations = bit_operations(bank.macs, np.ones(1), bits) * weights[:, None]
    mean = bank.macs[:, None] * bits / bank.macs.sum()
    share = _lengths(ranges)[None, :, None, None]
    limits = [budgets.max_act_bits, budgets.max_bops]
    most = np.array([np.inf if limit is None else float(limit) for limit in limits])
    return ["activation bits", "bit-operations"], np.stack([mean, operations])[:, None] * share, most


def _lengths(ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Share of the steps in each range, float64 [G]."""
    return np.array([stop - start for start, stop in ranges]) / ranges[-1][1]
