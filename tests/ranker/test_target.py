import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic_store import synthetic_store

from qsd.ranker.target import Target
from qsd.store import Records, Store
from qsd.support.errors import QsdError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return synthetic_store(tmp_path_factory.mktemp("store") / "a.h5", 40, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-fid - 150*avg_bits", lambda v: -v["fid"] - 150 * v["avg_bits"]),
        ("-log(fid)", lambda v: -np.log(v["fid"])),
        ("clip - 0.1*fid", lambda v: v["clip"] - 0.1 * v["fid"]),
        (
            "-(fid / bytes) ** 2 + max(clip, 3)",
            lambda v: -((v["fid"] / v["bytes"]) ** 2) + np.maximum(v["clip"], 3),
        ),
        (
            "+sqrt(fid) - exp(-clip) + abs(clip) - min(fid, 1e2)",
            lambda v: np.sqrt(v["fid"]) - np.exp(-v["clip"]) + np.abs(v["clip"]) - np.minimum(v["fid"], 1e2),
        ),
    ],
)
def test_agrees_with_numpy(store, text, expected):
    values = {name: store.values(name) for name in ("fid", "clip", "avg_bits", "bytes")}
    evaluated = Target(text).evaluate(store)
    np.testing.assert_allclose(evaluated.values, expected(values))
    assert evaluated.valid.all()
    assert not evaluated.message


@given(
    st.recursive(
        st.sampled_from(["a", "b", "2", "0.5"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            inner.map(lambda text: f"-{text}"),
            inner.map(lambda text: f"abs({text})"),
        ),
        max_leaves=12,
    )
)
def test_reads_arithmetic_like_python(text):
    if "a" not in text.replace("abs", "") and "b" not in text.replace("abs", ""):
        return
    values = {"a": np.array([1.5, -2.0]), "b": np.array([0.25, 4.0])}
    with np.errstate(all="ignore"):
        try:
            expected = eval(text, {"abs": np.abs}, values)  # the oracle of this test only
        except ZeroDivisionError:
            return
    np.testing.assert_allclose(Target(text)(values), np.broadcast_to(expected, 2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fid +",
        "__import__('os')",
        "fid.real",
        "fid[0]",
        "lambda: fid",
        "fid if 1 else 2",
        "log(fid, 2)",
        "pow(fid, 2)",
        "'fid'",
        "True * fid",
        "fid < 3",
        "fid; fid",
        "3 + 4",
        "log(fid, base=2)",
        "[fid]",
        "fid @ fid",
    ],
)
def test_refuses_everything_else(text):
    with pytest.raises(QsdError, match="target"):
        Target(text)


def test_unknown_name_lists_what_there_is(store):
    with pytest.raises(QsdError, match=r"no 'kid'; it has fid, clip, avg_bits, bytes"):
        Target("-kid").evaluate(store)


def test_missing_labels_are_counted(store):
    labels = store.records.labels.copy()
    labels[:3, 0] = np.nan
    columns = {**vars(store.records), "labels": labels}
    evaluated = Target("-fid").evaluate(Store(store.path, store.header, Records(**columns)))
    assert evaluated.valid.sum() == 37
    assert "3 of 40 records skipped" in evaluated.message


def test_constant_target(store):
    with pytest.raises(QsdError, match="same for all records"):
        Target("0*fid + 1").evaluate(store)


def test_never_finite(store):
    with pytest.raises(QsdError, match="no record has a finite"):
        Target("log(-fid)").evaluate(store)


def test_empty_store(store):
    empty = Store(store.path, store.header, Records.empty(len(store.header.layers), 2))
    with pytest.raises(QsdError, match="holds no records"):
        Target("-fid").evaluate(empty)
