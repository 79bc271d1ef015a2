"""What a folder of ``qsd compress``, ``qsd demo`` or ``qsd search`` holds that a report can show."""

import dataclasses
from pathlib import Path
from typing import Any

from qsd.ranker.store_data import learnable
from qsd.search import Front
from qsd.store import Store
from qsd.support.documents import parse_json, read_bounded
from qsd.support.errors import QsdError


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The parts of a run.

    Attributes:
        path: the folder.
        fronts: at least one, by file name, from small budgets to large.
        summary: what the run says of itself; empty for a search.
        store: labeled or probed, if there is one.
        ranker: its folder, if there is one.
        grid: drawn images, if there are any.
    """

    path: Path
    fronts: dict[str, Front]
    summary: dict[str, Any]
    store: Store | None
    ranker: Path | None
    grid: Path | None

    @classmethod
    def open(cls, path: str | Path, store: str | Path | None = None) -> "RunFolder":
        """Reads a folder.

        Args:
            path: the folder.
            store: of a search, which keeps none in its folder.

        Raises:
            QsdError: there is no front in it, or a part is damaged.
        """
        path = Path(path)
        files = [*sorted(path.glob("front*.json")), *sorted((path / "work").glob("front*.json"))]
        if not files:
            raise QsdError(
                f"{path}: holds no front.json; give a folder of `qsd compress`, `qsd demo` or `qsd search`"
            )
        fronts = {file.name: Front.load(file) for file in files}
        fronts = dict(sorted(fronts.items(), key=lambda item: int(item[1].num_bytes.max())))
        summary_file = path / "summary.json"
        summary = (
            parse_json(read_bounded(summary_file), summary_file, "run again") if summary_file.exists() else {}
        )
        if not isinstance(summary, dict):
            raise QsdError(f"{summary_file}: is no summary; run again")
        places = [Path(store)] if store else [path / "store.h5", path / "work" / "store.h5"]
        rankers = [path / "ranker", path / "work" / "ranker"]
        grid = path / "grid.png"
        return cls(
            path,
            fronts,
            summary,
            next((learnable(Store.open(place)) for place in places if store or place.exists()), None),
            next((place for place in rankers if place.is_dir()), None),
            grid if grid.exists() else None,
        )

    @property
    def front(self) -> Front:
        """The one of the largest budget."""
        return list(self.fronts.values())[-1]

    def measured(self) -> list[dict[str, Any]]:
        """Rows of the summary: what was measured, with sizes."""
        rows: list[dict[str, Any]] = []
        for key in ("rows", "full_precision", "uniform", "random_best", "searched"):
            found = self.summary.get(key, [])
            rows += [found] if isinstance(found, dict) else found
        return rows
