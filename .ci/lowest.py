"""Prints the lowest version of every dependency that pyproject.toml allows, as pip's constraints.

Torch is left out: its lowest builds for the CPU are not on the package index, so it has the version of
constraints.txt here, too.
"""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in PROJECT["dependencies"]:
    name, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
    if name != "torch":
        print(f"{name}=={version}")
