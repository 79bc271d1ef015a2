"""``qsd zoo``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from qsd.cli.console import bar, console, messages, print_json, run_function
from qsd.support.errors import QsdError
from qsd.zoo import TRAINERS, write_data, write_emoji_data
from qsd.zoo import measure as measure_miniature
from qsd.zoo import train as train_miniature


def train(name: str, out: str | None = None, seed: int = 0, device: str = "cpu", json: bool = False) -> None:
    """Trains a shipped checkpoint anew, on the real digits of scikit-learn or on emoji.

    Args:
        name: digits-classifier, digits-clip, digits-pixart-alpha, digits-pixart-sigma, digits-hunyuan-dit,
            digits-sd15, digits-sdxl, digits-dit, digits-ddpm, emoji-autoencoder, emoji-classifier,
            emoji-clip, emoji-flux, emoji-sana or emoji-wan.
            What is interrupted goes on when run again.
        out: folder to write; by default `checkpoints/NAME` below the current folder.
        seed: of weights and batches.
        device: where to train.
        json: print the measured facts as JSON.
    """
    if name not in TRAINERS:
        raise QsdError(f"nothing to train named {name!r}; there are {', '.join(TRAINERS)}")
    folder = Path(out or f"checkpoints/{name}")
    with bar(name) as progress:
        facts = train_miniature(name, folder, seed=seed, device=torch.device(device), progress=progress)
    _tell({"folder": str(folder), **facts}, json)


def measure(name: str, folder: str | None = None, json: bool = False) -> None:
    """Measures whether a miniature is good at full precision: FID against real digits, agreement, seconds.

    Args:
        name: a miniature, for example digits-sdxl.
        folder: its folder; by default the shipped one.
        json: print JSON.
    """
    with messages.status(f"{name}: drawing 1,000 images"):
        facts = measure_miniature(name, folder)
    _tell(facts, json)


def data(name: str, fluent: str | None = None, google: str | None = None, out: str | None = None) -> None:
    """Writes reference images, prompts and classes, so that measuring needs nothing else.

    The emoji come from two npm archives: `npm pack @lobehub/fluent-emoji-3d` and
    `npm pack emoji-datasource-google` fetch them.

    Args:
        name: digits or emoji.
        fluent: the archive of @lobehub/fluent-emoji-3d (emoji only).
        google: the archive of emoji-datasource-google (emoji only).
        out: folder to write; by default `datasets/NAME` below the current folder.
    """
    if name not in ("digits", "emoji"):
        raise QsdError(f"no data named {name!r}; there are digits and emoji")
    folder = Path(out or f"datasets/{name}")
    if name == "digits":
        _tell({"folder": str(folder), **write_data(folder)}, json=False)
        return
    if not fluent or not google:
        raise QsdError(
            "emoji come from two archives; give --fluent and --google after "
            "`npm pack @lobehub/fluent-emoji-3d` "
            "and `npm pack emoji-datasource-google`"
        )
    _tell({"folder": str(folder), **write_emoji_data(Path(fluent), Path(google), folder)}, json=False)


def _tell(facts: Mapping[str, object], json: bool) -> None:
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        console.print(f"{name:<28}{value:.4g}" if isinstance(value, float) else f"{name:<28}{value}")


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function({"train": train, "measure": measure, "data": data}, words, positional=True)
