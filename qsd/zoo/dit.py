"""The DiT miniature: a tiny diffusion transformer conditioned on the digit alone."""

import copy

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from torch import nn

from qsd.denoisers.pipeline import keep_class_names
from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.captions import DIGIT_WORDS, parse
from qsd.zoo.diffusion import Recipe, caption_table, sampler

_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 20, 6


class DiT:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 2
    recipe = Recipe()
    autoencoder_of: str | None = "digits-pixart-alpha"

    def __init__(self, device: torch.device) -> None:
        with device:
            self.transformer = DiTTransformer2DModel(
                num_attention_heads=_HEADS,
                attention_head_dim=_HEAD_WIDTH,
                in_channels=LATENT_CHANNELS[self.factor],
                out_channels=LATENT_CHANNELS[self.factor],  # no variance
                num_layers=_BLOCKS,
                sample_size=latent_size(self.factor),
                patch_size=2,
                num_embeds_ada_norm=len(DIGIT_WORDS),
            )
        for block in self.transformer.transformer_blocks[1:]:  # one embedder in training, as in the paper
            block.norm1.emb = self.transformer.transformer_blocks[0].norm1.emb
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        nothing = len(DIGIT_WORDS)  # the embedding's last row stands for no class
        classes = [parse(text)[0] if text else nothing for text in caption_table()]
        self._classes = torch.tensor(classes, device=device)

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise from the captions' digits (see the protocol)."""
        classes = self._classes[captions]
        return self.transformer(noisy, timestep=timesteps, class_labels=classes).sample

    def pipeline(self, vae: AutoencoderKL) -> DiTPipeline:
        """The stock pipeline, whose class names are the captions `a zero` to `a nine`."""
        for block in self.transformer.transformer_blocks[1:]:  # as the published checkpoints store them
            block.norm1.emb = copy.deepcopy(block.norm1.emb)
        names = {index: f"a {word}" for index, word in enumerate(DIGIT_WORDS)}
        pipe = DiTPipeline(transformer=self.transformer, vae=vae, scheduler=sampler(), id2label=names)
        keep_class_names(pipe)
        return pipe
