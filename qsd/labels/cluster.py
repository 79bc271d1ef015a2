"""Work on a pipeline spread over the workers of a Dask cluster, wherever they run.

This process is the only writer: workers draw and measure, and results come back as they are ready. A worker
is one process with one thread (and one GPU, where its scheduler gives it one); it opens pipeline and bank
once, by path. Work of a worker that died is done by another one.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self

import torch
from pydantic import Field

from qsd.bank import Bank
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.leaving_out import Failure, HopelessError
from qsd.labels.pool import Item, OpenTool, Result, Tool
from qsd.support.documents import Schema, check_schema
from qsd.support.errors import QsdError, first_line
from qsd.support.hashing import file_hash
from qsd.support.provenance import provenance
from qsd.support.yaml_files import read_yaml

RETRIES = 2
"""What fails is tried so often again."""
_SATURATION = 1.0  # no work waits at a busy worker while another one is idle
_PATIENCE = 30  # seconds for a scheduler to answer, and for a first worker to join
_FULL = 0.8  # of a worker's memory
_PLUGIN = "qsd-"  # and the client that it is of
_LOG = logging.getLogger(__name__)

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
    "kubernetes": {"worker_command": ["dask-worker", "--nthreads", "1"]},
}
_JOB = {"cores": 1, "processes": 1}  # of a batch system: one worker a job


class ClusterFile(Schema):
    """A cluster's YAML file."""

    kind: Literal["local", "slurm", "pbs", "sge", "lsf", "oar", "moab", "htcondor", "kubernetes"]
    workers: Annotated[int, Field(ge=1)]
    options: dict[str, Any] = Field(default_factory=dict)


class ClusterPool(Generic[Item, Result]):
    """What :class:`qsd.labels.pool.Pool` is for processes, for the workers of a Dask cluster.

    Work that fails three times is left out; all other work goes on.

    Args:
        open_tool: the tool's class.
        pipeline: as for :func:`qsd.denoisers.pipeline.load_pipeline`; a folder must be there on all workers.
        bank: file of the denoiser's bank, likewise.
        settings: how to draw.
        scheduler: address of a running scheduler, such as ``tcp://host:8786``.
        cluster: YAML file of a cluster to start (:class:`ClusterFile`); give this or ``scheduler``.
        device: of each worker: ``cpu``, or ``cuda`` where each sees one GPU.
        dtype: as for ``load_pipeline``.

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
            opening.enter_context(_opened(self._client, self._plugin))
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, items: Iterable[Item]) -> Iterator[Result | Failure[Item]]:
        """Works on items side by side, yielding results in order of completion.

        Raises:
            QsdError: full precision cannot be drawn, a worker has other packages or another bank, or the
                scheduler is gone.
        """
        from distributed import as_completed

        self._await_a_worker()
        key = self._plugin.key
        futures = {self._client.submit(_work, key, item, retries=RETRIES, pure=False): item for item in items}
        try:
            for future in as_completed(list(futures), loop=self._client.loop):
                item = futures.pop(future)
                if future.status == "error":
                    yield Failure(item, first_line(future.exception(), 400))
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

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._client.nthreads())

    def _await_a_worker(self) -> None:
        """Says it where none comes; jobs of a batch system may wait in its queue."""
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            _LOG.warning(
                "no worker has joined %s yet; work waits for one (dask worker %s --nthreads 1, or look at "
                "the jobs of your cluster)",
                *(self._client.scheduler.address,) * 2,
            )


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
        self.key = secrets.token_hex(8)
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
        global _key, _tool, _refused
        _key, _tool, _refused = self.key, None, None
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
            _check_memory(worker)
        except Exception as error:  # what a worker's beginning raises is lost otherwise
            _refused = _Refused(str(worker.address), first_line(error))

    def close(self) -> None:
        """Gives the tool's memory back, unless another run has its own there."""
        global _tool
        if _key == self.key:
            _tool = None

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


def _check_memory(worker: Any) -> None:
    """Has the worker never pause, which Dask would do at 80 % of its limit without a word to anybody.

    Raises:
        QsdError: so much is taken before anything is drawn.
    """
    from distributed import Status

    manager, taken = worker.memory_manager, worker.monitor.get_process_memory()
    if manager.memory_limit and taken > _FULL * manager.memory_limit:
        raise QsdError(
            f"may take {manager.memory_limit / 2**30:.1f} GiB of memory, and {taken / 2**30:.1f} GiB are "
            "taken before anything is drawn; give it more (dask worker --memory-limit, or memory in the "
            "cluster's file)"
        )
    manager.memory_pause_fraction = False
    if worker.status == Status.paused:
        worker.status = Status.running


_key = ""
_tool: Tool[Any, Any] | None = None
_refused: _Refused | None = None
_busy = threading.Lock()


def _work(key: str, item: Any) -> Any:
    """Works on an item with the tool of the run that sent it, and with no other's."""
    with _busy:
        if key != _key:
            return _Refused(
                "of the cluster", "was not set up, or another qsd uses it; give each its scheduler"
            )
        if _refused is not None or _tool is None:
            return _refused or _Refused("of the cluster", "was not set up; start it anew")
        try:
            return next(iter(_tool.run([item])))
        except HopelessError as error:  # not to be tried again
            return _Refused("of the cluster", str(error))


@contextlib.contextmanager
def _opened(client: Any, opening: _Opening) -> Iterator[None]:
    """Has every worker open the tool, and close it in the end; a scheduler serves one run at a time.

    Raises:
        QsdError: another run is at work there, or a worker cannot open anything.
    """
    address = client.scheduler.address
    plugins, clients = client.run_on_scheduler(_prepared(_SATURATION))
    for name in plugins:
        if not name.startswith(_PLUGIN):
            continue
        if name.removeprefix(_PLUGIN) in clients:
            raise QsdError(
                f"{address}: another qsd is at work on these workers; wait until it ends, or "
                "start a scheduler and workers of its own"
            )
        client.unregister_worker_plugin(name)  # of one that was killed
    name = f"{_PLUGIN}{client.id}"
    try:
        client.register_plugin(_worker_plugin(opening, name))
    except Exception as error:  # whatever a worker without these packages makes of it
        raise QsdError(
            f"{address}: a worker cannot open qsd ({first_line(error)}); install the same packages on all"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # of a cluster that is gone already
            client.unregister_worker_plugin(name)


def _worker_plugin(opening: _Opening, plugin_name: str) -> Any:
    from distributed import WorkerPlugin

    class Opening(WorkerPlugin):
        """Opens the tool in every worker, those that come later included."""

        name = plugin_name

        def __init__(self, opening: _Opening) -> None:
            self._opening = opening

        def setup(self, worker: Any) -> None:
            self._opening.open(worker)

        def teardown(self, worker: Any) -> None:
            self._opening.close()

    return Opening(opening)


def _prepared(saturation: float) -> Any:
    """What sets up a scheduler and tells its plugins of workers and its clients.

    A function without a home, as schedulers need not know qsd.
    """

    def prepare(dask_scheduler: Any) -> tuple[list[str], list[str]]:
        dask_scheduler.WORKER_SATURATION = saturation
        return list(dask_scheduler.worker_plugins), list(dask_scheduler.clients)

    return prepare


@contextlib.contextmanager
def _connected(scheduler: str | None, cluster: str | Path | None) -> Iterator[Any]:
    """A client of a scheduler, or of a cluster that is started and closed."""
    try:
        from distributed import Client
    except ImportError as error:
        raise QsdError('--scheduler and --cluster need Dask; run `pip install "qsd[cluster]"`') from error
    if (scheduler is None) == (cluster is None):
        raise QsdError("--scheduler and --cluster: give one of them")
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says qsd says in one line
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


def planned_workers(scheduler: str | None, cluster: str | Path | None) -> int:
    """How many workers a scheduler has, or a cluster's file asks for; nothing is started.

    Raises:
        QsdError: as for :class:`ClusterPool`.
    """
    if cluster is not None and scheduler is None:
        return _described(cluster).workers
    with _connected(scheduler, cluster) as client:
        return max(len(client.nthreads()), 1)


def _described(path: str | Path) -> ClusterFile:
    return check_schema(ClusterFile, read_yaml(path), path, "see docs/cluster.md")


@contextlib.contextmanager
def _started(path: str | Path) -> Iterator[Any]:
    description = _described(path)
    module, _, name = _KINDS[description.kind].partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise QsdError(f"{path}: {description.kind} needs {package}; run `pip install {package}`") from error
    ours = _ONE_THREAD.get(description.kind, _JOB)
    if clash := sorted(name for name in ours if description.options.get(name, ours[name]) != ours[name]):
        raise QsdError(
            f"{path}: entry 'options': leave out {', '.join(clash)}: a worker has one thread, and `workers` "
            "says how many there are"
        )
    options = description.options | ours
    try:
        cluster = make(**options)
    except (TypeError, ValueError) as error:
        raise QsdError(f"{path}: {description.kind}: {first_line(error)}; see docs/cluster.md") from error
    with cluster:
        cluster.scale(description.workers)
        yield cluster
