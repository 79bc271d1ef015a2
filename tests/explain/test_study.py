"""Blind studies: what the page shows, what the key hides, and how answers are counted."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import beta

from qsd.cli import main
from qsd.evaluation.grid import ImageRow, cells, draw_grid
from qsd.explain.study import Comparison, score_study, write_study
from qsd.support.errors import QsdError

COLOURS = {"full precision": (250, 250, 250), "<b>one</b>": (250, 0, 0), "two": (0, 250, 0), "3": (0, 0, 250)}


@pytest.fixture
def run(tmp_path):
    """A folder with a grid: a colour per row, a brightness per column."""
    rows = []
    for title, colour in COLOURS.items():
        shade = torch.tensor(colour)[None, :] - 20 * torch.arange(3)[:, None]
        images = shade.clamp(0).to(torch.uint8)[:, :, None, None].expand(3, 3, 8, 8)
        rows.append(ImageRow(f"{title}\n16 bits", images))
    draw_grid(rows, ["a", "b", "c"], tmp_path / "grid.png")
    return tmp_path


def colour_of(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.array(image)[image.height // 2, image.width // 2].tolist())


def test_cells_are_the_single_images(run):
    found = cells(run / "grid.png")
    assert [title.split("\n")[0] for title, _ in found] == list(COLOURS)
    for (_, images), colour in zip(found, COLOURS.values(), strict=True):
        expected = [tuple(max(0, part - 20 * column) for part in colour) for column in range(3)]
        assert [colour_of(image) for image in images] == expected


def test_the_page_is_blind_and_the_key_is_right(run, capsys):
    assert main(["report", str(run), "--out", str(run / "study.html"), "--study", "--seed", "3"]) == 0
    assert "9 trials; keep" in capsys.readouterr().out
    text = (run / "study.html").read_text(encoding="utf-8")
    words = re.sub(r"base64,[^\"]*", "", text)
    assert not any(name in words for name in ("full precision", "two", "&lt;b&gt;", "<b>"))
    images = json.loads(re.search(r"images = (\[.*?\]), trials", text)[1])
    trials = json.loads(re.search(r"trials = (\[\[.*?\]\]);", text)[1])
    key = json.loads((run / "study.html.key.json").read_text())
    assert key["reference"] == "full precision" and len(trials) == len(key["trials"]) == 9
    sides = []
    for shown, trial in zip(trials, key["trials"], strict=True):
        for place, name in zip(shown, ("full precision", trial["left"], trial["right"]), strict=True):
            content = base64.b64decode(images[place].partition(",")[2])
            expected = tuple(max(0, part - 20 * trial["column"]) for part in COLOURS[name])
            assert colour_of(Image.open(io.BytesIO(content))) == expected
        sides.append(trial["left"] < trial["right"])
    assert 0 < sum(sides) < 9  # sides are drawn
    assert "://" not in text


def answers_of(run, rater, choices):
    key = json.loads((run / "study.html.key.json").read_text())
    path = run / f"{rater}.json"
    listed = [{"trial": index, "choice": choice, "seconds": 1.5} for index, choice in enumerate(choices)]
    document = {"format": "qsd-study-answers", "version": 1, "study": key["study"], "rater": rater}
    path.write_text(json.dumps(document | {"answers": listed}))
    return path, key


def test_answers_are_counted_by_pair_and_by_config(run, capsys):
    write_study(run / "grid.png", run / "study.html", reference="full precision")
    key = json.loads((run / "study.html.key.json").read_text())
    choices = [  # "two" always wins, the others cannot be told apart
        "same"
        if "two" not in (trial["left"], trial["right"])
        else "left"
        if trial["left"] == "two"
        else "right"
        for trial in key["trials"]
    ]
    one, _ = answers_of(run, "ann", choices)
    other, _ = answers_of(run, "bob", choices[:4])  # did not finish
    found = {(row.one, row.other): row for row in score_study(run / "study.html.key.json", [one, other])}
    first = sum("two" in (trial["left"], trial["right"]) for trial in key["trials"][:4])
    assert found["two", "all others"].won == 6 + first and found["two", "all others"].lost == 0
    assert found["3", "<b>one</b>"] if ("3", "<b>one</b>") in found else found["3", "two"].lost >= 3
    assert sum(row.same for pair, row in found.items() if pair[1] != "all others") == 3 + 4 - first
    words = ["study", str(run / "study.html.key.json"), str(one), str(other)]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["one"], row["other"]) for row in rows} == set(found)
    assert main(words) == 0
    assert "<b>one</b>" in capsys.readouterr().out


def test_intervals_are_those_of_clopper_and_pearson():
    row = Comparison("a", "b", 7, 3, 5)
    assert row.share == 0.7
    assert row.interval == pytest.approx((beta.ppf(0.025, 7, 4), beta.ppf(0.975, 8, 3)))
    assert row.p_value == pytest.approx(0.34375)  # 2 * P(X >= 7) of 10 fair coins
    assert Comparison("a", "b", 0, 0, 5).interval == (0.0, 1.0)


def test_refusals(run, capsys):
    def refused(*words):
        assert main([*map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    page = run / "study.html"
    assert "has the rows full precision" in refused(
        "report", run, "--out", page, "--study", "--reference", "x"
    )
    with pytest.raises(QsdError, match="give a number of trials, at least 1"):
        write_study(run / "grid.png", page, trials=0)
    assert not page.exists()
    write_study(run / "grid.png", page)
    key = f"{page}.key.json"
    path, _ = answers_of(run, "ann", ["left"] * 9)
    assert "at least one file" in refused("study", key)
    path.write_text(path.read_text().replace('"trial": 1,', '"trial": 0,'))
    assert "answers a trial twice" in refused("study", key, path)
    twin = run / "twin.json"
    path, _ = answers_of(run, "ann", ["left"])
    twin.write_bytes(path.read_bytes())
    assert f"{twin}: has the very answers of {path}" in refused("study", key, path, twin)
    assert "holds no answers" in refused("study", key, answers_of(run, "bob", [])[0])
    assert main(["study", key, str(answers_of(run, "eve", ["same"])[0]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert told[0]["share"] is None
    path.write_text(path.read_text().replace('"study": "', '"study": "0'))
    assert "pair them anew" in refused("study", key, path)
    draw_grid([ImageRow("alone", torch.zeros(1, 3, 8, 8, dtype=torch.uint8))], ["a"], run / "grid.png")
    assert "two configs, and it has 1 such rows" in refused("report", run, "--out", page, "--study")
    (run / "grid.png").unlink()
    assert "a study needs the drawn images" in refused("report", run, "--out", page, "--study")
