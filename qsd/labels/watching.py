"""Watching records come: the best so far, how many an hour, and a line per record in somebody's logger."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from qsd.evaluation.evaluator import LABELS, headline
from qsd.support.errors import QsdError, first_line

LoggerName = Literal["csv", "tensorboard", "wandb"]

_LARGER_IS_BETTER = {label.name: label.larger_is_better for label in LABELS}


class Watch:
    """Is told of every record.

    Args:
        logger: one of Lightning's; None for none.
        workers: tells how many processes measure side by side just now.

    Attributes:
        count: records so far.
    """

    def __init__(self, logger: Any = None, workers: Callable[[], int] = lambda: 1) -> None:
        self._logger = logger
        self._workers = workers
        self._began = time.monotonic()
        self.count = 0
        self._best: dict[str, float] = {}

    def record(self, index: int, labels: dict[str, float], seconds: float) -> str:
        """Notes a record.

        Args:
            index: of the config.
            labels: by name.
            seconds: that it took.

        Returns:
            One line: the config, its headline, the best so far and the pace.
        """
        self.count += 1
        name = headline(labels)
        better = max if _LARGER_IS_BETTER[name] else min
        self._best[name] = better(labels[name], self._best.get(name, labels[name]))
        hourly = 3600 * self.count / max(time.monotonic() - self._began, 1e-9)
        if self._logger is not None:
            facts = {"config": index, "seconds": seconds, "records_per_hour": hourly}
            facts |= {
                "records_per_hour_per_worker": hourly / max(self._workers(), 1),
                f"best_{name}": self._best[name],
            }
            self._logger.log_metrics(labels | facts, step=self.count)
            self._logger.save()
        return (
            f"config {index}: {name} {labels[name]:.4g} (best {self._best[name]:.4g}), {seconds:.1f} s, "
            f"{hourly:,.0f}/h"
        )

    def close(self) -> None:
        """Finishes what the logger writes."""
        if self._logger is not None:
            self._logger.finalize("success")


def open_logger(kind: LoggerName, store: str | Path) -> Any:
    """Lightning's logger of that kind, writing beside a store; every run gets a version of its own.

    Raises:
        QsdError: it is not installed.
    """
    from lightning.pytorch import loggers

    folder = f"{store}.log"
    try:
        match kind:
            case "csv":
                return loggers.CSVLogger(folder, name="", flush_logs_every_n_steps=1)
            case "tensorboard":
                return loggers.TensorBoardLogger(folder, name="")
            case "wandb":
                return loggers.WandbLogger(save_dir=folder, name=Path(store).stem, project="qsd")
    except ModuleNotFoundError as error:
        raise QsdError(f"--logger {kind}: {first_line(error)}; run `pip install {kind}`") from error
