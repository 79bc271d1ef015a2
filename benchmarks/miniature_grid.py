"""Draws the picture of a miniature that the docs show: real pictures, full precision, uniform configs.

    python benchmarks/miniature_grid.py emoji-flux --options uaq-4 kmeans_c-3 --out docs/images/emoji-flux.png

Every row starts from the same noise, in the steps of the miniature's labeling YAML.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from qsd.bank import build_bank
from qsd.bank.apply import Applier
from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.evaluation.grid import ImageRow, draw_grid
from qsd.quantizers import Option
from qsd.zoo.emoji.dataset import load_emoji
from qsd.zoo.registry import labeling_settings

PROMPTS = (
    "fox face, 3d",
    "fox face, flat",
    "grinning face, 3d",
    "pouting face, 3d",
    "red apple, flat",
    "birthday cake, 3d",
    "seedling, flat",
    "shark, 3d",
    "broken heart, 3d",
    "hot dog, 3d",
    "palm tree, 3d",
    "pear, flat",
)


COLUMNS = len(PROMPTS)


def rows_of(name: str, options: list[str], settings: EvaluationSettings) -> list[ImageRow]:
    """Full precision (every frame of a video) and uniform configs (its middle frame), a row each."""
    pipe = load_pipeline(f"checkpoints/{name}")
    denoiser = denoiser_of(pipe)
    bank = build_bank(denoiser, [Option.parse(text) for text in options])
    generator = Generator(pipe, settings)

    def drawn() -> torch.Tensor:
        return torch.cat([some.frames for some in generator.drawings(settings.noise_seed)])

    frames = drawn()
    count = frames.shape[1]
    titles = [f"full precision, frame {k + 1}" for k in range(count)] if count > 1 else ["full precision"]
    rows = [ImageRow(title, frames[:, k]) for k, title in enumerate(titles)]
    with Applier(bank, denoiser) as applier:
        for option in bank.options:
            config = bank.uniform_config(option)
            bits = 8 * int(bank.config_bytes(config)) / int(bank.num_weights.sum())
            applier.apply(config)
            rows.append(ImageRow(f"{option}\n{bits:.2f} bits", drawn()[:, count // 2]))
    return rows


def main() -> None:
    """Draws and writes the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--options", nargs="+", default=["uaq-4", "uaq-3"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    settings = labeling_settings(arguments.name)
    settings = dataclasses.replace(settings, num_images=COLUMNS, batch_size=COLUMNS)
    captions, rows = [""] * COLUMNS, []
    with tempfile.TemporaryDirectory() as folder:
        if settings.num_frames is not None:
            captions = settings.load_prompts()
        elif settings.prompts is not None:
            emoji = load_emoji(["images"])
            rows = [ImageRow("real", emoji.images[[emoji.captions.index(prompt) for prompt in PROMPTS]])]
            file = Path(folder, "prompts.txt")
            file.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
            settings, captions = dataclasses.replace(settings, prompts=str(file)), list(PROMPTS)
        rows += rows_of(arguments.name, arguments.options, settings)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(rows, captions, arguments.out)


if __name__ == "__main__":
    main()
