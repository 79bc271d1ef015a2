"""Components that a pipeline writes over while it draws, such as a renderer of solids.

Each draw begins by writing what it needs, so they stay what they were before the first.
"""

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn

from qsd.denoisers.identity import component_identity

_Versions = tuple[tuple[int, int], ...]


@dataclasses.dataclass
class _Known:
    """A module: its identity, counts of changes that do not touch that, and whether draws made some."""

    identity: dict[str, str]
    versions: _Versions
    is_written: bool = False


_KNOWN: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def identity_before_drawing(component: Any) -> dict[str, str]:
    """:func:`qsd.denoisers.identity.component_identity`, as it was before draws wrote over the component.

    Whatever else changed it since counts.
    """
    if not isinstance(component, nn.Module):
        return component_identity(component)
    known, versions = _KNOWN.get(component), _versions(component)
    if known is None or not known.is_written or known.versions != versions:
        known = _KNOWN[component] = _Known(component_identity(component), versions)
    return known.identity


@contextlib.contextmanager
def noting_overwritten(pipe: Any) -> Iterator[None]:
    """Notes which of the components whose identity is known are written over meanwhile."""
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module) and part in _KNOWN]
    unchanged = [part for part in modules if _KNOWN[part].versions == _versions(part)]
    try:
        yield
    finally:
        for part in unchanged:
            if (versions := _versions(part)) != _KNOWN[part].versions:
                _KNOWN[part] = _Known(_KNOWN[part].identity, versions, is_written=True)


def _versions(module: nn.Module) -> _Versions:
    """By tensor, how often it was changed in place."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
