"""A small graph, and configs of it."""

import numpy as np
import pytest
import torch
from support.synthetic_store import synthetic_header

from qsd.ranker.features import GraphFeatures


@pytest.fixture(scope="module")
def header():
    return synthetic_header(1)


@pytest.fixture(scope="module")
def graph(header):
    return GraphFeatures.of(header)


@pytest.fixture(scope="module")
def configs(header):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 6, (10, len(header.layers))))
