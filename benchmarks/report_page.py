"""How long the page of a run with many layers takes in a browser.

    python benchmarks/report_page.py [--layers 1400]

Writes the page of a search (three members, options made up) and opens it in a headless Chromium (Debian:
`apt install chromium chromium-driver`; `pip install selenium`). Printed are the milliseconds from the start
to the end of loading, and of a sort by name, a sort by option and a word typed into the filter, each with the
layout that follows, as the median of nine.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from selenium import webdriver

from qsd.explain.report import write_report
from qsd.explain.run_folder import RunFolder
from qsd.search import Front
from qsd.search.front import FrontMeta

TIMED = """
const [selector, word] = arguments, element = document.querySelector(selector), times = [];
for (let turn = 0; turn < 9; turn++) {
  const start = performance.now();
  if (word === null) element.click();
  else { element.value = turn % 2 ? "" : word; element.dispatchEvent(new Event("input")); }
  document.body.offsetHeight;  // lays out
  times.push(performance.now() - start);
}
return times.sort((a, b) => a - b)[4];
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=1400)
    count = parser.parse_args().layers
    names = tuple(
        f"down_blocks.{n // 100}.attentions.{n // 10 % 10}.transformer_blocks.{n % 10}.ff.{n}"
        for n in range(count)
    )
    meta = FrontMeta(names, ("uaq-3", "uaq-4"), max_bits=4.0)
    configs = np.random.default_rng(0).integers(0, 2, size=(3, count)).astype(np.int8)
    quality = np.array([1.0, 2.0, 3.0])
    front = Front(configs, quality, quality / 10, np.array([10, 20, 30]), quality + 2, meta)
    options = webdriver.ChromeOptions()
    words = ["--headless", "--disable-gpu", "--disable-background-networking", "--window-size=1200,1000"]
    for word in words + (["--no-sandbox"] if os.geteuid() == 0 else []):
        options.add_argument(word)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(RunFolder(Path(folder), {"front.json": front}, {}, None, None, None), page)
        driver = webdriver.Chrome(options=options)
        try:
            driver.get(page.as_uri())
            loaded = driver.execute_script(
                "const found = performance.getEntriesByType('navigation')[0]; return found.duration"
            )
            named, numbered = (
                driver.execute_script(TIMED, f"#layers th:nth-child({column}) button", None)
                for column in (1, 2)
            )
            typed = driver.execute_script(TIMED, "#filter", "ff.7")
        finally:
            driver.quit()
    print(
        f"{count} layers: loaded in {loaded:.0f} ms; sorted by name {named:.0f}, by option {numbered:.0f} ms"
    )
    print(f"filtered in {typed:.0f} ms")


if __name__ == "__main__":
    main()
