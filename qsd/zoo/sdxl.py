"""The SDXL miniature: two frozen text encoders from the tiny CLIP, a U-Net conditioned on sizes as well."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.diffusion import Recipe, caption_table, sampler
from qsd.zoo.digits import IMAGE_SIZE
from qsd.zoo.pretrained import pretrained, pretrained_tokenizer
from qsd.zoo.sd15 import caption_tokens

_WIDTHS = (24, 48)
_TIME_ID_WIDTH = 8
_TIME_IDS = (IMAGE_SIZE, IMAGE_SIZE, 0, 0, IMAGE_SIZE, IMAGE_SIZE)
"""Original size, crop corner, target size: the pipeline's defaults, the only ones seen in training."""


class StableDiffusionXL:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 4
    recipe = Recipe(cycles=((2000, 2e-3),))
    autoencoder_of: str | None = "digits-sd15"

    def __init__(self, device: torch.device) -> None:
        self.tokenizer: CLIPTokenizer = pretrained_tokenizer(CLIPTokenizer, "digits-clip")
        self.text_encoder = pretrained(CLIPTextModel, "digits-clip").to(device)
        self.text_encoder_2 = pretrained(CLIPTextModelWithProjection, "digits-clip").to(device)
        text = self.text_encoder.config
        with device:
            self.unet = UNet2DConditionModel(
                sample_size=latent_size(self.factor),
                in_channels=LATENT_CHANNELS[self.factor],
                out_channels=LATENT_CHANNELS[self.factor],
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=_WIDTHS,
                layers_per_block=1,
                transformer_layers_per_block=(1, 2),
                cross_attention_dim=2 * text.hidden_size,
                attention_head_dim=(2, 4),  # the numbers of heads, for historical reasons
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=_TIME_ID_WIDTH,
                projection_class_embeddings_input_dim=len(_TIME_IDS) * _TIME_ID_WIDTH + text.projection_dim,
                norm_num_groups=8,
            )
        self.modules = nn.ModuleDict({"unet": self.unet})
        tokens = caption_tokens(self.tokenizer, device)
        first = self.text_encoder(**tokens, output_hidden_states=True)
        second = self.text_encoder_2(**tokens, output_hidden_states=True)
        self._text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        self._pooled = second.text_embeds
        # The pipeline's default for an empty negative prompt is zeros, but an empty prompt is encoded.
        self._time_ids = torch.tensor(_TIME_IDS, device=device).expand(len(caption_table()), -1)

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Predicts the noise (see the protocol)."""
        added = {"text_embeds": self._pooled[captions], "time_ids": self._time_ids[captions]}
        text = self._text[captions]
        return self.unet(noisy, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusionXLPipeline:
        """The stock pipeline around the trained U-Net."""
        return StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=self.unet,
            scheduler=sampler(),
            add_watermarker=False,
        )
