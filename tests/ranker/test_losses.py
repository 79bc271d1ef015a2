import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck

from qsd.ranker.losses import hop_loss, lambdarank_loss, ranks, relevance, soft_ranks, spearman_loss


@pytest.fixture
def scores():
    return torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@pytest.fixture
def target():
    return torch.randn(9, generator=torch.Generator().manual_seed(2), dtype=torch.double)


def test_ranks_agree_with_scipy_with_ties():
    values = torch.tensor([3.0, 1.0, 3.0, 2.0, -5.0, 3.0])
    np.testing.assert_allclose(ranks(values), stats.rankdata(values))


def test_soft_ranks_against_the_definition(scores):
    tau = 0.3 * scores.std(correction=0)
    expected = [
        1 + sum(1 / (1 + math.exp(-(a - b) / tau)) for j, b in enumerate(scores) if j != i)
        for i, a in enumerate(scores)
    ]
    np.testing.assert_allclose(soft_ranks(scores, 0.3), expected)


def test_cold_soft_ranks_are_ranks(scores):
    np.testing.assert_allclose(soft_ranks(scores, 1e-5), stats.rankdata(scores))


def test_cold_spearman_loss_is_spearman(scores, target):
    expected = 1 - stats.spearmanr(scores, target).statistic
    assert spearman_loss(scores, target, 1e-5).item() == pytest.approx(expected)


def test_spearman_loss_ignores_scale_and_shift(scores, target):
    assert spearman_loss(7 * scores + 3, target).item() == pytest.approx(spearman_loss(scores, target).item())


def test_spearman_gradient_by_finite_differences(scores, target):
    assert gradcheck(lambda s: spearman_loss(s, target), scores.requires_grad_())


def _dcg(gains):
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


def test_lambdarank_against_swapping_every_pair(scores, target):
    gains = relevance(target, target.quantile(0.2), target.max())
    order = sorted(range(9), key=lambda i: -scores[i])
    ideal = _dcg(sorted(gains.tolist(), reverse=True))
    current = [gains[i].item() for i in order]
    expected = 0.0
    for a, b in itertools.permutations(range(9), 2):
        if current[a] > current[b]:
            swapped = current.copy()
            swapped[a], swapped[b] = swapped[b], swapped[a]
            delta = abs(_dcg(swapped) - _dcg(current)) / ideal
            expected += delta * math.log1p(math.exp(-(scores[order[a]] - scores[order[b]]).item()))
    assert lambdarank_loss(scores, gains).item() == pytest.approx(expected)


def test_lambdarank_gradient_is_the_lambdas(scores, target):
    gains = relevance(target, -0.5, target.max())
    # within one order of the scores delta NDCG is constant, so finite differences see the same cost
    assert gradcheck(lambda s: lambdarank_loss(s, gains), scores.requires_grad_(), eps=1e-7, atol=1e-4)


def test_relevance():
    np.testing.assert_allclose(
        relevance(torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0]), 0.0, 2.0), [0, 0, 25, 50, 50]
    )


def test_hybrid_is_the_sum(scores, target):
    norms = torch.stack([scores, 2 * scores + 1, target])
    gains = relevance(target, target.quantile(0.2), target.max())
    parts = [hop_loss(norms, target, gains, kind) for kind in ("spearman", "lambdarank")]
    torch.testing.assert_close(hop_loss(norms, target, gains, "hybrid"), sum(parts))


def test_equal_scores_have_finite_gradients(target):
    scores = torch.zeros(9, dtype=torch.double, requires_grad=True)
    loss = hop_loss(scores[None], target, relevance(target, 0.0, target.max()), "hybrid")
    loss.backward()
    assert scores.grad.isfinite().all()
