"""What the generator adds while it builds: the help of every verb, and pages that nobody had to list."""

import contextlib
import io
from pathlib import Path
from typing import Any

from qsd.cli import VERBS, main

_SECTIONS = {
    "Use": ["index", "own_model", "cluster", "cli", "python", "faq"],
    "Understand": [
        "method",
        "options",
        "activations",
        "evaluation",
        "search",
        "explain",
        "transfer",
        "studies",
    ],
    "Look up": ["formats", "coverage", "miniatures", "performance", "reproduce", "glossary"],
    "Project": ["contributing", "changelog"],
}


def on_config(config: Any) -> Any:
    """Puts the pages that are there into the menu; one that no section names ends up under Look up."""
    there = {page.stem for page in Path(config.docs_dir).glob("*.md")}
    named = {name for names in _SECTIONS.values() for name in names}
    config.nav = [
        {section: [f"{name}.md" for name in [*names, *(sorted(there - named) if section == "Look up" else [])]
                   if name in there]}
        for section, names in _SECTIONS.items()
    ]  # fmt: skip
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces the mark in the page of the command line by what every verb says with --help."""
    if page.file.src_path != "cli.md":
        return markdown
    return markdown.replace("<!-- help of every verb -->", "\n".join(map(_section, VERBS)))


def _section(verb: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    return f"## `qsd {verb}`\n\n{VERBS[verb].summary}\n\n```text\n{printed.getvalue().rstrip()}\n```\n"
