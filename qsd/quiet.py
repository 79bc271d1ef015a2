"""Keeps other libraries' progress bars from mixing with ours."""

import contextlib
from collections.abc import Iterator

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the loading bars of diffusers and transformers inside the block."""
    both = (diffusers_logging, transformers_logging)
    shown = [library for library in both if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
