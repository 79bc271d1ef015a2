"""The pages in a headless Chromium: they work, and nothing of a name is taken for markup."""

import json
import time

import numpy as np
import pytest
import torch
from support.browser import browser

from qsd.evaluation.grid import ImageRow, draw_grid
from qsd.explain.report import write_report
from qsd.explain.run_folder import RunFolder
from qsd.explain.study import score_study, write_study
from qsd.search import Front
from qsd.search.front import FrontMeta

EVIL = '</script><img src=x onerror="document.title=1">&amp;'
LAYERS = 1400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A search of 1,400 layers, with drawn images."""
    path = tmp_path_factory.mktemp("run")
    names = (EVIL, *(f"blocks.{index // 10}.layer{index % 10}" for index in range(1, LAYERS)))
    meta = FrontMeta(names, ("uaq-3", "uaq-4"), max_bits=4.0, command="qsd search <b>")
    configs = np.random.default_rng(0).integers(0, 2, size=(3, LAYERS)).astype(np.int8)
    quality = np.array([1.0, 2.0, 3.0])
    Front(configs, quality, quality / 10, np.array([10, 20, 30]), quality + 2, meta).save(path / "front.json")
    colours = torch.tensor([[250, 250, 250], [250, 0, 0], [0, 250, 0]], dtype=torch.uint8)
    rows = [
        ImageRow(title, colour[None, :, None, None].expand(2, 3, 8, 8))
        for title, colour in zip(("full", "<i>red</i>", "green"), colours, strict=True)
    ]
    draw_grid(rows, ["a", "b"], path / "grid.png")
    write_report(RunFolder.open(path), path / "report.html")
    write_study(path / "grid.png", path / "study.html")
    return path


@pytest.fixture(scope="module")
def driver(folder):
    with browser(folder) as opened:
        yield opened


def complaints(driver):
    return [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_the_report_sorts_filters_slides_and_shows_names_as_text(folder, driver):
    run, find = driver.execute_script, lambda selector: driver.find_element("css selector", selector)
    driver.get((folder / "report.html").as_uri())
    column = (
        "return [...document.querySelectorAll('#layers tbody td:first-child')].map(cell => cell.textContent)"
    )
    shown = run(column)
    assert len(shown) == LAYERS and shown[0] == EVIL
    assert (
        driver.title.startswith("qsd: ")
        and run("return document.querySelectorAll('#layers img').length") == 0
    )
    button = find("#layers th button")
    for descending in (False, True):
        button.click()
        assert run(column) == sorted(shown, reverse=descending)
    find("#filter").send_keys("blocks.7. LAYER3")
    assert find("#count").text == f"1 of {LAYERS} layers"
    visible = "return [...document.querySelectorAll('#layers tbody tr')].filter(row => row.offsetParent)"
    assert [row.text.split()[0] for row in run(visible)] == ["blocks.7.layer3"]
    run("document.querySelector('#front circle:last-of-type').dispatchEvent(new Event('mouseenter'))")
    assert find("#said").text.startswith("5.000 bits, 30 bytes")

    clip = "return getComputedStyle(document.querySelectorAll('#compare img')[2]).clipPath"
    before = run(clip)
    find("#slider").send_keys("\ue014" * 5)  # the right arrow key
    assert find("#slider").get_attribute("value") == "55"
    assert "50%" in before and "55%" in run(clip)
    look = "const [under, over] = document.querySelectorAll('#difference img');"
    look += "return [under.src, over.src, getComputedStyle(over).mixBlendMode]"
    under, over, blend = run(look)
    assert under != over and blend == "difference"
    run(
        "const one = document.getElementById('one'); one.selectedIndex = 2;"
        "one.dispatchEvent(new Event('input'))"
    )
    under, over, _ = run(look)
    assert under == over
    assert complaints(driver) == []


def test_a_study_is_answered_saved_and_scored(folder, driver):
    find = lambda selector: driver.find_element("css selector", selector)  # noqa: E731
    driver.get((folder / "study.html").as_uri())
    key = folder / "study.html.key.json"
    trials = json.loads(key.read_text())["trials"]
    assert find("#count").text == f"1 of {len(trials)}"
    find("#same").click()
    find("#back").click()
    for trial in trials:
        side = "left" if trial["left"] == "green" else "right"
        find(f"#{side}").click()
    assert find("#count").text == f"all {len(trials)} answered"
    find("#rater").send_keys("ann <b>")
    find("#save").click()
    for _ in range(100):
        saved = list(folder.glob("answers-*.json"))
        if saved:
            break
        time.sleep(0.1)
    (against,) = [row for row in score_study(key, saved) if row.one == "green" and row.other == "all others"]
    assert (against.won, against.lost, against.same) == (len(trials), 0, 0)
    assert json.loads(saved[0].read_text())["rater"] == "ann <b>"
    assert complaints(driver) == []
