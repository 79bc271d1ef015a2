"""A result that stands where a verb is to write: only one that the same input made is replaced."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qsd.denoisers.identity import same_denoiser
from qsd.support.errors import QsdError

Facts = Mapping[str, Any]


def check_replaceable(
    path: Path, wanted: Facts, found: Callable[[], Facts], *, overwrite: bool = False
) -> bool:
    """Refuses to replace a result that another input made.

    Args:
        path: where it stands, if there is one.
        wanted: what decides the result that is to be written, by name; denoisers are compared by identity.
        found: reads the same of the result that is there.
        overwrite: replace whatever is there.

    Returns:
        Whether a result of the same input is there.

    Raises:
        QsdError: what is there has another input, or cannot be read.
    """
    if overwrite or not path.exists():
        return False
    try:
        earlier = found()
    except QsdError as error:
        raise QsdError(f"{error}; or replace {path} with --overwrite") from error
    different = [name for name, value in wanted.items() if not _same(earlier.get(name), value)]
    if different:
        raise QsdError(
            f"{path}: is there already, made of another {' and another '.join(different)}; "
            "name another --out, or replace it with --overwrite"
        )
    return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and "weights_hash" in {**one, **other}:
        return same_denoiser(one, other)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
