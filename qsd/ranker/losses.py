"""Losses that teach a ranker to order configs. All take one list of n configs and return a scalar."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def soft_ranks(scores: Tensor, temperature: float = 0.1) -> Tensor:
    """Differentiable ranks, 1 for the smallest score, n for the largest.

    rank_i = 1 + sum over j != i of sigmoid((s_i - s_j) / (temperature * std)), the approximation of Qin, Liu
    and Li, "A general approximation framework for direct optimization of information retrieval measures"
    (Information Retrieval 13, 2010). Dividing by the standard deviation makes it independent of the scale of
    the scores.

    Args:
        scores: float [..., n].
        temperature: width of the soft comparison in standard deviations; towards 0 the ranks become exact.

    Returns:
        float [..., n].
    """
    std = scores.std(dim=-1, keepdim=True, correction=0).clamp_min(1e-6)
    difference = (scores.unsqueeze(-1) - scores.unsqueeze(-2)) / (temperature * std.unsqueeze(-1))
    return torch.sigmoid(difference).sum(dim=-1) + 0.5  # the term j = i contributes one half


def ranks(values: Tensor) -> Tensor:
    """Exact ranks 1..n of the last dimension, ties sharing their mean, float [..., n]."""
    difference = values.unsqueeze(-1) - values.unsqueeze(-2)
    return 0.5 + ((difference > 0).float() + 0.5 * (difference == 0).float()).sum(dim=-1)


def spearman_loss(scores: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """1 - Spearman's rank correlation, differentiable in the scores through :func:`soft_ranks`.

    Args:
        scores: float [..., n].
        target: float [n], larger is better.
        temperature: of the soft ranks.

    Returns:
        float [...], 0 (same order) to 2 (opposite order).
    """
    ours = soft_ranks(scores, temperature)
    theirs = ranks(target).to(ours.dtype).expand_as(ours)
    return 1 - F.cosine_similarity(
        ours - ours.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True), -1
    )


def relevance(target: Tensor, q20: Tensor | float, maximum: Tensor | float) -> Tensor:
    """Relevance grades 50 * clip((y - q20) / (max - q20), 0, 1): the worst fifth is equally irrelevant.

    Args:
        target: float [n], larger is better.
        q20: 20 % quantile of the training targets.
        maximum: largest training target.

    Returns:
        float [n], 0 to 50.
    """
    return 50 * ((target - q20) / (maximum - q20)).clamp(0, 1)


def lambdarank_loss(scores: Tensor, gains: Tensor, sigma: float = 1.0) -> Tensor:
    """LambdaRank for NDCG, written as the cost whose gradient the lambdas are.

    C = sum over pairs with gain_i > gain_j of |delta NDCG_ij| * log(1 + exp(-sigma * (s_i - s_j))), where
    delta NDCG_ij, the change of NDCG when i and j swap places in the current order, counts as a constant
    (Burges, "From RankNet to LambdaRank to LambdaMART: an overview", MSR-TR-2010-82). Gains are linear.

    Args:
        scores: float [..., n].
        gains: float [n], see :func:`relevance`.
        sigma: steepness of the pairwise logistic.

    Returns:
        float [...].
    """
    n = scores.shape[-1]
    discount = 1 / torch.log2(torch.arange(2, n + 2, device=scores.device, dtype=scores.dtype))
    ideal = (gains.sort(descending=True).values * discount).sum().clamp_min(1e-12)
    place = scores.detach().argsort(dim=-1, descending=True).argsort(dim=-1)
    discounts = discount[place]
    delta = (gains.unsqueeze(-1) - gains.unsqueeze(-2)) * (
        discounts.unsqueeze(-1) - discounts.unsqueeze(-2)
    ).abs()
    cost = F.softplus(-sigma * (scores.unsqueeze(-1) - scores.unsqueeze(-2)))
    return (delta.clamp_min(0) / ideal * cost).sum(dim=(-2, -1))


def hop_loss(norms: Tensor, target: Tensor, gains: Tensor, kind: str) -> Tensor:
    """The ranking loss on the L1 norms of hop embeddings, averaged over hops.

    Args:
        norms: float [hops, n], the larger the better the config.
        target: float [n].
        gains: float [n].
        kind: "spearman", "lambdarank", or "hybrid" (their sum, Qua²SeDiMo, AAAI-25).

    Returns:
        Scalar.
    """
    std = norms.std(dim=-1, keepdim=True, correction=0).clamp_min(1e-6)
    standardized = (norms - norms.mean(dim=-1, keepdim=True)) / std
    loss = norms.new_zeros(())
    if kind in ("spearman", "hybrid"):
        loss = loss + spearman_loss(standardized, target).mean()
    if kind in ("lambdarank", "hybrid"):
        loss = loss + lambdarank_loss(standardized, gains).mean()
    return loss
