"""Packages that are also functions: ``qsd.search(...)`` and ``import qsd.search as s`` both work."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    __qsd_target__: tuple[str, str]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, name = self.__qsd_target__
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


def make_callable(package: str, module: str, name: str) -> None:
    """Lets a package be called as the function that shares its name.

    A function of that name in the parent package would shadow the package for ``import ... as``, and
    whichever was imported last would win. The package itself answers the call instead, and the attribute is
    one thing.

    Args:
        package: full name of the package, being imported.
        module: module of the function, imported on the first call.
        name: of the function in it.
    """
    itself = sys.modules[package]
    itself.__class__ = _CallablePackage
    itself.__dict__["__qsd_target__"] = (module, name)
