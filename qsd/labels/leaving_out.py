"""Work that fails is left out and named in the end; all other work goes on."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from qsd.support.errors import QsdError, first_line

Item = TypeVar("Item")
ItemIn = TypeVar("ItemIn", contravariant=True)


class HopelessError(QsdError):
    """No work of this kind can succeed, whatever the item."""


@dataclasses.dataclass(frozen=True)
class Failure(Generic[Item]):
    """Stands in the place of a result.

    Attributes:
        item: the work that failed as often as it was tried.
        reason: one line.
    """

    item: Item
    reason: str


class _Tool(Protocol[ItemIn]):
    def run(self, items: Iterable[ItemIn], /) -> Iterator[Any]: ...


def leaving_out(tool: _Tool[Item], items: Iterable[Item]) -> Iterator[Any]:
    """Works on items one after another; yields a result or a :class:`Failure` of each.

    Raises:
        HopelessError: as the tool does.
    """
    for item in items:
        try:
            result = next(iter(tool.run([item])))
        except HopelessError:
            raise
        except QsdError as error:
            result = Failure(item, first_line(error, 400))
        yield result


def check_complete(failures: Sequence[Failure[Any]]) -> None:
    """Says what was left out, if anything.

    Raises:
        QsdError: something was.
    """
    if failures:
        raise QsdError(
            f"{len(failures)} left out, such as {failures[0].reason}; all others are stored: run the same "
            "command again to try them again"
        )
