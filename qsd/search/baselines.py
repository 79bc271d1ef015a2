"""What a search has to beat."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.configs.sampling import sample_configs
from qsd.quantizers.options import Option
from qsd.search.budget import Budget
from qsd.search.evaluator import Evaluator, Predictor
from qsd.search.front import Front, FrontMeta
from qsd.search.lagrangian import fit_additive, greedy_fill
from qsd.search.repair import Downgrades, repair
from qsd.search.searching import front_of
from qsd.support.errors import QsdError


def best_labeled(configs: np.ndarray, quality: np.ndarray, num_bytes: np.ndarray, budget: Budget) -> int:
    """Index of the labeled config of best quality that fits.

    Args:
        configs: int8 [n, L].
        quality: float [n], larger is better; NaN is skipped.
        num_bytes: int64 [L, O].
        budget: What it must fit.

    Raises:
        QsdError: None fits.
    """
    fits = (config_bytes(configs, num_bytes) <= budget.max_bytes) & ~np.isnan(quality)
    if not fits.any():
        raise QsdError(
            f"budget: no labeled config has at most {budget.max_bytes} bytes "
            f"({budget.max_bits:.4f} average bits); label more configs or raise the budget"
        )
    return int(np.where(fits, quality, -np.inf).argmax())


def greedy_by_error(relative_error: np.ndarray, num_bytes: np.ndarray, budget: Budget) -> np.ndarray:
    """Spends the budget where it lowers the sum of relative errors most per byte; int8 [L].

    Args:
        relative_error: float [L, O].
        num_bytes: int64 [L, O].
        budget: Never exceeded.
    """
    return greedy_fill(-relative_error, num_bytes, budget.max_bytes)


def random_search(
    predictor: Predictor,
    num_bytes: np.ndarray,
    num_weights: np.ndarray,
    options: Sequence[Option],
    budget: Budget,
    evaluations: int,
    *,
    kappa: float = 0.5,
    seed: int = 0,
) -> Front:
    """The front of random configs, brought under the budget by the repairs that the search uses.

    Args:
        predictor: As for `search`.
        num_bytes: int64 [L, O].
        num_weights: int64 [L].
        options: The option table.
        budget: Never exceeded.
        evaluations: How many random configs.
        kappa: As for `search`.
        seed: Names the sequence of random configs.
    """
    rng = np.random.default_rng(seed)
    evaluator = Evaluator(predictor, kappa)
    configs = sample_configs(options, len(num_bytes), evaluations, seed)
    fitted = configs[: max(evaluations // 10, 1)]
    downgrades = Downgrades.make(fit_additive(fitted, evaluator(fitted), len(options)), num_bytes)
    evaluator(repair(configs, num_bytes, budget.max_bytes, downgrades, rng))
    names = tuple(str(option) for option in options)
    meta = FrontMeta(tuple(f"layer{index}" for index in range(len(num_bytes))), names)
    meta = replace(meta, max_bytes=budget.max_bytes, max_bits=budget.max_bits, seed=seed, kappa=kappa)
    return front_of(evaluator, num_bytes, num_weights, budget, meta, len(configs))
