"""Gram matrices of features on the shipped miniature, against hooks of this test's own."""

import numpy as np
import pytest
import torch

from qsd.denoisers.components import denoiser_of
from qsd.denoisers.pipeline import load_pipeline
from qsd.denoisers.tracing import trace
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.generate import Generator
from qsd.evaluation.grams import feature_grams
from qsd.search.methods.orthogonality import total_similarity
from qsd.support.errors import QsdError

SETTINGS = EvaluationSettings(
    prompts="datasets/digits/prompts.txt", num_images=6, steps=3, guidance=1.0, batch_size=6
)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("checkpoints/digits-pixart-alpha")


def test_they_are_those_of_the_layers_outputs(pipe) -> None:
    denoiser = denoiser_of(pipe)
    layers = trace(denoiser).layers
    grams = list(feature_grams(pipe, denoiser, layers, SETTINGS, samples=6, steps=2))
    assert len(grams) == 2
    assert grams[0].shape == (len(layers), 6, 6)
    place = next(index for index, layer in enumerate(layers) if layer.role == "ff.in")
    seen: list[torch.Tensor] = []
    module = denoiser.get_submodule(layers[place].module)
    handle = module.register_forward_hook(
        lambda _, __, output: seen.append(output.detach().flatten(1).double())
    )
    list(Generator(pipe, SETTINGS).batches(0))
    handle.remove()
    assert len(seen) == 3
    for gram, features in zip(grams, (seen[0], seen[2]), strict=True):  # the first and the last step
        np.testing.assert_allclose(gram[place], (features @ features.T).numpy(), rtol=1e-6)
    gamma = total_similarity(grams[0], debiased=True)
    assert np.isfinite(gamma).all()
    time = next(index for index, layer in enumerate(layers) if layer.role == "time_embed")
    assert gamma[time] == 0  # the same for all samples of a step, so it resembles nothing
    assert gamma[place] != 0


def test_more_steps_than_are_drawn_are_refused(pipe) -> None:
    denoiser = denoiser_of(pipe)
    with pytest.raises(QsdError, match="4 steps of 3: compare features at no more steps"):
        list(feature_grams(pipe, denoiser, trace(denoiser).layers, SETTINGS, samples=6, steps=4))


def test_weights_that_another_module_reads_have_its_output() -> None:
    pipe = load_pipeline("checkpoints/digits-hunyuan-dit")
    denoiser = denoiser_of(pipe)
    layers = trace(denoiser).layers
    pooled = [index for index, layer in enumerate(layers) if ".pooler." in layer.module]
    seen: list[torch.Tensor] = []
    handle = denoiser.time_extra_emb.pooler.register_forward_hook(
        lambda _, __, output: seen.append(output.detach().flatten(1).double())
    )
    (grams,) = feature_grams(pipe, denoiser, layers, SETTINGS, samples=6, steps=1)
    handle.remove()
    assert len(pooled) == 4  # query, key, value and output, none of which is ever called
    for place in pooled:
        np.testing.assert_allclose(grams[place], (seen[0] @ seen[0].T).numpy(), rtol=1e-6)
