"""Work on a pipeline spread over the workers of a Dask cluster, wherever they run.

This process is the only writer: workers draw and measure, and results come back as they are ready. A worker
is one process with one thread (and one GPU, where its scheduler gives it one); it opens pipeline and bank
once, by path. Work of a worker that died is done by another one.
"""

import contextlib
import dataclasses
import importlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self

import torch
from pydantic import Field

from qsd.bank import Bank
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.pool import Item, OpenTool, Result, Tool
from qsd.support.documents import Schema, check_schema
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import file_hash
from qsd.support.provenance import provenance
from qsd.support.yaml_files import read_yaml

RETRIES = 2
"""What fails is tried so often again."""
_SATURATION = 1.0  # no work waits at a busy worker while another one is idle
_PATIENCE = 30  # seconds for a scheduler to answer

_KINDS = {
    "local": "distributed:LocalCluster",
    "slurm": "dask_jobqueue:SLURMCluster",
    "pbs": "dask_jobqueue:PBSCluster",
    "sge": "dask_jobqueue:SGECluster",
    "lsf": "dask_jobqueue:LSFCluster",
    "oar": "dask_jobqueue:OARCluster",
    "moab": "dask_jobqueue:MoabCluster",
    "htcondor": "dask_jobqueue:HTCondorCluster",
    "kubernetes": "dask_kubernetes.operator:KubeCluster",
}
_ONE_THREAD: dict[str, dict[str, Any]] = {
    "local": {"n_workers": 0, "threads_per_worker": 1, "processes": True, "dashboard_address": None},
    "kubernetes": {},
}
_JOB = {"cores": 1, "processes": 1}  # of a batch system: one worker a job


class ClusterFile(Schema):
    """A cluster's YAML file."""

    kind: Literal["local", "slurm", "pbs", "sge", "lsf", "oar", "moab", "htcondor", "kubernetes"]
    workers: Annotated[int, Field(ge=1)]
    options: dict[str, Any] = Field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Failure(Generic[Item]):
    """Work that failed as often as it was tried.

    Attributes:
        item: the work.
        reason: one line.
    """

    item: Item
    reason: str


class ClusterPool(Generic[Item, Result]):
    """What :class:`qsd.labels.pool.Pool` is for processes, for the workers of a Dask cluster.

    Work that fails three times is left out and listed; all other work goes on.

    Args:
        open_tool: the tool's class.
        pipeline: as for :func:`qsd.denoisers.pipeline.load_pipeline`; a folder must be there on all workers.
        bank: file of the denoiser's bank, likewise.
        settings: how to draw.
        scheduler: address of a running scheduler, such as ``tcp://host:8786``.
        cluster: YAML file of a cluster to start (:class:`ClusterFile`); give this or ``scheduler``.
        device: of each worker: ``cpu``, or ``cuda`` where each sees one GPU.
        dtype: as for ``load_pipeline``.

    Attributes:
        failed: work that was left out.

    Raises:
        QsdError: Dask is not installed, no scheduler answers, or the file describes no cluster.
    """

    def __init__(
        self,
        open_tool: OpenTool[Item, Result],
        pipeline: str | Path,
        bank: str | Path,
        settings: EvaluationSettings,
        *,
        scheduler: str | None = None,
        cluster: str | Path | None = None,
        device: str = "cpu",
        dtype: DtypeName = "float32",
    ) -> None:
        self.failed: list[Failure[Item]] = []
        folder = Path(pipeline)
        self._plugin = _Opening(
            open_tool,
            str(folder.resolve() if folder.exists() else pipeline),
            str(Path(bank).resolve()),
            settings,
            device,
            dtype,
        )
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._client = opening.enter_context(_connected(scheduler, cluster))
            self._client.run_on_scheduler(_saturation(_SATURATION))
            self._client.register_plugin(_worker_plugin(self._plugin))
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, items: Iterable[Item]) -> Iterator[Result]:
        """Works on items side by side, yielding results in order of completion.

        Raises:
            QsdError: a worker has other packages or another bank, or the scheduler is gone.
        """
        from distributed import as_completed

        futures = {self._client.submit(_work, item, retries=RETRIES, pure=False): item for item in items}
        try:
            for future in as_completed(list(futures), loop=self._client.loop):
                item = futures.pop(future)
                if future.status == "error":
                    self.failed.append(Failure(item, first_line(future.exception())))
                elif future.status != "finished":
                    raise QsdError(
                        "the cluster's scheduler is gone; what was measured is safe: run the same command "
                        "again"
                    )
                else:
                    result = future.result()
                    if isinstance(result, _Refused):
                        raise QsdError(f"worker {result.worker}: {result.reason}")
                    yield result
                future.release()
        finally:
            if futures:
                with contextlib.suppress(Exception):  # of a cluster that is gone already
                    self._client.cancel(list(futures))


@dataclasses.dataclass(frozen=True)
class _Refused:
    """A worker's answer where it must not work."""

    worker: str
    reason: str


class _Opening:
    """What a worker does first; sent to it as it is."""

    def __init__(
        self,
        open_tool: OpenTool[Any, Any],
        pipeline: str,
        bank: str,
        settings: EvaluationSettings,
        device: str,
        dtype: DtypeName = "float32",
    ) -> None:
        self.open_tool = open_tool
        self.pipeline = pipeline
        self.bank = bank
        self.bank_hash = file_hash(Path(bank))
        self.settings = settings
        self.device, self.dtype = device, dtype
        self.folder = str(Path.cwd())
        self.versions: dict[str, str] = provenance()["versions"]

    def open(self, worker: Any) -> None:
        """Opens the tool, or notes why the worker must not work."""
        global _tool, _refused
        _tool, _refused = None, None
        try:
            self._check(worker)
            torch.set_num_threads(1)
            if Path(self.folder).is_dir():  # settings may name files from there
                os.chdir(self.folder)
            _tool = self.open_tool(
                load_pipeline(self.pipeline, device=self.device, dtype=self.dtype, encoders=False),
                Bank.load(self.bank),
                self.settings,
            )
        except Exception as error:  # what a worker's beginning raises is lost otherwise
            _refused = _Refused(str(worker.address), first_line(error))

    def _check(self, worker: Any) -> None:
        ours: dict[str, str] = provenance()["versions"]
        for name, theirs in self.versions.items():
            if ours.get(name) != theirs:
                raise QsdError(
                    f"has {name} {ours.get(name)}, and {theirs} is asked for; install the same packages there"
                )
        if not Path(self.bank).is_file():
            raise QsdError(f"sees no {self.bank}; put the bank where all workers see it, under one path")
        if file_hash(Path(self.bank)) != self.bank_hash:
            raise QsdError(f"has another bank at {self.bank}; copy the same file there")
        threads = worker.state.nthreads
        if threads != 1:
            raise QsdError(f"has {threads} threads; start workers with --nthreads 1, one per core or GPU")


_tool: Tool[Any, Any] | None = None
_refused: _Refused | None = None
_busy = threading.Lock()


def _work(item: Any) -> Any:
    with _busy:
        if _refused is not None or _tool is None:
            return _refused or _Refused("of the cluster", "was not set up; start it anew")
        return next(iter(_tool.run([item])))


def _worker_plugin(opening: _Opening) -> Any:
    from distributed import WorkerPlugin

    class Opening(WorkerPlugin):
        """Opens the tool in every worker, those that come later included."""

        name = "qsd"

        def __init__(self, opening: _Opening) -> None:
            self._opening = opening

        def setup(self, worker: Any) -> None:
            self._opening.open(worker)

    return Opening(opening)


def _saturation(value: float) -> Any:
    """What sets it at a scheduler; a function without a home, as schedulers need not know qsd."""

    def saturate(dask_scheduler: Any) -> None:
        dask_scheduler.WORKER_SATURATION = value

    return saturate


@contextlib.contextmanager
def _connected(scheduler: str | None, cluster: str | Path | None) -> Iterator[Any]:
    """A client of a scheduler, or of a cluster that is started and closed."""
    try:
        from distributed import Client
    except ImportError as error:
        raise QsdError('--scheduler and --cluster need Dask; run `pip install "qsd[cluster]"`') from error
    if (scheduler is None) == (cluster is None):
        raise QsdError("--scheduler and --cluster: give one of them")
    with contextlib.ExitStack() as stack:
        address = scheduler if cluster is None else stack.enter_context(_started(cluster))
        try:
            client = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        except (OSError, ValueError, TypeError) as error:
            raise QsdError(
                f"{scheduler}: no scheduler answers there ({first_line(error)}); start one with "
                "`dask scheduler`"
            ) from error
        yield client


@contextlib.contextmanager
def _started(path: str | Path) -> Iterator[Any]:
    description = check_schema(ClusterFile, read_yaml(path), path, "see docs/cluster.md")
    module, _, name = _KINDS[description.kind].partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise QsdError(f"{path}: {description.kind} needs {package}; run `pip install {package}`") from error
    options = description.options | _ONE_THREAD.get(description.kind, _JOB)
    try:
        cluster = make(**options)
    except (TypeError, ValueError) as error:
        raise QsdError(f"{path}: {description.kind}: {first_line(error)}; see docs/cluster.md") from error
    with cluster:
        cluster.scale(description.workers)
        yield cluster
