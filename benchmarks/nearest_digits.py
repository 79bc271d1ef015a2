"""How near a miniature's images are to the digits that it was trained on: are they copies?

    python benchmarks/nearest_digits.py [--miniatures digits-dit ...] [--images 500]

A KID near that of copies says nothing about copying by itself. Here every drawn image is compared with all
real digits, pixel by pixel (root mean square, 0 to 1), and so is every real digit with all *other* real ones,
which is how near a new real digit would be. If drawn images are nearer to the training digits than the digits
are to each other, the miniature copies. Prints a Markdown table: median and 5 % quantile of both, and the
share of drawn images that are nearer than 5 % of the real digits are.
"""

import argparse

import numpy as np
import torch
from measured import markdown_table

from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation.generate import Generator
from qsd.support.paths import shipped_root
from qsd.zoo.registry import MINIATURES, labeling_settings


def nearest(images: torch.Tensor, others: torch.Tensor, *, apart: bool) -> np.ndarray:
    """Root mean square difference to the nearest of the others, float64 [n]; apart: not to itself."""
    flat, theirs = images.flatten(1).double() / 255, others.flatten(1).double() / 255
    distance = torch.cdist(flat, theirs) / flat.shape[1] ** 0.5
    if apart:
        distance.fill_diagonal_(torch.inf)
    return distance.min(dim=1).values.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--miniatures", nargs="+", default=[n for n in MINIATURES if n.startswith("digits")])
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    rows = [["miniature", "drawn: median", "5 %", "real: median", "5 %", "drawn nearer than 5 % of real"]]
    for name in arguments.miniatures:
        settings = labeling_settings(name, arguments.images)
        pipe = load_pipeline(shipped_root() / "checkpoints" / name)
        drawn = torch.cat([images for _, _, images in Generator(pipe, settings).batches(1)])
        real = torch.cat(list(settings.open_reference().batches(1000)))
        real = real.expand(-1, drawn.shape[1], -1, -1)
        ours, theirs = nearest(drawn, real, apart=False), nearest(real, real, apart=True)
        low = float(np.quantile(theirs, 0.05))
        numbers = [np.median(ours), np.quantile(ours, 0.05), np.median(theirs), low]
        rows.append([name, *(f"{number:.3f}" for number in numbers), f"{(ours < low).mean():.1%}"])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
