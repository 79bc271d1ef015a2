"""A headless Chromium for tests of pages, if the machine has one."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    """Yields a Selenium driver; skips the test where Chromium, its driver or Selenium is missing."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium (`pip install 'qsd[dev]'`)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    words = ["--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    words += ["--disable-background-networking", "--disable-component-update", "--window-size=1200,1000"]
    words += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    for word in words:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(executable_path=driver))
    try:
        yield opened
    finally:
        opened.quit()
