"""Miniatures of real diffusers pipelines and their evaluators, trained on real digits or emoji in minutes."""

from qsd.zoo.digits import write_data
from qsd.zoo.emoji.archives import write_data as write_emoji_data
from qsd.zoo.registry import MINIATURES, TRAINERS, measure, train

__all__ = ["MINIATURES", "TRAINERS", "measure", "train", "write_data", "write_emoji_data"]
