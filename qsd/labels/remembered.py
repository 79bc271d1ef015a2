"""Measurements that are kept in a file, so that measuring goes on where it was stopped."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qsd.labels.labeling import Run
from qsd.labels.measurer import Job, Measured
from qsd.support.documents import read_json, write_json
from qsd.support.hashing import json_hash

_FORMAT = "qsd-measurements"


class Remembered:
    """Measures what no earlier run under the same conditions has measured.

    Args:
        run: measures jobs.
        path: JSON file of what is known; one of other conditions is replaced.
        conditions: JSON values that decide a measurement besides config and noise.
    """

    def __init__(self, run: Run, path: Path, conditions: Mapping[str, Any]) -> None:
        self._run = run
        self._path = path
        self._conditions = json_hash(dict(conditions))
        self._known: dict[str, Any] = {}
        if path.exists():
            document = read_json(path, _FORMAT, 1, remedy="remove it, it is measured again")
            if document.get("conditions") == self._conditions:
                self._known = document.get("measured", {})

    def run(self, jobs: Iterable[Job]) -> Iterator[Measured]:
        """Yields what is known, then what had to be measured, each kept before it is yielded."""
        unknown = []
        for job in jobs:
            if known := self._known.get(_key(job)):
                yield job, known["labels"], known["seconds"]
            else:
                unknown.append(job)
        for job, labels, seconds in self._run(unknown) if unknown else ():
            self._known[_key(job)] = {"labels": labels, "seconds": seconds}
            document = {"format": _FORMAT, "version": 1, "conditions": self._conditions}
            write_json(self._path, document | {"measured": self._known})
            yield job, labels, seconds


def _key(job: Job) -> str:
    assert job.activations is None, "activations are no part of the key"
    return json_hash([job.config.tolist(), job.noise_seed])
