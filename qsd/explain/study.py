"""A blind study: which of two images is nearer to a third, asked on a page, scored with exact intervals."""

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from pydantic import Field
from scipy.stats import binomtest

from qsd.evaluation.grid import cells
from qsd.support.documents import Schema, check_schema, parse_json, read_bounded, read_json, write_json
from qsd.support.errors import QsdError
from qsd.support.files import atomic
from qsd.support.hashing import json_hash

KEY_FORMAT, ANSWERS_FORMAT = "qsd-study-key", "qsd-study-answers"
_REMEDY = "write the study again"


class _Trial(Schema):
    left: str
    right: str
    column: Annotated[int, Field(ge=0)]


class _Key(Schema):
    format: Literal["qsd-study-key"]
    version: Literal[1]
    study: str
    reference: str
    trials: list[_Trial]
    hash: str


class _Answer(Schema):
    trial: Annotated[int, Field(ge=0)]
    choice: Literal["left", "right", "same"]
    seconds: Annotated[float, Field(ge=0)] | Annotated[int, Field(ge=0)]


class _Answers(Schema):
    format: Literal["qsd-study-answers"]
    version: Literal[1]
    study: str
    rater: str
    answers: list[_Answer]


@dataclass(frozen=True)
class Comparison:
    """How often one config's images were found nearer to the reference than another's.

    Attributes:
        one: name of a config.
        other: name of another; "all others" for a config against every other.
        won: answers for the one.
        lost: answers for the other.
        same: answers that could not tell.
    """

    one: str
    other: str
    won: int
    lost: int
    same: int

    @property
    def share(self) -> float:
        """Won, of the decided answers; NaN where none is."""
        decided = self.won + self.lost
        return self.won / decided if decided else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Exact (Clopper-Pearson) 95 % interval of the share."""
        decided = self.won + self.lost
        if not decided:
            return 0.0, 1.0
        found = binomtest(self.won, decided).proportion_ci()
        return float(found.low), float(found.high)

    @property
    def p_value(self) -> float:
        """Of the two-sided sign test that neither is nearer."""
        decided = self.won + self.lost
        return float(binomtest(self.won, decided).pvalue) if decided else 1.0


def write_study(
    grid: str | Path, page: str | Path, *, reference: str | None = None, trials: int = 60, seed: int = 0
) -> tuple[Path, int]:
    """Writes a page of blind trials and, beside it, the key that says which image was whose.

    Every trial shows an image of the reference and, in random order, the images of two other rows from the
    same prompt and noise. The page knows no names.

    Args:
        grid: picture that :func:`qsd.evaluation.grid.draw_grid` wrote.
        page: destination; the key is written as `PAGE.key.json`.
        reference: title of the reference row, or its first line; the first row by default.
        trials: at most so many, drawn at random.
        seed: of order and sides.

    Returns:
        The key's path, and the number of trials.

    Raises:
        QsdError: the picture has too few rows, or none of that title.
    """
    if trials < 1:
        raise QsdError(f"trials {trials}: give a number of trials, at least 1")
    rows = {title.split("\n")[0]: images for title, images in cells(grid)}
    if len(rows) < 3:
        raise QsdError(
            f"{grid}: a study needs single images of full precision and two configs, and it has {len(rows)} "
            "such rows; draw it anew with this qsd"
        )
    names = list(rows)
    third = names[0] if reference is None else reference.split("\n")[0]
    if third not in rows:
        raise QsdError(f"reference {third!r}: {grid} has the rows {', '.join(names)}")
    rng = np.random.default_rng(seed)
    columns = len(rows[third])
    pairs = itertools.combinations([name for name in names if name != third], 2)
    every = [(one, other, column) for one, other in pairs for column in range(columns)]
    asked: list[tuple[str, str, int]] = []  # left, right, column
    for place in rng.permutation(len(every))[:trials].tolist():
        one, other, column = every[place]
        asked.append((one, other, column) if rng.random() < 0.5 else (other, one, column))
    places = [(name, column) for name in names for column in range(columns)]
    shuffled = [places[place] for place in rng.permutation(len(places)).tolist()]
    where = {place: index for index, place in enumerate(shuffled)}
    document: dict[str, Any] = {
        "reference": third,
        "trials": [{"left": left, "right": right, "column": column} for left, right, column in asked],
    }
    study = json_hash(document | {"seed": seed})[:16]
    environment = Environment(
        loader=PackageLoader("qsd.explain"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("study.html").render(
        study=study,
        images=[_embedded(rows[name][column]) for name, column in shuffled],
        trials=[[where[name, column] for name in (third, left, right)] for left, right, column in asked],
        answers_format=ANSWERS_FORMAT,
    )
    page = Path(page)
    key = page.with_name(f"{page.name}.key.json")
    write_json(key, {"format": KEY_FORMAT, "version": 1, "study": study} | document)
    with atomic(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return key, len(asked)


def score_study(key: str | Path, answers: Sequence[str | Path]) -> list[Comparison]:
    """Counts answers: each pair of configs, then each config against all others.

    Args:
        key: what :func:`write_study` wrote beside the page.
        answers: files that the page saved; one rater each.

    Raises:
        QsdError: a file is damaged or empty, answers another study, or was given before.
    """
    if not answers:
        raise QsdError("study: give at least one file of answers that the page saved")
    known = read_json(key, KEY_FORMAT, 1, _Key, remedy=_REMEDY)
    trials = known["trials"]
    counts: dict[tuple[str, str], list[int]] = {}
    read: dict[str, Path] = {}
    for file in map(Path, answers):
        given = _answers(file, known["study"], len(trials))
        earlier = read.setdefault(json_hash({"answers": given}), file)
        if earlier is not file:
            raise QsdError(f"{file}: has the very answers of {earlier}; give the answers of each person once")
        for answer in given:
            trial = trials[answer["trial"]]
            one, other = sorted((trial["left"], trial["right"]))
            found = counts.setdefault((one, other), [0, 0, 0])
            chosen = trial.get(answer["choice"])
            found[2 if chosen is None else 0 if chosen == one else 1] += 1
    pairs = [
        Comparison(one, other, won, lost, same) for (one, other), (won, lost, same) in sorted(counts.items())
    ]
    names = sorted({name for pair in counts for name in pair})
    return pairs + [_against_all(name, pairs) for name in names]


def _answers(file: Path, study: str, trials: int) -> list[dict[str, Any]]:
    document = parse_json(read_bounded(file), file, "save it again from the page")
    check_schema(_Answers, document, file, "save it again from the page")
    if document["study"] != study:
        raise QsdError(f"{file}: answers study {document['study']}, the key is of {study}; pair them anew")
    answers: list[dict[str, Any]] = document["answers"]
    if not answers:
        raise QsdError(f"{file}: holds no answers; leave it out, or answer on the page and save again")
    seen = [answer["trial"] for answer in answers]
    if len(set(seen)) < len(seen) or any(trial >= trials for trial in seen):
        raise QsdError(f"{file}: answers a trial twice or one of {trials} that is not there; save it again")
    return answers


def _against_all(name: str, pairs: Sequence[Comparison]) -> Comparison:
    won = sum(pair.won if pair.one == name else pair.lost for pair in pairs if name in (pair.one, pair.other))
    lost = sum(
        pair.lost if pair.one == name else pair.won for pair in pairs if name in (pair.one, pair.other)
    )
    same = sum(pair.same for pair in pairs if name in (pair.one, pair.other))
    return Comparison(name, "all others", won, lost, same)


def _embedded(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
