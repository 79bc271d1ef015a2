"""The one exception that stands for a user's mistake rather than a defect of qsd."""


class QsdError(ValueError):
    """A one-line message that names what is wrong and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of another library's error, short enough to stand inside a one-line message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:limit]


def printable(text: str) -> str:
    """A text in which control characters are written out (``\\x1b``), but for ends of lines and tabs."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
