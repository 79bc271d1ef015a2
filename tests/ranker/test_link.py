import torch

from qsd.ranker.link import bend, unbend


def test_link_and_its_inverse():
    values = torch.linspace(-3, 3, 61, dtype=torch.double)
    for power in (-0.8, -0.2, 0.0, 0.5):
        torch.testing.assert_close(unbend(bend(values, power), power, -3, 3), values)
        beyond = unbend(torch.linspace(-20, 20, 400, dtype=torch.double), power, -1.0, 2.0)
        assert beyond.isfinite().all()
        assert (beyond.diff() > 0).all()  # the order survives where the transform has no inverse
