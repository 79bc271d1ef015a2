"""``qsd search`` with budgets of activations: weights and activations are searched together, or by step."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from qsd.bank import Bank
from qsd.cli.console import bar, command_line, console, print_json
from qsd.cli.overwriting import check_replaceable
from qsd.cli.tables import number_table
from qsd.configs.document import config_to_json, layers_to_json, load_document, save_config
from qsd.configs.schedule import even_ranges, save_schedule
from qsd.denoisers.pipeline import DtypeName, check_device, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels.steps import StepProbe
from qsd.ranker.checkpoint import load_ranker
from qsd.ranker.joint import pairs
from qsd.ranker.joint_search import allowed_activations, joint_costs, search_with_activations
from qsd.ranker.schedules import Budgets, Scheduled, by_damage, by_importance
from qsd.ranker.tasks import Known, OrthogonalitySettings, make_task, similarities, space_of
from qsd.search import METHODS
from qsd.search.pins import apart
from qsd.support.errors import QsdError

_METHODS = ("evolution", "orthogonality")


@dataclasses.dataclass(frozen=True)
class JointWords:
    """What the command line says.

    Attributes:
        bank, out, ranker, pipeline, steps: files and folders.
        method: evolution over a ranker, or orthogonality.
        max_bits, max_act_bits, max_bops: budgets.
        keep, at_least: rules by pattern.
        evaluation, orthogonality: how orthogonality draws and weighs.
        seed, device, dtype, overwrite, json: as for every search.
    """

    bank: str
    out: str
    ranker: str | None
    pipeline: str | None
    steps: str | None
    method: str
    max_bits: float | None
    max_act_bits: float | None
    max_bops: float | None
    keep: Mapping[str, str]
    at_least: Mapping[str, str]
    evaluation: EvaluationSettings | None
    orthogonality: OrthogonalitySettings
    seed: int
    device: str
    dtype: DtypeName
    overwrite: bool
    json: bool


@dataclasses.dataclass(frozen=True)
class _Found:
    """A config, its activations, costs, predicted target if any, and a schedule if one was asked for."""

    config: np.ndarray
    activations: np.ndarray
    costs: dict[str, float]
    scheduled: Scheduled | None = None
    predicted: float | None = None
    target: str = ""


def run_joint(words: JointWords, unused: Mapping[str, Any]) -> None:
    """Writes ``best.json``, a config with activations, and ``schedule.json``; says what they cost.

    Args:
        words: what to search.
        unused: further words by name, true where they were given; they mean nothing here.

    Raises:
        QsdError: one of these is given, or the search needs what is not there.
    """
    if words.method not in _METHODS:
        raise QsdError(
            f"method {words.method!r}: does not search activations; use one of {', '.join(_METHODS)}"
        )
    given = [name.replace("_", "-") for name, value in unused.items() if value]
    if given:
        raise QsdError(f"--{given[0]}: means nothing with --max-act-bits or --max-bops; leave it out")
    needless = {"ranker": words.ranker, "steps": words.steps} if words.method == "orthogonality" else {}
    if given := [name for name, value in needless.items() if value]:
        raise QsdError(f"--{given[0]}: means nothing with --method orthogonality here; leave it out")
    check_device(words.device)
    loaded = Bank.load(words.bank)
    out, wanted = Path(words.out), {"denoiser": loaded.denoiser, "kind": "activations"}
    check_replaceable(out / "best.json", wanted, lambda: _facts(out / "best.json"), overwrite=words.overwrite)
    steps = None if words.steps is None else StepProbe.load(words.steps, loaded.denoiser)
    found = _by_ranker(words, loaded, steps) if words.method == "evolution" else _orthogonal(words, loaded)
    _write(words, loaded, found)


def _by_ranker(words: JointWords, bank: Bank, steps: StepProbe | None) -> _Found:
    if words.ranker is None:
        raise QsdError("max_act_bits, max_bops: need --ranker, trained on a store with activation options")
    ranker, budgets = load_ranker(words.ranker), Budgets(words.max_act_bits, words.max_bops)
    with bar("Search") as progress:
        both = search_with_activations(
            ranker,
            bank,
            max_bits=words.max_bits,
            **dataclasses.asdict(budgets),
            keep=words.keep,
            at_least=words.at_least,
            seed=words.seed,
            progress=progress,
        )
    scheduled = None
    if steps is not None:
        shares = steps.shares(bank.activation_options)
        scheduled = by_damage(
            ranker,
            bank,
            both,
            steps.ranges,
            shares,
            budgets,
            allowed_activations(bank, words.keep, words.at_least),
        )
    return _Found(both.config, both.activations, both.costs, scheduled, both.predicted, ranker.target)


def _orthogonal(words: JointWords, bank: Bank) -> _Found:
    if words.pipeline is None or words.evaluation is None:
        raise QsdError("orthogonality: needs --pipeline and --evaluation, to draw with full precision")
    if words.orthogonality.sweep:
        raise QsdError("orthogonality.sweep: is for budgets of weights; give one orthogonality.beta")
    with bar("Search") as progress:
        pipe = load_pipeline(words.pipeline, device=words.device, dtype=words.dtype, encoders=False)
        gamma = similarities(pipe, bank, words.evaluation, words.orthogonality, progress)
    known = Known(bank, gamma=gamma)
    (pins, _), (floors, _) = apart(words.keep), apart(words.at_least)
    space = space_of(bank, pins, floors)
    task = make_task(
        "orthogonality", known, space, max_bits=words.max_bits, orthogonality=words.orthogonality
    )
    config = METHODS["orthogonality"](task).best()
    budgets, able = (
        Budgets(words.max_act_bits, words.max_bops),
        allowed_activations(bank, words.keep, words.at_least),
    )
    shared: tuple[Any, ...] = (budgets, words.orthogonality, able)
    ranges = even_ranges(words.evaluation.steps, len(gamma))
    scheduled = by_importance(bank, config, ranges, gamma, *shared)
    mean = gamma.mean(axis=0, keepdims=True)
    alike = by_importance(bank, config, even_ranges(words.evaluation.steps, 1), mean, *shared)
    activations = alike.schedule.activations[0]
    total = joint_costs(bank).of(pairs(config, activations, len(bank.activation_options))[None])[:, 0]
    costs = dict(zip(joint_costs(bank).names, total.tolist(), strict=True))
    return _Found(config, activations, costs, scheduled if len(ranges) > 1 else None)


def _write(words: JointWords, bank: Bank, found: _Found) -> None:
    texts = [str(option) for option in bank.activation_options]
    predicted: dict[str, Any] = {"activations": "simulated", **found.costs}
    if found.predicted is not None:
        predicted = {"predicted": found.predicted, "target": found.target, **predicted}
    out = Path(words.out)
    document = config_to_json(
        found.config,
        bank.layer_names,
        [str(option) for option in bank.options],
        bank.denoiser,
        bank.options_hash,
        activations=layers_to_json(found.activations, bank.layer_names, texts),
        predicted=predicted,
        command=command_line(),
    )
    save_config(out / "best.json", document)
    rows = [("best.json", found.costs, found.predicted)]
    told: dict[str, Any] = {"best": f"{words.out}/best.json", **predicted}
    file = out / "schedule.json"
    file.unlink(missing_ok=True)  # of an earlier search
    if found.scheduled is not None:
        own = found.scheduled
        save_schedule(
            file,
            own.schedule,
            bank.layer_names,
            texts,
            bank.denoiser,
            mean_over_steps=own.costs,
            command=command_line(),
        )
        total = None if found.predicted is None else found.predicted + own.gain
        rows.append(("best.json@schedule.json", {"bits": found.costs["bits"], **own.costs}, total))
        told["schedule"] = {"file": str(file), "predicted": total, "mean over steps": own.costs}
    if words.json:
        print_json(told)
        return
    console.print(_table(words.out, rows, found.target))
    if found.scheduled is not None:
        console.print(f"measure it as {words.out}/best.json@{file}")


def _table(out: str, rows: list[tuple[str, dict[str, float], float | None]], target: str) -> Table:
    headings = ("file", "bits", "activation bits", "bit-operations", *(["predicted"] if target else []))
    caption = f"predicted {target}" if target else None
    table = number_table(f"{out}: activations simulated", headings, caption)
    for name, costs, value in rows:
        cells = [
            f"{costs['bits']:.3f}",
            f"{costs['activation bits']:.3f}",
            f"{costs['bit-operations']:.4g}",
        ]
        table.add_row(name, *cells, *([] if value is None else [f"{value:.4g}"]))
    return table


def _facts(best: Path) -> dict[str, Any]:
    document = load_document(best)
    return {
        "denoiser": document["denoiser"],
        "kind": "activations" if document.get("activations") else "weights",
    }
