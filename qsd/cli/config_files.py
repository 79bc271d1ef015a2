"""The files behind every ``--config`` of a command line."""

from collections.abc import Sequence
from pathlib import Path

from qsd.support.paths import find


def with_config_files(words: Sequence[str]) -> list[str]:
    """Replaces the value of every --config by its path, behind those of the files that it builds on.

    A file that already stands before is not put there again, so words may pass here twice.
    """
    resolved: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c"):
            resolved.append(word)
        elif (value := value if equals else next(rest, "")) == "":
            resolved.append(word)  # the verb's parser says what is missing
        else:
            *bases, file = map(str, _files_of(value))
            for path in [*(base for base in bases if base not in resolved), file]:
                resolved += ["--config", path]
    return resolved


def _files_of(name: str) -> list[Path]:
    path = find(name)
    if path.suffix not in (".yaml", ".yml"):
        return [path]
    from qsd.support.yaml_files import with_bases

    return with_bases(path)
