"""What part of the road each denoiser class of the installed diffusers goes, in tiny configs.

Every case of `coverage_cases.py` is traced and banked with its own arguments by the default option table, one
random config is applied, exported and opened again, and the outputs of the applied and of the opened denoiser
are compared bit for bit. Results are kept in a file, so that a run can be cut into pieces::

    python benchmarks/pipelines.py --seconds 50     # as often as it takes
    python benchmarks/pipelines.py --out docs/coverage.md
"""

import dataclasses
import sys
import time
import traceback
from pathlib import Path

import diffusers
import torch
from cases import run_cases
from coverage_cases import CASES, Case
from torch import nn
from torch.utils._pytree import tree_leaves

import qsd
from qsd.bank import Applier
from qsd.configs.sampling import sample_configs
from qsd.denoisers import holdings
from qsd.support.errors import QsdError

sys.path.pop(0)  # numba would take this file for the package of its name

STEPS = ("trace and bank", "apply", "export", "reload, equal bit for bit")
ROWS = Path(__file__).parent / "results" / "coverage.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """How far a case came.

    Attributes:
        name: class and variant.
        layers: weight layers.
        share: share of the parameters that they hold.
        unreached: layers that the traced call never reaches.
        other_roles: share of the layers without a role.
        step: the last of :data:`STEPS` that it reached, "" for none.
        reason: what stopped it.
        seconds: for the whole road.
    """

    name: str
    layers: int
    share: float
    unreached: int
    other_roles: float
    step: str
    reason: str
    seconds: float


def run(case: Case, folder: Path) -> Row:
    """Goes the road with one case."""
    start, step, reason = time.perf_counter(), "", ""
    layers, share, unreached, other = 0, 0.0, 0, 0.0
    try:
        denoiser = case.build()
        bank = qsd.build_bank(denoiser, inputs=case.inputs())
        held = holdings(denoiser, bank.layers)
        layers, share = len(bank.layers), held.share
        unreached = len(held.left_out.get("layer that the traced call never reaches", {}))
        other = sum(layer.role == "other" for layer in bank.layers) / layers
        step = STEPS[0]
        config = sample_configs(bank.options, layers, 1, seed=0, available=bank.available)[0]
        with Applier(bank, denoiser) as applier:
            applier.apply(config)
            applied = outputs(denoiser, case)
        step = STEPS[1]
        qsd.export(denoiser, bank, config, folder)
        step = STEPS[2]
        reopened = outputs(qsd.load_export(folder), case)
        same = len(applied) == len(reopened) and all(map(torch.equal, applied, reopened))
        step, reason = (STEPS[3], "") if same else (step, "the reopened denoiser computes something else")
    except QsdError as error:
        reason = str(error)
    except Exception as error:
        reason = (
            f"traceback: {type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1]})"
        )
    return Row(case.name, layers, share, unreached, other, step, reason, time.perf_counter() - start)


@torch.no_grad()
def outputs(denoiser: nn.Module, case: Case) -> list[torch.Tensor]:
    """The tensors that the forward returns."""
    torch.manual_seed(0)
    return [leaf for leaf in tree_leaves(denoiser(**case.inputs())) if isinstance(leaf, torch.Tensor)]


def uncovered() -> list[str]:
    """Denoiser classes that diffusers exports and no case builds."""
    words = (
        "Transformer",
        "UNet",
        "UVit",
        "DiTModel",
        "PriorTransformer",
        "T5FilmDecoder",
        "UniDiffuserModel",
    )
    known = {case.cls for case in CASES}
    names = [name for name in dir(diffusers) if any(word in name for word in words)]
    classes = [name for name in names if isinstance(getattr(diffusers, name), type)]
    models = [name for name in classes if issubclass(getattr(diffusers, name), diffusers.ModelMixin)]
    return [name for name in models if name not in known]


def table(rows: list[Row]) -> str:
    """The page that the docs show."""
    whole = [row for row in rows if row.step == STEPS[-1]]
    missing = uncovered()
    lines = [
        "# Which denoisers qsd covers",
        "",
        f"Tiny denoisers of {len({case.cls for case in CASES})} classes of diffusers {diffusers.__version__} "
        f"in {len(rows)} cases, traced with arguments of its forward, banked by the default option table, a "
        "random config applied, exported and opened again by `qsd.build_bank`, `qsd.export` and "
        "`qsd.load_export` alone. "
        f"{len(whole)} of {len(rows)} go the whole road: the opened denoiser computes the same bits as the "
        "applied one.",
        "",
        "Share: of the parameters, in weight layers. Not reached: layers that the traced call does not run; "
        "they stay at full precision and are named by `qsd bank`, `graph` and `export`. Other: share of the "
        "layers whose role the vocabulary does not know.",
        "",
        f"No case builds: {', '.join(missing) or 'none is missing'}.",
        "",
        "| class | layers | share | not reached | other | step reached |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        step = row.step or "none"
        reason = f": {row.reason.splitlines()[0]}" if row.reason else ""
        lines.append(
            f"| `{row.name}` | {row.layers} | {row.share:.1%} | {row.unreached or ''} | "
            f"{f'{row.other_roles:.0%}' if row.other_roles else ''} | {step}{reason} |"
        )
    return "\n".join(
        [*lines, "", "`python benchmarks/pipelines.py --again --out docs/coverage.md` makes this page.", ""]
    )


def main() -> None:
    rows, out = run_cases(
        *(__doc__ or "", {case.name: case for case in CASES}),
        *(lambda case, folder: run(case, folder / "export"), Row, ROWS),
        lambda row: (
            f"{row.name:<45}{row.layers:>4} layers {row.share:6.1%} other {row.other_roles:4.0%} "
            f"{row.seconds:5.1f} s  {row.step or 'none'}  {row.reason}"
        ),
    )
    print(f"{sum(row.step == STEPS[-1] for row in rows)} of {len(rows)} go the whole road")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        page = out.read_text(encoding="utf-8") if out.is_file() else ""
        _, heading, drawn = page.partition("## ")  # the part of drawing.py
        out.write_text(table(rows) + (f"\n{heading}{drawn}" if drawn else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
