"""Where results that can be computed again are kept between runs."""

import os
from pathlib import Path

import platformdirs

VARIABLE = "QSD_CACHE"


def user_cache() -> Path:
    """The folder named by the environment variable ``QSD_CACHE``, else the user's cache of this program.

    It is the one place below the command line that reads the environment: worker processes share it.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("qsd", appauthor=False)
