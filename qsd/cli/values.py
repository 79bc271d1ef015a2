"""Values that begin with a minus, such as the target ``-log(fid)``."""

import re
from collections.abc import Sequence

_EXPRESSION = re.compile(r"-[a-zA-Z(].+", re.DOTALL)


def with_values(words: Sequence[str]) -> list[str]:
    """Joins options and values such as ``--label -log(fid)``, which would be taken for options themselves."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        if _EXPRESSION.fullmatch(word) and before.startswith("--") and "=" not in before:
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined
