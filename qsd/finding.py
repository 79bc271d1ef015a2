"""Searches with a trained ranker over a bank: the arrays that the search needs, taken from both."""

from qsd.bank import Bank
from qsd.progress import Progress
from qsd.provenance import provenance
from qsd.ranker import Ranker
from qsd.search import Front, FrontMeta, SearchSettings, search


def search_with_ranker(
    ranker: Ranker,
    bank: Bank,
    *,
    max_bits: float | None = None,
    max_bytes: int | None = None,
    settings: SearchSettings = SearchSettings(),  # noqa: B008
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Front:
    """Searches configs that the ranker likes within a budget.

    Args:
        ranker: trained on the bank's denoiser and option table.
        bank: its sizes are the exact bytes of the budget.
        max_bits: budget in average bits per weight; give this, ``max_bytes``, or neither.
        max_bytes: budget in bytes.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        command: for the provenance.
        progress: called per generation.

    Raises:
        QsdError: ranker and bank do not belong together, or the budget is below the smallest size.
    """
    ranker.check_bank(bank)
    meta = FrontMeta(
        layer_names=tuple(bank.layer_names),
        option_names=tuple(str(option) for option in bank.options),
        denoiser=bank.denoiser,
        options_hash=bank.options_hash,
        ranker=ranker.identity,
        command=command,
        versions=provenance()["versions"],
    )
    return search(
        ranker,
        bank.num_bytes,
        bank.num_weights,
        bank.options,
        max_bits=max_bits,
        max_bytes=max_bytes,
        meta=meta,
        settings=settings,
        seed=seed,
        progress=progress,
    )
