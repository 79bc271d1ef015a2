"""What the pages say: links lead somewhere, Python parses, commands have the options that they are given."""

import ast
import io
import re
import shlex
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest
import yaml

from qsd.cli import VERBS, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.M | re.S)
OURS = re.compile(r"\b(?:qsd|lightning) ([a-z]+)\b(.*)")


def _blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, kind, text in found if kind == language]


@cache
def _help(*verbs: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        main([*verbs, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_parse(page: Path) -> None:
    for block in _blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_blocks_parse(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        assert yaml.safe_load(block) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_they_are_given(page: Path) -> None:
    for block in _blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = OURS.match(line.strip())
            if command is None:
                continue
            verb, rest = command.groups()
            assert verb in VERBS, f"{page.name}: no verb {verb}"
            words = shlex.split(rest, comments=True)
            verbs = [verb, *words[:1]] if verb in ("store", "zoo") else [verb]
            for word in words:
                name = word.split("=")[0].removeprefix("--").replace("-", "_")
                if word.startswith("--") and "." not in name and verb not in ("fit", "test", "predict"):
                    known = _help(*verbs).replace("-", "_")
                    assert re.search(rf"__{name}\b", known), f"{page.name}: qsd {verb} has no {word}"
