"""Which sampling steps bear rounded activations on which miniature: a table and a picture.

    python benchmarks/steps.py [--on digits-dit ...] [--images 32] [--out docs/images/steps.png]

The sampling steps of every miniature are divided into four groups; the inputs of all layers are rounded to 8,
6 and 4 bits in one group at a time, weights at full precision (`qsd probe --steps-groups 4`). Prints the
change of the final latents per step, 4 bits, first over last half of the steps.
"""

import argparse
import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from measured import markdown_table

from qsd.api import build_bank
from qsd.denoisers.pipeline import load_pipeline
from qsd.labels.steps import StepProbe, probe_steps
from qsd.zoo.registry import LABELING, labeling_settings

GROUPS, COLUMNS = 4, 5


def probed(name: str, images: int) -> StepProbe:
    """The steps of one miniature."""
    pipe, settings = load_pipeline(f"checkpoints/{name}"), labeling_settings(name)
    few = dataclasses.replace(
        settings, num_images=images, reference=None, features=None, clip=None, batch_size=images
    )
    bank = build_bank(pipe, ["int8"], activations=["16", "8", "6", "4"])
    return probe_steps(pipe, bank, few, GROUPS)


def draw(found: dict[str, StepProbe], path: Path) -> None:
    """A panel a miniature, a line an option, on one logarithmic axis."""
    rows = -(-len(found) // COLUMNS)
    figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
    for panel in panels.flat[len(found) :]:
        panel.set_visible(False)
    for panel, (name, probe) in zip(panels.flat, found.items(), strict=False):
        colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(probe.options)))
        for option, changes, color, marker in zip(
            probe.options, probe.latent_mse, colors, "osD", strict=True
        ):
            panel.plot(range(GROUPS), changes, marker=marker, color=color, label=f"{option} bits")
        panel.set_yscale("log")
        panel.set_xticks(range(GROUPS), [f"{start}-{stop - 1}" for start, stop in probe.ranges])
        panel.set_title(name, fontsize=10)
    for line in panels:
        line[0].set_ylabel("latent MSE per step")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.supxlabel("sampling steps whose inputs are rounded (0 is the noisiest)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Probes, prints and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", nargs="+", default=list(LABELING))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("docs/images/steps.png"))
    arguments = parser.parse_args()
    found = {name: probed(name, arguments.images) for name in arguments.on}
    rows = [["miniature", *(f"quarter {place + 1}" for place in range(GROUPS)), "first half over last"]]
    for name, probe in found.items():
        changes = probe.latent_mse[probe.options.index("4")]
        half = GROUPS // 2
        ratio = changes[:half].sum() / changes[half:].sum()
        rows.append([f"`{name}`", *(f"{change:.1e}" for change in changes), f"{ratio:.2g}"])
    print(markdown_table(rows))
    draw(found, arguments.out)


if __name__ == "__main__":
    main()
