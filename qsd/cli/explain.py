"""``qsd explain``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from rich.table import Table
from rich.text import Text

from qsd.bank.sizes import uniform_configs
from qsd.cli.console import console, print_json, run_function
from qsd.configs.document import load_config
from qsd.explain import Explanation
from qsd.explain import explain as explain_config
from qsd.explain.explanation import default_config, pair_rows
from qsd.explain.files import to_json, write
from qsd.explain.plots import plot_all, plot_calibration
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.ranker.store_data import learnable, own_seed
from qsd.ranker.target import Target
from qsd.search import Front
from qsd.store import Records, Store
from qsd.support.errors import QsdError
from qsd.support.paths import find

_NAME = 32  # columns for a layer's name


def explain(
    store: str,
    out: str,
    ranker: str | None = None,
    around: str | None = None,
    label: str | None = None,
    front: str | None = None,
    plots: bool = True,
    top: PositiveInt = 12,
    json: bool = False,
) -> None:
    """Says what each layer costs, alone and around a config, and which layers' errors add up or cancel.

    Writes `explanation.json`, `layers.csv` (a row per layer and option) and `plots`. Costs are by how much
    the predicted score falls when one layer goes from full precision to an option, while all others are at
    full precision (alone) or have the config's options (around). Without a ranker the score is minus the
    mean square change of the images, from a probed store; or ridge regression on the labels of one that is
    not.

    Args:
        store: probed or labeled store of any denoiser.
        out: folder to write to.
        ranker: folder of a ranker trained on the store.
        around: config file, or an option such as uaq-4 for the uniform config; without it the uniform config
            of middling size.
        label: explain this label instead of the ranker's target; without a ranker also an expression over
            labels such as "-log(fid)", larger being better.
        front: front.json of a search, whose members' options are drawn by role; without it the explained
            config's are.
        plots: draw boxes by block and role, options by role, the heat map, interactions and, with a ranker
            and labels, predicted against measured test records, as PNG and SVG.
        top: rows per table.
        json: print the explanation as JSON.
    """
    opened = learnable(Store.open(find(store)))
    config, name = _config(opened, around)
    loaded = load_ranker(ranker, opened.header.denoiser) if ranker else None
    configs = _members(opened, front) if front else config[None]
    found = explain_config(opened, config, ranker=loaded, label=label, around=name)
    write(found, Path(out))
    if plots:
        plot_all(found, Path(out) / "plots", configs)
        if loaded is not None and (rows := opened.records.of_split("test")):
            _calibration(opened, loaded, rows, Path(out) / "plots" / "calibration")
    if json:
        print_json(to_json(found))
        return
    console.print(f"score: {found.score.name}, by {found.score.source}")
    console.print(f"costs are relative to {found.reference}; around {name}", markup=False)
    for table in (_layers(found, top), _groups(found), _pairs(found, max(1, top // 3))):
        if table is not None:
            console.print()
            console.print(table)
    console.print(f"{out}: explanation.json, layers.csv{', plots' if plots else ''}", markup=False)


def _config(store: Store, around: str | None) -> tuple[np.ndarray, str]:
    if around is None:
        return default_config(store)
    header = store.header
    options = [str(option) for option in header.options]
    if around in options and not Path(around).exists():
        return uniform_configs(header.num_bytes, header.num_weights)[options.index(around)], around
    if not Path(around).exists():
        raise QsdError(f"{around}: no such config file, and no option of {', '.join(options)}")
    config = load_config(around, [layer.name for layer in header.layers], options, header.denoiser)
    lacking = np.flatnonzero(~header.available[np.arange(len(config)), config])
    if len(lacking):
        raise QsdError(
            f"{around}: layer '{header.layers[lacking[0]].name}' cannot take {options[config[lacking[0]]]}; "
            "use a config of the store's denoiser"
        )
    return config, around


def _members(store: Store, path: str) -> np.ndarray:
    header = store.header
    front = Front.load(path, header.denoiser)
    names = [layer.name for layer in header.layers]
    if list(front.meta.layer_names) != names or front.meta.option_names != tuple(map(str, header.options)):
        raise QsdError(f"{path}: has other layers or options than {store.path}; use the front of its bank")
    return front.configs


def _calibration(store: Store, ranker: Ranker, rows: Records, path: Path) -> None:
    """Draws the ranker's target, of test records that have it."""
    target = Target(ranker.target)
    if not set(target.names) <= {*store.header.label_names, "avg_bits", "bytes"}:
        return
    measured = target({name: store.values(name) for name in target.names})[store.records.split == 2]
    known = np.isfinite(measured)
    if known.any():
        posterior = ranker.posterior(rows.config[known], rows.activation[known])
        other = rows.noise_seed[known] != own_seed(store)
        plot_calibration(posterior, measured[known], ranker.target, path, other)


def _short(name: str, width: int = _NAME) -> Text:
    """Names differ at their end, so that is kept."""
    return Text(name if len(name) <= width else "…" + name[1 - width :])


def _plain(title: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.title_justify, table.min_width = "left", len(title)
    return table


def _layers(found: Explanation, top: int) -> Table:
    table = _plain(f"costliest layers of {len(found.config)}")
    table.add_column("layer", no_wrap=True)
    table.add_column("role", no_wrap=True, max_width=14)
    table.add_column("option", no_wrap=True, max_width=16)
    for heading in ("alone", "around"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index in np.argsort(-found.cost, kind="stable")[:top]:
        layer, option = found.header.layers[index], int(found.config[index])
        table.add_row(
            *(_short(layer.name), _short(layer.role, 14), _short(str(found.header.options[option]), 16)),
            *(f"{found.cost_alone[index, option]:.3g}", f"{found.cost[index]:.3g}"),
        )
    return table


def _groups(found: Explanation) -> Table:
    table = _plain("roles, blocks and stages: sum of costs around, Shapley values")
    table.add_column("group", no_wrap=True, max_width=34)
    for heading in ("layers", "weights", "around", "Shapley", "±"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, groups in found.groups.items():
        if kind == "stage" and len(groups) == 1:
            continue
        for group in groups:
            error = f"{group.error:.1g}" if group.error else ""
            table.add_row(
                *(_short(f"{kind} {group.name}", 34), str(group.layers), f"{group.weights:,}"),
                *(f"{group.cost:.3g}", f"{group.shapley:.3g}", error),
            )
    return table


def _pairs(found: Explanation, top: int) -> Table | None:
    if found.interactions is None:
        return None
    table = _plain("pairs whose changes add up (+) or cancel (-) most, mean square change")
    table.add_column("one", no_wrap=True)
    table.add_column("other", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    adding, cancelling = found.pairs(top)
    for row in pair_rows(found, [*adding, *cancelling]):
        table.add_row(_short(row["one"]), _short(row["other"]), f"{row['change']:+.3g}")
    return table


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(explain, words)
