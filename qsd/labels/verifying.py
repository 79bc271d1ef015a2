"""Measures chosen configs over several noise seeds: what a search found, and what it must beat."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qsd.configs.schedule import Schedule
from qsd.evaluation.evaluator import headline
from qsd.labels.labeling import Run
from qsd.labels.measurer import Job
from qsd.support.progress import Progress


def verify(
    configs: np.ndarray,
    noise_seeds: Sequence[int],
    run: Run,
    *,
    num_images: int,
    activations: Sequence[np.ndarray | Schedule | None] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures every config with every seed.

    Args:
        configs: int8 [n, L]; equal rows are measured once.
        noise_seeds: seeds of the initial noise.
        run: measures jobs side by side or one after another.
        num_images: images per measurement, for the record.
        activations: of each config, its vector or schedule; None for full precision.
        progress: called after every measurement.

    Returns:
        For each config the mean of every label over the seeds, ``fid_std`` (or that of another
        :func:`headline`: sample standard deviation over the seeds, 0 for one seed), ``num_images`` and
        ``seeds``.
    """
    rounded = list(activations or [None] * len(configs))
    first: dict[Any, int] = {}
    position = np.array(
        [first.setdefault(_key(*pair), len(first)) for pair in zip(configs, rounded, strict=True)]
    )
    distinct = [int(np.flatnonzero(position == index)[0]) for index in range(len(first))]
    jobs = [
        Job(index, configs[row], seed, rounded[row])
        for index, row in enumerate(distinct)
        for seed in noise_seeds
    ]
    measured: list[list[dict[str, float]]] = [[] for _ in distinct]
    for done, (job, labels, _) in enumerate(run(jobs)):
        measured[job.index].append(labels)
        if progress:
            name = headline(labels)
            progress(done + 1, len(jobs), f"{name} {labels[name]:.4g}")
    return [summarize(measured[int(index)], noise_seeds, num_images) for index in position.reshape(-1)]


def _key(config: np.ndarray, activations: np.ndarray | Schedule | None) -> Any:
    """Equal for what is the same measurement."""
    if isinstance(activations, Schedule):
        return config.tobytes(), activations.ranges, activations.activations.tobytes()
    return config.tobytes(), None if activations is None else activations.tobytes()


def summarize(
    measured: Sequence[dict[str, float]], noise_seeds: Sequence[int], num_images: int
) -> dict[str, Any]:
    """Mean of every label over seeds, with the standard deviation of the headline and the conditions."""
    row: dict[str, Any] = {
        name: float(np.mean([labels[name] for labels in measured])) for name in measured[0]
    }
    name = headline(measured[0])
    values = [labels[name] for labels in measured]
    row[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return row | {"num_images": num_images, "seeds": list(noise_seeds)}
