"""Where a verb works: in this process, in several, on a cluster, or as one shard among others."""

import contextlib
import os
from pathlib import Path
from typing import Any

from qsd.cli.console import console
from qsd.denoisers.pipeline import DtypeName
from qsd.evaluation import EvaluationSettings
from qsd.labels import Pool
from qsd.labels.shards import Shard, shards_folder
from qsd.support.errors import QsdError

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def own_shard(shard: str | None, workers: int) -> Shard | None:
    """The shard of ``--shard``.

    Raises:
        QsdError: it is none, or is asked for together with workers.
    """
    if shard is None:
        return None
    if workers > 1:
        raise QsdError(
            "--shard and --workers: give one of them; many processes on a machine may all be started with "
            "--shard auto"
        )
    return Shard.parse(shard, os.environ)


def pool_of(
    tool: Any,
    pipeline: str,
    bank: str,
    settings: EvaluationSettings,
    workers: int,
    device: str,
    dtype: DtypeName = "float32",
    *,
    scheduler: str | None = None,
    cluster: str | None = None,
    shard: Shard | None = None,
) -> contextlib.AbstractContextManager[Any]:
    """What runs a tool elsewhere, or None for here.

    Raises:
        QsdError: several ways are asked for at once, or as for the pools.
    """
    if scheduler is None and cluster is None:
        if workers > 1:
            return Pool(tool, pipeline, bank, settings, workers, device, dtype, leave_out=True)
        return contextlib.nullcontext()
    if workers > 1 or shard is not None:
        raise QsdError("--scheduler and --cluster bring their own workers; leave out --workers and --shard")
    from qsd.labels.cluster import ClusterPool

    return ClusterPool(
        tool, pipeline, bank, settings, scheduler=scheduler, cluster=cluster, device=device, dtype=dtype
    )


def planned_workers(workers: int, scheduler: str | None, cluster: str | None) -> int:
    """How many processes will be at work, for the estimate of a dry run.

    Raises:
        QsdError: the scheduler does not answer, or the cluster's file has a mistake.
    """
    if scheduler is None and cluster is None:
        return workers
    from qsd.labels import cluster as clusters

    return clusters.planned_workers(scheduler, cluster)


def own_device(device: str) -> str:
    """``cuda`` of the n-th process on a machine is its n-th GPU, where a launcher numbers them."""
    rank = next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "")
    if device != "cuda" or not rank.isdecimal():
        return device
    import torch

    visible = torch.cuda.device_count()
    return f"cuda:{int(rank) % visible}" if visible > 1 else device


def say_how_to_merge(store: str | Path) -> None:
    """What comes after the last shard."""
    console.print(f"when all shards are done: qsd store merge {store} {shards_folder(store)}")
