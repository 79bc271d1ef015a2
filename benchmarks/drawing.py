"""Labels and probes tiny pipelines of every kind that draws, by the public road.

Every pipeline of ``drawing_cases.py`` and its neighbours is saved and opened again, banked, labeled
(two random configs) and probed (three layers). A label counts where every config draws something else than
full precision. Results are kept in a file, so that a run can be cut into pieces. Some pipelines need ftfy
(``pip install ftfy``)::

    python benchmarks/drawing.py --seconds 50     # as often as it takes
    python benchmarks/drawing.py --out docs/coverage.md
"""

import dataclasses
import inspect
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from cases import run_cases
from diffusers import DiffusionPipeline
from drawing_case import Drawing
from drawing_cases import DRAWINGS
from drawing_further import FURTHER
from drawing_images import IMAGES
from drawing_left import LEFT_OUT
from drawing_moving import MOVING
from drawing_rare import RARE
from drawing_seeing import SEEING
from drawing_worlds import WORLDS
from PIL import Image
from safetensors.torch import save_file

import qsd
from qsd.denoisers.components import denoisers_of
from qsd.support.errors import QsdError, first_line

sys.path.pop(0)  # of the tests, which the cases are built of

CASES = (*DRAWINGS, *IMAGES, *MOVING, *FURTHER, *SEEING, *RARE, *WORLDS)
OPTIONS = ("uaq-4", "lloyd-3:f8")
CLASSES = ("1", "3")
PROBED, LIMIT = 3, 240
HEADING = "## Which pipelines are labeled and probed"
ROWS = Path(__file__).parent / "results" / "drawing.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """How far a pipeline came.

    Attributes:
        name: its class.
        kind: what it makes of what.
        denoisers: names of its components that were banked.
        layers: weight layers.
        psnr: the smallest of the labels in dB; 0 where it was not labeled.
        probed: layers that were probed.
        reason: what stopped it.
        seconds: for all.
    """

    name: str
    kind: str
    denoisers: str
    layers: int
    psnr: float
    probed: int
    reason: str
    seconds: float


def run(case: Drawing, folder: Path) -> Row:
    """Builds, labels and probes one pipeline."""
    start, reason = time.perf_counter(), ""
    denoisers, layers, psnr, probed = "", 0, 0.0, 0
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        pipe = case.build()
        if not case.in_memory:
            pipe.save_pretrained(folder / "pipeline")
            pipe = qsd.load_pipeline(folder / "pipeline")
        pipe.set_progress_bar_config(disable=True)
        denoisers = case.denoiser or ", ".join(denoisers_of(pipe))
        settings = settings_of(case, pipe, folder)
        needed = settings if case.recorded or case.rows else None
        bank = qsd.build_bank(pipe, options=OPTIONS, evaluator=needed, denoiser=case.denoiser)
        layers = len(bank.layers)
        store = qsd.label(pipe, bank, folder / "store.h5", num_configs=2, evaluator=settings)
        values = store.values("psnr")
        if (values == 100).any():
            raise QsdError("a config draws what full precision draws")
        psnr = float(values.min())
        share = min(1.0, PROBED / layers)
        store = qsd.probe(
            pipe, bank, store.path, evaluator=settings, num_images=settings.num_images, budget=share
        )
        probed = layers - len(store.header.responses.missing())
    except QsdError as error:
        reason = f"refused: {error}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"traceback: {type(error).__name__}: {first_line(error)} ({Path(frame.filename).name})"
    signal.alarm(0)
    return Row(case.cls, case.kind, denoisers, layers, psnr, probed, reason, time.perf_counter() - start)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {LIMIT} s")


def tensors_of(case: Drawing, count: int) -> dict[str, torch.Tensor]:
    """What the call of a case takes as tensors, a row for each image."""
    values = torch.Generator().manual_seed(0)
    return {name: torch.rand(count, *shape, generator=values) for name, shape in case.rows.items()}


def sizes_of(case: Drawing, pipe: Any) -> dict[str, int]:
    """Height and width, of what has a choice of them."""
    accepted = inspect.signature(pipe.__call__).parameters
    return {name: case.side for name in ("height", "width") if name in accepted}


def settings_of(case: Drawing, pipe: Any, folder: Path) -> qsd.EvaluationSettings:
    """Two images in two steps, as small as they get, and what the case asks for."""
    (folder / "prompts").write_text("\n".join(CLASSES if case.kind == "class" else case.prompts))
    for name in ("pictures", "masked"):
        pictures(folder / name, case.side, masks=name == "masked")
    smallest = {"prompts": "prompts", "num_images": 2, "steps": 2, "guidance": 1.0, "batch_size": 2}
    chosen: dict[str, Any] = smallest | sizes_of(case, pipe) | dict(case.settings)
    for name, tensor in tensors_of(case, 2).items():
        save_file({name: tensor}, folder / f"{name}.safetensors")
        chosen["call"] = chosen.get("call", {}) | {name: str(folder / f"{name}.safetensors")}
    for name in ("prompts", "images"):
        if chosen.get(name):
            chosen[name] = str(folder / chosen[name])
    return qsd.EvaluationSettings(**chosen)


def pictures(folder: Path, side: int, *, masks: bool) -> None:
    """Two pictures of noise; the upper halves are masked."""
    folder.mkdir()
    values = np.random.default_rng(0)
    for index in range(2):
        pixels = values.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        if masks:
            mask = Image.new("L", (side, side), 0)
            mask.paste(255, (0, 0, side, side // 2))
            mask.save(folder / f"{index}_mask.png")


def uncovered() -> list[str]:
    """Pipelines that diffusers exports and no case builds."""
    found = [getattr(diffusers, name, None) for name in dir(diffusers) if name.endswith("Pipeline")]
    classes = [cls for cls in found if isinstance(cls, type) and issubclass(cls, DiffusionPipeline)]
    return [cls.__name__ for cls in classes if cls.__name__ not in {case.cls for case in CASES}]


def section(rows: list[Row]) -> str:
    """The part of the page that the docs show."""
    whole = [row for row in rows if row.psnr and row.probed and not row.reason]
    missing = [name for name in uncovered() if name != "DiffusionPipeline"]
    lines = [
        HEADING,
        "",
        f"Tiny pipelines of {len(rows)} classes of diffusers {diffusers.__version__}, saved and opened "
        "again, are banked, labeled (two random configs) and probed (three layers) by `qsd.build_bank`, "
        f"`qsd.label` and `qsd.probe` alone. {len(whole)} of {len(rows)} are.",
        "",
        "PSNR: the smaller of the two labels, which shows that what was labeled is what the config draws; "
        "weights are random, so its size says nothing. "
        f"{', '.join(f'`{case.cls}`' for case in CASES if case.in_memory)} are taken as they are built, "
        "not opened from the folder that diffusers saves, some of them because their processors have a part "
        "for videos that needs torchvision. Some pipelines clean prompts by ftfy, which was installed for "
        "this table.",
        "",
        "| pipeline | makes | denoisers | layers | PSNR | layers probed |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        state = f" {row.psnr:.1f} | {row.probed} |" if row in whole else f"  | {row.reason} |"
        lines.append(f"| `{row.name}` | {row.kind} | {row.denoisers} | {row.layers} |{state}")
    lines += [
        "",
        f"No case builds the other {len(missing)} that diffusers exports:",
        "",
        *_reasons(missing),
        "",
        "`python benchmarks/drawing.py --again --out docs/coverage.md` makes this table.",
        "",
    ]
    return "\n".join(lines)


def _reasons(names: list[str]) -> list[str]:
    """A line for each reason, with the pipelines that have it.

    Raises:
        LookupError: a pipeline has none, or one has both a case and a reason.
    """
    if differing := set(names) ^ LEFT_OUT.keys():
        raise LookupError(f"either a case or a reason: {', '.join(sorted(differing))}")
    by_reason: dict[str, list[str]] = {}
    for name, reason in LEFT_OUT.items():
        by_reason.setdefault(reason, []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {reason}." for reason, names in by_reason.items()]


def main() -> None:
    rows, out = run_cases(
        *(__doc__ or "", {case.cls: case for case in CASES}, run, Row, ROWS),
        lambda row: (
            f"{row.name:<42}{row.kind:<18}{row.layers:>4} layers  psnr {row.psnr:5.1f}  probed {row.probed} "
            f"{row.seconds:5.1f} s  {row.reason}"
        ),
        is_done=lambda row: not row.reason,
    )
    print(f"{sum(not row.reason for row in rows)} of {len(rows)} are labeled and probed")
    if out:
        page = out.read_text(encoding="utf-8") if out.is_file() else ""
        out.write_text(page.partition(HEADING)[0].rstrip("\n") + "\n\n" + section(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
