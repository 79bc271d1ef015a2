"""Plots are drawn in both formats from any store, with what they must show."""

import re

import numpy as np
import pytest
from support.synthetic_store import synthetic_store

from qsd.cli import main
from qsd.explain import explain
from qsd.explain.explanation import default_config
from qsd.explain.plots import _decades, plot_calibration, plot_interactions
from qsd.search import Front, Posterior
from qsd.search.front import FrontMeta


@pytest.fixture
def probed(tmp_path):
    return synthetic_store(tmp_path / "probed.h5", num_records=30, num_blocks=2, probed=True)


def front_of(store, options=None):
    header = store.header
    meta = FrontMeta(
        layer_names=tuple(layer.name for layer in header.layers),
        option_names=options or tuple(map(str, header.options)),
        denoiser=header.denoiser,
    )
    two = np.array([0.0, 1.0])
    return Front(store.records.config[:2], two, two * 0, np.array([1, 2]), two + 3, meta)


def texts(path):
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8")))


def test_verb_draws(probed, tmp_path, capsys):
    front_of(probed).save(tmp_path / "front.json")
    words = ["explain", "--store", str(probed.path), "--out", str(tmp_path / "out")]
    assert main([*words, "--front", str(tmp_path / "front.json")]) == 0
    plots = tmp_path / "out" / "plots"
    names = ["box-blocks", "box-roles", "choices", "heat-map", "interactions-blocks", "interactions-roles"]
    assert sorted(path.name for path in plots.iterdir()) == [
        f"{n}.{k}" for n in names for k in ("png", "svg")
    ]
    assert {"ff.in", "time_embed"} <= texts(plots / "box-roles.svg")
    chosen = {str(probed.header.options[option]) for option in np.unique(probed.records.config[:2])}
    assert chosen == texts(plots / "choices.svg") & set(map(str, probed.header.options))
    capsys.readouterr()


def test_a_front_of_other_options_is_refused(probed, tmp_path, capsys):
    front_of(probed, tuple("abcdef")).save(tmp_path / "front.json")
    words = ["explain", "--store", str(probed.path), "--out", str(tmp_path / "out")]
    assert main([*words, "--front", str(tmp_path / "front.json")]) == 2
    assert "other layers or options" in capsys.readouterr().err


def test_interactions_need_a_probed_store(tmp_path):
    labeled = synthetic_store(tmp_path / "labeled.h5", num_records=30, num_blocks=1)
    found = explain(labeled, default_config(labeled)[0])
    with pytest.raises(ValueError, match="probed"):
        plot_interactions(found, tmp_path / "none")


def test_calibration_counts_what_intervals_hold(tmp_path):
    posterior = Posterior(np.zeros(4), np.ones(4))
    plot_calibration(posterior, np.array([0.0, 1.0, -1.0, 3.0]), "quality", tmp_path / "calibration")
    found = texts(tmp_path / "calibration.svg")
    assert {"in its 90 % interval (75%)", "outside (25%)", "measured quality"} <= found
    other = np.array([False, False, True, True])
    plot_calibration(posterior, np.array([0.0, 1.0, -1.0, 3.0]), "quality", tmp_path / "apart", other)
    assert {"in its 90 % interval (100%)", "other noise seeds (50% inside)"} <= texts(tmp_path / "apart.svg")


@pytest.mark.parametrize(
    ("low", "high", "linear"), [(-0.01, 0.08, 7e-3), (-0.09, 0.09, 0.04), (0, 3e-5, 1e-7), (0, 1e-12, 1e-12)]
)
def test_ticks_are_few_and_apart(low, high, linear):
    ticks = _decades(low, high, linear)
    assert 0.0 in ticks and 2 <= len(ticks) <= 7 and ticks == sorted(ticks)
    assert all(low <= tick <= high and (tick == 0 or abs(tick) >= 0.3 * linear) for tick in ticks)
