"""One layer at a time by PSNR, as Apple's mixed-bit palettization chooses.

Each option of each layer is drawn alone and compared with full precision; for a threshold every layer takes
its smallest option whose PSNR is at least that. The threshold is swept. Here PSNR comes from a probed store,
whose latents tell the mean square change: PSNR = -10 log10(mean square) up to a constant.
"""

import numpy as np

from qsd.search.front import Front
from qsd.search.task import Task


def search(task: Task) -> Front:
    """Configs by threshold; the task's score is the PSNR of each option alone."""
    space = task.space
    if task.score is None:
        raise ValueError("greedy needs a score")
    psnr = np.full(space.num_bytes.shape, np.inf)  # of coupled layers the worst counts
    np.minimum.at(psnr, space.unit_of_layer, task.score)
    psnr = np.where(space.available, psnr, -np.inf)
    order = np.argsort(np.where(space.available, space.num_bytes, np.iinfo(np.int64).max), axis=1)
    by_size = np.take_along_axis(psnr, order, axis=1)
    best = by_size.argmax(axis=1)  # where nothing reaches the threshold
    thresholds = np.unique(psnr[space.available])
    units = np.empty((len(thresholds), len(psnr)), dtype=np.int8)
    for row, threshold in enumerate(thresholds):
        reaches = by_size >= threshold
        place = np.where(reaches.any(axis=1), reaches.argmax(axis=1), best)
        units[row] = np.take_along_axis(order, place[:, None], axis=1)[:, 0]
    evaluator = task.evaluator()
    evaluator(units)
    return task.front(evaluator, "greedy")
