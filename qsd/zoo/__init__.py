"""Miniatures of real diffusers pipelines and their evaluators, trained on real digits in minutes."""

from qsd.zoo.digits import write_data
from qsd.zoo.registry import MINIATURES, TRAINERS, measure, train

__all__ = ["MINIATURES", "TRAINERS", "measure", "train", "write_data"]
