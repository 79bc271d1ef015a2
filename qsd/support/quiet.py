"""Keeps the loading bars and reports of libraries out of our own output."""

import contextlib
import logging
from collections.abc import Iterator

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the loading bars and warnings of diffusers and transformers inside the block."""
    both = (diffusers_logging, transformers_logging)
    shown = [library for library in both if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in both]
    for library in both:
        library.set_verbosity_error()
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        for library, level in zip(both, levels, strict=True):
            library.set_verbosity(level)


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """Without the traceback that torch prints where an operation refuses shapes: the error says it all."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
