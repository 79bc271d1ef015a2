"""An image grid: one row per config, one column per prompt, all from the same noise."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from qsd.support.files import atomic

GRID = "qsd-grid"
"""Entry of the PNG that says where the rows stand."""


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """One row of a grid.

    Attributes:
        title: stands to its left; a second line in smaller print is fine.
        images: uint8 [columns, 3, H, W].
    """

    title: str
    images: torch.Tensor


def draw_grid(rows: Sequence[ImageRow], captions: Sequence[str], path: str | Path) -> None:
    """Draws a grid and writes it as PNG; small images are enlarged without smoothing.

    Args:
        rows: from top to bottom.
        captions: the prompt of each column, broken into short lines above it.
        path: destination.
    """
    columns = len(captions)
    figure = Figure(figsize=(2.2 + 1.05 * columns, 0.75 + 1.1 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, axes_of_row in zip(rows, grid, strict=True):
        for image, axes in zip(row.images, axes_of_row, strict=True):
            axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
        axes_of_row[0].set_ylabel(row.title, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
    for caption, axes in zip(captions, grid[0], strict=True):
        axes.set_title(caption.replace(" ", "\n"), fontsize=7, va="bottom")
    figure.canvas.draw()  # settles where everything stands
    height = figure.bbox.height
    cells = []
    for axes_of_row in grid:
        ends = [axes.get_window_extent().extents for axes in axes_of_row]
        cells.append([[left, height - top, right, height - bottom] for left, bottom, right, top in ends])
    found = np.round(cells).astype(int)
    boxes = np.concatenate([found[:, 0, :2], found[:, -1, 2:]], axis=1)
    places = {"titles": [row.title for row in rows], "boxes": boxes.tolist(), "cells": found.tolist()}
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={GRID: json.dumps(places)})


def strips(path: str | Path) -> list[tuple[str, Image.Image]]:
    """Title and images of each row of a drawn grid, all of one size; none if the PNG is no such grid."""
    with Image.open(path) as image:
        places = json.loads(image.info.get(GRID, "{}"))
        cut = [image.convert("RGB").crop(box) for box in places.get("boxes", [])]
    width, height = (min((one.size[side] for one in cut), default=0) for side in (0, 1))
    cut = [one.crop((0, 0, width, height)) for one in cut]
    return list(zip(places.get("titles", []), cut, strict=True))


def cells(path: str | Path) -> list[tuple[str, list[Image.Image]]]:
    """Title and single images, all of one size, of each row of a drawn grid; none if the PNG is no grid."""
    with Image.open(path) as image:
        places = json.loads(image.info.get(GRID, "{}"))
        boxes = np.array(places.get("cells", []), dtype=np.int64)
        if not boxes.size:
            return []
        side = int(np.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]).min())
        whole = image.convert("RGB")
        rows = [[whole.crop((x, y, x + side, y + side)) for x, y, _, _ in row] for row in boxes.tolist()]
    return list(zip(places["titles"], rows, strict=True))
