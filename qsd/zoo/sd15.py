"""The Stable Diffusion 1.5 miniature: the text tower of the tiny CLIP, frozen, and a small U-Net."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.diffusion import Recipe, caption_table, sampler
from qsd.zoo.pretrained import pretrained, pretrained_tokenizer

_NONE: Any = None  # allowed, but not in the annotations
_WIDTHS = (32, 64)


class StableDiffusion15:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 4
    recipe = Recipe()
    autoencoder_of: str | None = None

    def __init__(self, device: torch.device) -> None:
        self.tokenizer: CLIPTokenizer = pretrained_tokenizer(CLIPTokenizer, "digits-clip")
        self.text_encoder = pretrained(CLIPTextModel, "digits-clip").to(device)
        with device:
            self.unet = UNet2DConditionModel(
                sample_size=latent_size(self.factor),
                in_channels=LATENT_CHANNELS[self.factor],
                out_channels=LATENT_CHANNELS[self.factor],
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                block_out_channels=_WIDTHS,
                layers_per_block=2,
                cross_attention_dim=self.text_encoder.config.hidden_size,
                attention_head_dim=4,  # the number of heads, for historical reasons
                norm_num_groups=8,
            )
        self.modules = nn.ModuleDict({"unet": self.unet})
        self._text = self.text_encoder(**caption_tokens(self.tokenizer, device))[0]

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise (see the protocol)."""
        return self.unet(noisy, timesteps, encoder_hidden_states=self._text[captions]).sample

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusionPipeline:
        """The stock pipeline around the trained U-Net, without a safety checker."""
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=sampler(),
            safety_checker=_NONE,
            feature_extractor=_NONE,
            requires_safety_checker=False,
        )


def caption_tokens(tokenizer: CLIPTokenizer, device: torch.device) -> dict[str, torch.Tensor]:
    """All captions as Stable Diffusion's pipelines tokenize them: full length, no attention mask."""
    tokens = tokenizer(caption_table(), padding="max_length", return_tensors="pt")
    return {"input_ids": tokens.input_ids.to(device)}
