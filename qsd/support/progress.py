"""How long-running library functions report progress without printing."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, message); the command line turns the calls into a bar with an ETA."""
