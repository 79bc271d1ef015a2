"""The PixArt-Alpha miniature: a tiny T5 encoder and a tiny PixArt transformer, trained together."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.diffusion import Recipe, caption_table, sampler
from qsd.zoo.tokenizers import t5_tokenizer

_TEXT_WIDTH = 64
_HEADS, _HEAD_WIDTH, _BLOCKS = 3, 32, 6
_NO_SIZE_CONDITION = {"resolution": None, "aspect_ratio": None}


class PixArtAlpha:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 2
    recipe = Recipe(cycles=((4500, 1.5e-3), (3500, 1e-3)), muon=False, workers=2)
    autoencoder_of: str | None = None

    def __init__(self, device: torch.device) -> None:
        self.tokenizer: T5Tokenizer = t5_tokenizer()
        with device:
            self.text_encoder = build_t5(len(self.tokenizer))
            self.transformer = _build_transformer()
        self.modules = nn.ModuleDict({"text_encoder": self.text_encoder, "transformer": self.transformer})
        tokens = self.tokenizer(caption_table(), padding=True, return_tensors="pt").to(device)
        self._tokens, self._mask = tokens.input_ids, tokens.attention_mask

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Encodes the captions and predicts the noise (see the protocol)."""
        mask = self._mask[captions]
        text = self.text_encoder(self._tokens[captions], attention_mask=mask)[0]
        return self.transformer(
            noisy,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=timesteps,
            added_cond_kwargs=_NO_SIZE_CONDITION,
        ).sample

    def pipeline(self, vae: AutoencoderKL) -> PixArtAlphaPipeline:
        """The stock pipeline around the trained parts."""
        return PixArtAlphaPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=vae,
            transformer=self.transformer,
            scheduler=sampler(),
        )


def build_t5(vocabulary: int) -> T5EncoderModel:
    """An untrained two-layer encoder for captions of a few words."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=_TEXT_WIDTH,
            d_kv=16,
            num_heads=4,
            d_ff=2 * _TEXT_WIDTH,
            num_layers=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def _build_transformer() -> PixArtTransformer2DModel:
    width = _HEADS * _HEAD_WIDTH
    return PixArtTransformer2DModel(
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_WIDTH,
        in_channels=LATENT_CHANNELS[PixArtAlpha.factor],
        out_channels=LATENT_CHANNELS[PixArtAlpha.factor],  # no variance
        num_layers=_BLOCKS,
        cross_attention_dim=width,
        sample_size=latent_size(PixArtAlpha.factor),
        patch_size=2,
        caption_channels=_TEXT_WIDTH,
    )
