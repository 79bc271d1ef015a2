"""The PixArt-Sigma miniature: the frozen T5 encoder of PixArt-Alpha's, a new transformer."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from torch import nn
from transformers import T5EncoderModel

from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.diffusion import Recipe, caption_table, sampler
from qsd.zoo.pretrained import pretrained
from qsd.zoo.tokenizers import t5_tokenizer

_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 20, 6
_NO_SIZE_CONDITION = {"resolution": None, "aspect_ratio": None}


class PixArtSigma:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 2
    recipe = Recipe()
    autoencoder_of: str | None = "digits-pixart-alpha"

    def __init__(self, device: torch.device) -> None:
        self.tokenizer = t5_tokenizer()
        self.text_encoder = pretrained(T5EncoderModel, "digits-pixart-alpha", "text_encoder").to(device)
        with device:
            self.transformer = PixArtTransformer2DModel(
                num_attention_heads=_HEADS,
                attention_head_dim=_HEAD_WIDTH,
                in_channels=LATENT_CHANNELS[self.factor],
                out_channels=LATENT_CHANNELS[self.factor],  # no variance
                num_layers=_BLOCKS,
                cross_attention_dim=_HEADS * _HEAD_WIDTH,
                sample_size=latent_size(self.factor),
                patch_size=2,
                caption_channels=self.text_encoder.config.d_model,
                use_additional_conditions=False,
            )
        self.modules = nn.ModuleDict({"transformer": self.transformer})
        tokens = self.tokenizer(caption_table(), padding=True, return_tensors="pt").to(device)
        self._mask = tokens.attention_mask
        self._text = self.text_encoder(tokens.input_ids, attention_mask=self._mask)[0]

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise (see the protocol)."""
        return self.transformer(
            noisy,
            encoder_hidden_states=self._text[captions],
            encoder_attention_mask=self._mask[captions],
            timestep=timesteps,
            added_cond_kwargs=_NO_SIZE_CONDITION,
        ).sample

    def pipeline(self, vae: AutoencoderKL) -> PixArtSigmaPipeline:
        """The stock pipeline around the trained transformer."""
        return PixArtSigmaPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=vae,
            transformer=self.transformer,
            scheduler=sampler(),
        )
