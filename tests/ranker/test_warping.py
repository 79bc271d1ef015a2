import torch

from qsd.ranker.warping import unwarp, warp


def test_warping_and_its_inverse():
    values = torch.linspace(-3, 3, 61, dtype=torch.double)
    for power in (-0.8, -0.2, 0.0, 0.5):
        torch.testing.assert_close(unwarp(warp(values, power), power, -3, 3), values)
        beyond = unwarp(torch.linspace(-20, 20, 400, dtype=torch.double), power, -1.0, 2.0)
        assert beyond.isfinite().all()
        assert (beyond.diff() > 0).all()  # the order survives where the transform has no inverse
