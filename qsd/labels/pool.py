"""Work on a pipeline spread over processes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from diffusers import DiffusionPipeline

from qsd.bank import Bank
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation.settings import EvaluationSettings
from qsd.labels.leaving_out import leaving_out
from qsd.support.errors import QsdError
from qsd.support.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Tool(Protocol[ItemIn, ResultOut]):
    """What works on items one after another, such as a :class:`Measurer` or a :class:`Prober`."""

    def run(self, items: Iterable[ItemIn], /) -> Iterator[ResultOut]:
        """Yields a result per item."""


OpenTool = Callable[[DiffusionPipeline, Bank, EvaluationSettings], Tool[Item, Result]]


class Pool(Generic[Item, Result]):
    """Processes on the CPU that each hold a tool, a pipeline and a bank; results come as they are ready.

    One process per core (each computing on one thread) draws faster than one process on all cores.

    Args:
        open_tool: the tool's class.
        pipeline: as for :func:`qsd.denoisers.pipeline.load_pipeline`.
        bank: file of the denoiser's bank.
        settings: how to draw.
        workers: number of processes.
        device: must be the CPU.
        dtype: as for ``load_pipeline``.
        leave_out: whether :meth:`run` yields a :class:`qsd.labels.leaving_out.Failure` of work that fails,
            in place of raising its error.

    Attributes:
        workers: as given.

    Raises:
        QsdError: for another device: processes that share one draw no faster.
    """

    def __init__(
        self,
        open_tool: OpenTool[Item, Result],
        pipeline: str | Path,
        bank: str | Path,
        settings: EvaluationSettings,
        workers: int,
        device: str = "cpu",
        dtype: DtypeName = "float32",
        *,
        leave_out: bool = False,
    ) -> None:
        if device != "cpu":
            raise QsdError(
                f"{workers} workers on {device}: workers draw on the CPU; leave out --workers, or --device"
            )
        self.workers = workers
        self._work = _work_or_fail if leave_out else _work
        self._workers = Workers(workers, _open, (open_tool, str(pipeline), str(bank), settings, dtype))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._workers.__exit__(*error)

    def run(self, items: Iterable[Item]) -> Iterator[Result]:
        """Works on items side by side, yielding results in order of completion.

        Raises:
            QsdError: a worker was killed, or work failed.
        """
        return self._workers.run(self._work, items)


_tool: Tool[Any, Any] | None = None


def _open(
    open_tool: OpenTool[Any, Any], pipeline: str, bank: str, settings: EvaluationSettings, dtype: DtypeName
) -> None:
    global _tool
    torch.set_num_threads(1)
    _tool = open_tool(load_pipeline(pipeline, dtype=dtype, encoders=False), Bank.load(bank), settings)


def _work(item: Any) -> Any:
    assert _tool is not None, "the pool's initializer opens the tool"
    return next(iter(_tool.run([item])))


def _work_or_fail(item: Any) -> Any:
    assert _tool is not None, "the pool's initializer opens the tool"
    return next(leaving_out(_tool, [item]))
