"""The package as people import it: names, versions, and packages that no function shadows."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import qsd
from qsd.cli import main
from qsd.support.imports import after_import


def _modules() -> list[str]:
    return [
        module.name for module in pkgutil.walk_packages(qsd.__path__, "qsd.") if "__main__" not in module.name
    ]


def test_no_function_shadows_a_module() -> None:
    for name in _modules():
        module = importlib.import_module(name)
        parent, _, leaf = name.rpartition(".")
        assert getattr(importlib.import_module(parent), leaf) is module, name


def test_public_names_are_there() -> None:
    for name in qsd.__all__:
        assert getattr(qsd, name) is not None
    assert callable(qsd.search) and callable(qsd.export)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = qsd.nothing


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qsd {qsd.__version__}\n"


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; from qsd.cli import main; main(['--help']); main(['--version']);"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'lightning', 'rich') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert printed.stdout.rstrip().endswith("[]")


def test_after_import_acts_once_and_at_once_if_imported() -> None:
    seen: list[str] = []
    sys.modules.pop("this_is_no_module", None)
    after_import("this", lambda: seen.append("later"))
    after_import("sys", lambda: seen.append("now"))
    assert seen == ["now"]
    sys.modules.pop("this", None)
    import this  # noqa: F401

    assert seen == ["now", "later"]
    assert not any(getattr(finder, "name", None) == "this" for finder in sys.meta_path)


def test_exports_open_whatever_of_diffusers_is_imported_first() -> None:
    code = (
        "import qsd; from diffusers import AutoencoderKL; from diffusers.quantizers import auto;"
        "print('qsd' in auto.AUTO_QUANTIZER_MAPPING)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "True"
