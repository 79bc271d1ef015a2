"""The best config that was measured while labeling: what a search must beat."""

import numpy as np

from qsd.bank.sizes import config_bytes
from qsd.search.budget import Budget
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
