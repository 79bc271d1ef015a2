"""MPQ-Diff: layers whose features resemble few others' are important, and important layers get more bits.

The full-precision denoiser runs once; the features of every layer are compared by centred kernel alignment
(CKA) at some sampling steps. A layer's gamma is the sum of its similarities to all others, its importance
exp(-beta * gamma), and the bits of all layers are chosen by a linear program over integers:

    maximise the sum of importance * bits, subject to the exact bytes of the budget.

MPQ-Diff (arXiv 2412.00144) builds on OMPQ (AAAI-23, arXiv 2109.07865), which takes for a layer the mean
importance of all layers from it on. No label is read.
"""

from typing import Literal

import numpy as np
import scipy.sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from qsd.search.front import Front
from qsd.search.task import Task
from qsd.support.errors import QsdError
from qsd.support.prints import without_prints

_ATTEMPTS = 5
Aggregation = Literal["similarity", "importance"]
_TRIES = 8


def search(task: Task) -> Front:
    """The configs of most importance-weighted bits; the task's score is importance times bits.

    The program is solved exactly at the budget and at seven smaller sizes, so that there is a front. Where
    the task has further scores, of other values of beta, its predictor chooses among the configs of all.
    """
    space = task.space
    evaluator = task.evaluator()
    for score in (task.score, *task.further_scores):
        values = space.by_unit(score) if score is not None else task.values
        for size in np.linspace(space.smallest, task.budget.max_bytes, 9).astype(np.int64)[1:].tolist():
            evaluator(solve_program(values, space.num_bytes, size)[None, :].astype(np.int8))
    return task.front(evaluator, "orthogonality")


def importance(
    gamma: np.ndarray,
    beta: float,
    *,
    aggregation: Aggregation = "similarity",
    decay: float | None = None,
    suffix_mean: bool = False,
) -> np.ndarray:
    """Importance of L layers, float64 [L], from similarities at S sampling steps.

    Args:
        gamma: float64 [S, L], sum of a layer's similarities to all others at each step.
        beta: How sharply importance falls with similarity.
        aggregation: "similarity": exp(-beta * mean over steps of gamma); "importance": mean over steps of
            exp(-beta * gamma). The paper does not say which; both are readings of it.
        decay: Weights of steps are decay**s, normalized; None weighs all alike. Steps stand in the order in
            which they are sampled, so a decay above 1 favours the last, least noisy ones.
        suffix_mean: Takes the mean over the layers from each on, as OMPQ does.
    """
    weights = np.full(len(gamma), 1.0) if decay is None else float(decay) ** np.arange(len(gamma))
    weights = weights / weights.sum()
    theta = (
        np.exp(-beta * (weights @ gamma)) if aggregation == "similarity" else weights @ np.exp(-beta * gamma)
    )
    if suffix_mean:
        theta = np.cumsum(theta[::-1])[::-1] / np.arange(len(theta), 0, -1)
    return theta


def alignment(grams: np.ndarray, *, debiased: bool) -> np.ndarray:
    """Pairwise CKA of L layers from Gram matrices of their features, float64 [L, L].

    Args:
        grams: float64 [L, n, n], X X^T of the features X [n, d] of n samples.
        debiased: Uses the unbiased estimator of HSIC, which does not grow with d (Song et al., "Feature
            selection via dependence maximization", JMLR 2012; Nguyen, Raghu and Kornblith, ICLR 2021); else
            linear CKA (Kornblith et al., ICML 2019).
    """
    flat = np.stack([_centred(gram, debiased) for gram in grams]).reshape(len(grams), -1)
    products = flat @ flat.T
    norms = np.sqrt(np.maximum(np.diag(products), 1e-300))
    return products / norms[:, None] / norms[None, :]


def total_similarity(grams: np.ndarray, *, debiased: bool) -> np.ndarray:
    """Gamma of L layers at one step, float64 [L]: the sum of CKA with all other layers.

    Features that are the same for all samples (of a time embedding) resemble nothing: 0.
    """
    similar = alignment(grams, debiased=debiased)
    np.fill_diagonal(similar, 0.0)
    return similar.sum(axis=1)


def solve_program(values: np.ndarray, sizes: np.ndarray, most: float | np.ndarray) -> np.ndarray:
    """One option per unit with the largest summed value within sizes, exactly, int8 [U].

    Args:
        values: float [U, O]; -infinity where an option is not available.
        sizes: [U, O], bytes (of weights or of activations) or bit operations; or [C, U, O], several of them.
        most: The largest summed size, or [C] such.

    Raises:
        QsdError: Nothing fits.
    """
    units, options = values.shape
    usable = np.isfinite(values)
    value = np.where(usable, values, 0.0).ravel()
    scale = max(float(np.abs(value).max()), 1e-300)
    one_each = scipy.sparse.kron(scipy.sparse.eye(units), np.ones(options), format="csr")
    summed = np.where(usable, sizes, 0).reshape(-1, units * options).astype(float)
    largest = np.maximum(summed.max(axis=1), 1e-300)
    limit = np.atleast_1d(np.asarray(most, dtype=np.float64))
    allowed = limit.copy()
    for _ in range(_TRIES):
        with without_prints():  # the solver may print a line of its own where --json is to stand alone
            found = milp(
                -value / scale,
                integrality=np.ones(units * options),
                bounds=Bounds(0, usable.ravel().astype(float)),
                constraints=[
                    LinearConstraint(one_each, 1, 1),
                    LinearConstraint(summed / largest[:, None], -np.inf, allowed / largest),
                ],
                options={"mip_rel_gap": 0.0},
            )
        if found.x is None:
            break
        choice = found.x.reshape(units, options).argmax(axis=1)
        excess = summed[:, np.arange(units) * options + choice].sum(axis=1) - limit
        if (excess <= 1e-12 * limit).all():
            return choice.astype(np.int8)
        allowed = allowed - np.maximum(excess, 0) * 2  # the solver keeps bounds up to a tolerance
    told = " and ".join(f"{value:.6g}" for value in limit)
    raise QsdError(f"budget: no choice has a size of at most {told}; raise the budget")


def _centred(gram: np.ndarray, debiased: bool) -> np.ndarray:
    n = len(gram)
    if not debiased:
        return gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    # U-centring: products of such matrices are the unbiased HSIC up to a constant (Székely and Rizzo 2014)
    off = gram - np.diag(np.diag(gram))
    rows = off.sum(axis=0) / (n - 2)
    centred = off - rows - rows[:, None] + off.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred
