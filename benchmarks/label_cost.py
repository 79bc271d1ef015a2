"""What an answer costs: images drawn in all, probes included, until a ranker ranks a store's test configs.

    python benchmarks/label_cost.py
    python benchmarks/label_cost.py datasets/digits-dit.h5 --seeds 2
    python benchmarks/label_cost.py runs/digits-dit.h5 --draw checkpoints/digits-dit --config label_dit.yaml
        --bank runs/bank.safetensors --probe-images 2 4 8
    python benchmarks/label_cost.py runs/digits-dit.h5 --draw checkpoints/digits-dit --config label_dit.yaml
        --probe-images 8 --searched 3.5

For each store and plan labels are added until the test Spearman of the target reaches 0.95 and 0.97; the mean
over seeds of the images drawn by then is printed, beside that of the first plan. Labels are those of the
store, so nothing is drawn for them. Plans:

    probed      the store's probes, labels along the random stream: what `qsd probe` and `qsd label` do
    active      the same probes, labels chosen by `qsd label --strategy active` among those of the store
    unprobed    no probes: a sum over layers
    probed N    N images an option in place of the store's number; drawn anew with --draw

With --searched BITS labels are added until the config that a search finds within so many average bits is as
good as the one that it finds with all labels of the store: its FID, measured on 500 images under each of four
fresh noise seeds, is within the 90 % interval of the other's, or lower. These images are not counted.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from searched_cost import Searches, fitted
from stores import shipped_stores

from qsd.bank import Bank, build_bank
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels.active import best_batch
from qsd.labels.probing import Cells, Prober, summarized
from qsd.ranker.posteriors import TARGET
from qsd.ranker.predictors import ProcessPredictor
from qsd.ranker.store_data import StoreData, prepare
from qsd.ranker.target import Target
from qsd.store import Responses, Store
from qsd.support.documents import write_json
from qsd.support.paths import find
from qsd.support.yaml_files import read_yaml

DEFAULT_TARGET = "-log(fid) + 0.2*psnr"
GOALS = (0.95, 0.97)
_LADDER = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
_BATCH = 8
_NEVER = float("nan")


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to spend images.

    Attributes:
        name: of the plan.
        responses: what options do alone; None: unknown.
        probe_images: drawn to know it.
        active: whether labels are chosen.
    """

    name: str
    responses: Responses | None
    probe_images: int
    active: bool = False


def main() -> int:
    """Prints a table per goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="*", help="by default all in datasets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draw", help="pipeline of the one store, to probe anew with fewer images")
    parser.add_argument("--bank", help="its bank; quantized anew by default")
    parser.add_argument("--config", help="YAML of the store's evaluation, such as label_dit.yaml")
    parser.add_argument("--probe-images", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--searched", type=float, metavar="BITS", help="count until a search finds its best")
    parser.add_argument("--target", default=DEFAULT_TARGET)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    paths = [find(name) for name in arguments.stores] or shipped_stores()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for path in paths:
        store = Store.open(path)
        plans = list(plans_of(store))
        if arguments.draw:
            evaluation = EvaluationSettings(**read_yaml(find(arguments.config))["evaluation"])
            pipe = load_pipeline(arguments.draw)
            bank = (
                Bank.load(arguments.bank)
                if arguments.bank
                else build_bank(denoiser_of(pipe), store.header.options)
            )
            if arguments.probe_images:
                plans += redrawn(store, pipe, bank, evaluation, sorted(arguments.probe_images))
            if arguments.searched:
                searches = Searches(pipe, bank, evaluation, arguments.target, arguments.searched)
                measure_searched(store, plans, searches, arguments.seeds, arguments.target)
                continue
        results[path.stem] = measure(store, plans, arguments.seeds, arguments.target)
    for goal in GOALS if results else ():
        print(f"\nimages to a test Spearman of {goal}, mean of {arguments.seeds} seeds")
        for name, rows in results.items():
            first = next(iter(rows.values()))[str(goal)]
            images = {plan: row[str(goal)] for plan, row in rows.items()}
            cells = [f"{plan} {count:,.0f} ({count / first:.2f})" for plan, count in images.items()]
            print(f"{name:<22}" + "  ".join(cells))
    if arguments.out:
        known = {
            name: {
                plan: {g: None if np.isnan(n) else n for g, n in row.items()} for plan, row in rows.items()
            }
            for name, rows in results.items()
        }
        write_json(arguments.out, {"target": arguments.target, "images": known}, hashed=False)
    return 0


def plans_of(store: Store) -> Iterator[Plan]:
    """The plans that need no drawing."""
    responses = store.header.responses
    if responses is not None:
        cost = responses.num_images * (1 + int(store.header.available.sum()))
        yield Plan("probed", responses, cost)
        yield Plan("active", responses, cost, active=True)
    yield Plan("unprobed", None, 0)


def redrawn(
    store: Store, pipe: Any, bank: Bank, evaluation: EvaluationSettings, counts: Sequence[int]
) -> Iterator[Plan]:
    """Probes with the largest count of images, and what the first few of these would have told."""
    most = counts[-1]
    few = dataclasses.replace(evaluation, num_images=most)
    prober = Prober(pipe, bank, few)
    columns = tuple(range(len(bank.options) + len(bank.activation_options) - 1))
    rows: dict[str, list[np.ndarray]] = {}
    for number in range(len(bank.layers)):
        print(f"\rprobing layer {number + 1} of {len(bank.layers)}", end="", file=sys.stderr)
        _, changes = next(iter(prober.run([Cells(number, columns)])))
        for name, values in changes.items():
            rows.setdefault(name, []).append(values.reshape(len(columns), most, -1))
    print(file=sys.stderr)
    for count in counts:
        spaces = {name: np.stack(values)[:, :, :count] for name, values in rows.items()}
        flat = {name: values.reshape(*values.shape[:2], -1) for name, values in spaces.items()}
        responses = summarized(Responses(flat, count, evaluation.noise_seed, sketched=True))
        cost = count * (1 + int(store.header.available.sum()))
        yield Plan(f"probed {count}", responses, cost)


def measure(store: Store, plans: Sequence[Plan], seeds: int, target: str) -> dict[str, dict[str, float]]:
    """Plan -> goal -> images drawn, mean over seeds; NaN where all labels do not reach it."""
    data = prepare(store, Target(target))
    test, known = data.test_rows().numpy(), data.known_rows().numpy()
    images = int(store.records.num_images.max())
    found: dict[str, dict[str, float]] = {}
    for plan in plans:
        some = _seen_by(data, plan)
        reached = [_reached(some, plan, known, test, seed) for seed in range(seeds)]
        found[plan.name] = {
            str(goal): plan.probe_images + images * (1 + float(np.mean([labels[goal] for labels in reached])))
            for goal in GOALS
        }
        print(f"{store.path.stem:<22}{plan.name:<10}{found[plan.name]}", file=sys.stderr)
    return found


def measure_searched(
    store: Store, plans: Sequence[Plan], searches: Searches, seeds: int, target: str
) -> None:
    """Prints, for every plan whose probes are known, the images until a search finds its best."""
    data = prepare(store, Target(target))
    known = data.known_rows().numpy()
    images = int(store.records.num_images.max())
    counts = [*(step for step in _LADDER if step < len(known)), len(known)]
    for plan in plans:
        if plan.responses is None or plan.active:
            continue
        some = _seen_by(data, plan)
        goal = searches.goal(some, known)
        print(
            f"{store.path.stem} {plan.name}: all {len(known)} labels, FID {goal.fid:.3f} ± {goal.reach:.3f}"
        )
        spent = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(known)
            labels, fid = searches.labels_until(goal, some, order, counts)
            spent.append(plan.probe_images + images * (1 + labels))
            print(f"  order {seed}: {labels:.0f} labels, {spent[-1]:,.0f} images, FID {fid:.3f}", flush=True)
        print(f"  mean: {np.mean(spent):,.0f} images, {plan.probe_images:,} of them probes", flush=True)


def _seen_by(data: StoreData, plan: Plan) -> StoreData:
    """What a plan knows before any label."""
    header = dataclasses.replace(data.header, responses=plan.responses)
    return dataclasses.replace(data, header=header, predicted_labels=())


def _reached(
    data: StoreData, plan: Plan, known: np.ndarray, test: np.ndarray, seed: int
) -> dict[float, float]:
    """Labels at which each goal was reached."""
    order = np.random.default_rng(seed).permutation(known)
    taken, reached = order[: _LADDER[0]], dict.fromkeys(GOALS, _NEVER)
    truth = data.targets[test, 0].numpy()
    configs = data.configs.numpy().astype(np.int8)
    for count in (*(step for step in _LADDER if step < len(known)), len(known)):
        while len(taken) < count:
            more = min(_BATCH, count - len(taken))
            left = np.setdiff1d(order, taken, assume_unique=True)
            predictor: Any = _fitted(data, taken) if plan.active else None
            if isinstance(predictor, ProcessPredictor):
                taken = np.append(taken, left[best_batch(predictor, configs[left], more)])
            else:
                taken = order[: len(taken) + more]
        ranks = spearmanr(_fitted(data, taken).posterior(configs[test]).mean, truth).statistic
        for goal in GOALS:
            if ranks >= goal and np.isnan(reached[goal]):
                reached[goal] = count
        if not any(map(np.isnan, reached.values())):
            break
    return reached


def _fitted(data: StoreData, rows: np.ndarray) -> Any:
    return fitted(data, rows)[TARGET]


if __name__ == "__main__":
    sys.exit(main())
