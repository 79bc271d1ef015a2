"""Small rankers that tests train or make up."""

import torch
from torch import nn

from qsd.ranker.ensemble import Ensemble, Member
from qsd.ranker.network import NetworkSettings
from qsd.ranker.store_data import StoreData

SMALL = NetworkSettings(width=8, depth=2, heads=2)


def randomized(network: nn.Module) -> nn.Module:
    """Tables start at zero; tests need them to matter."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def fitted(data: StoreData, members: list[Member]) -> Ensemble:
    """An ensemble before training: its members know their scales and closed forms."""
    for index, member in enumerate(members):
        member.fit_scales(0, data.targets[data.training_rows(index)])
        member.fit_closed_form(0, data, index)
    return Ensemble(members)
