"""Values that begin with a minus."""

import pytest

from qsd.cli.values import with_values


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["explain", "--label", "-log(fid)"], ["explain", "--label=-log(fid)"]),
        (["fit", "--data.target", "-fid"], ["fit", "--data.target=-fid"]),
        (["fit", "--data.target=x", "-c"], ["fit", "--data.target=x", "-c"]),
        (["fit", "--seed", "-1"], ["fit", "--seed", "-1"]),
        (["explain", "-h"], ["explain", "-h"]),
        (["study", "key", "--json"], ["study", "key", "--json"]),
    ],
)
def test_expressions_are_values(words: list[str], joined: list[str]) -> None:
    assert with_values(words) == joined
