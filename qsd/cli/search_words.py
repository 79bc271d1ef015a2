"""Words of ``qsd search`` that only make sense together, and what they stand for."""

from collections.abc import Sequence

from qsd.ranker.bounds import Bound, full_precision_bound
from qsd.ranker.checkpoint import Ranker
from qsd.ranker.tasks import ScoreName
from qsd.search import MethodName
from qsd.support.errors import QsdError


def bounds_of(
    ranker: Ranker | None, max_fid: float | None, min_psnr: float | None, within: str | None
) -> list[Bound]:
    """Bounds of labels that a search must keep."""
    bounds = []
    if max_fid is not None:
        bounds.append(Bound("fid", max_fid))
    if min_psnr is not None:
        bounds.append(Bound("psnr", min_psnr, larger_is_better=True))
    if within is not None:
        if ranker is None:
            raise QsdError("within: needs --ranker, which knows full precision's FID")
        try:
            factor = float(within.removesuffix("x"))
        except ValueError:
            raise QsdError(f"within {within!r}: give a factor such as 1.1x") from None
        bounds.append(full_precision_bound(ranker, factor))
    if bounds and ranker is None:
        raise QsdError("bounds: need --ranker, which predicts the labels")
    return bounds


def check_words(
    method: MethodName,
    ranker: Ranker | None,
    bounds: Sequence[Bound],
    objectives: str | None,
    score: ScoreName,
    verify: int,
    rounds: int,
) -> None:
    """Refuses words that would mean nothing."""
    if objectives and bounds:
        raise QsdError("objectives: give them or bounds (--max-fid, --min-psnr, --within), not both")
    if bounds and method != "evolution":
        raise QsdError(f"bounds: are for --method evolution with --ranker, not for {method}")
    if objectives and (method != "evolution" or ranker is None):
        raise QsdError("objectives: are for --method evolution with --ranker, which predicts them")
    if score != "errors" and method != "knapsack":
        raise QsdError(f"score: is of --method knapsack, not of {method}; leave it out")
    if rounds > 1 and not verify:
        raise QsdError("rounds: need --verify, how many configs each measures")


def rules_of(word: str, text: str | None) -> dict[str, str]:
    """Rules such as ``proj_out=keep,blocks.*=uaq-4`` by pattern."""
    rules: dict[str, str] = {}
    for rule in (text or "").replace(",", " ").split():
        pattern, equals, option = rule.rpartition("=")
        if not equals or not pattern or not option:
            raise QsdError(f"{word} {rule!r}: give PATTERN=OPTION, such as proj_out=uaq-8")
        if rules.setdefault(pattern, option) != option:
            raise QsdError(f"{word}: {pattern} is {rules[pattern]} and {option}; give it one of them")
    return rules
