"""The Sana miniature: a tiny Gemma 2, a small deep-compression autoencoder, and linear attention."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.pipelines.sana.pipeline_sana import SanaPipeline
from torch import nn
from transformers import Gemma2Config, Gemma2Model

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.diffusion import Recipe
from qsd.zoo.emoji.dataset import IMAGE_SIZE, load_emoji
from qsd.zoo.emoji.flux import sampler
from qsd.zoo.emoji.text import TEXT_LENGTH, emoji_t5_tokenizer
from qsd.zoo.emoji.train import own_autoencoder, train_on_latents

_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 24, 4
_TEXT_WIDTH = 64
_CHANNELS = 8
_WIDTHS = (16, 32, 32)
_SIDE = IMAGE_SIZE // 2 ** (len(_WIDTHS) - 1)
_AUTOENCODER_STEPS, _AUTOENCODER_BATCH = 1000, 32


class Sana:
    """Satisfies :class:`qsd.zoo.emoji.flow.FlowMiniature`."""

    recipe = Recipe(cycles=((1400, 2e-3),), batch=64)

    def __init__(self, captions: Sequence[str], device: torch.device) -> None:
        self.tokenizer: Any = emoji_t5_tokenizer()  # the pipeline is annotated with Gemma's
        width = _HEADS * _HEAD_WIDTH
        with device:
            self.text_encoder = _build_gemma(len(self.tokenizer))
            self.transformer = SanaTransformer2DModel(
                in_channels=_CHANNELS,
                out_channels=_CHANNELS,
                num_attention_heads=_HEADS,
                attention_head_dim=_HEAD_WIDTH,
                num_layers=_BLOCKS,
                num_cross_attention_heads=_HEADS,
                cross_attention_head_dim=_HEAD_WIDTH,
                cross_attention_dim=width,
                caption_channels=_TEXT_WIDTH,
                mlp_ratio=1.5,
                sample_size=_SIDE,
                patch_size=1,
            )
        self.modules = nn.ModuleDict({"text_encoder": self.text_encoder, "transformer": self.transformer})
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
        ).to(device)
        self._tokens, self._mask = tokens.input_ids, tokens.attention_mask

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Encodes the captions and predicts the velocity."""
        mask = self._mask[captions]
        return self.transformer(
            noisy,
            encoder_hidden_states=self.text_encoder(self._tokens[captions], attention_mask=mask)[0],
            encoder_attention_mask=mask,
            timestep=sigmas * 1000,
        ).sample

    def pipeline(self, vae: AutoencoderDC) -> SanaPipeline:
        """The stock pipeline around the trained parts."""
        return SanaPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=vae,
            transformer=self.transformer,
            scheduler=sampler(),
        )


def train_sana(
    out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None
) -> dict[str, float]:
    """Trains the autoencoder, then text encoder and denoiser, and writes the folder.

    Args:
        out: the folder to write; an interrupted training goes on from the files ``OUT.training*`` beside it.
        seed: of initialisation, batches and noise.
        device: where to train.
        progress: told every 10 steps.

    Returns:
        ``autoencoder_rmse`` in grey levels of 255, ``loss`` and ``bytes``.
    """
    emoji = load_emoji(["images"])
    images = to_pixels(emoji.images).to(device)
    vae = own_autoencoder(
        _build_autoencoder,
        lambda vae, batch: nn.functional.mse_loss(vae.decode(vae.encode(batch).latent).sample, batch),
        images,
        out,
        steps=_AUTOENCODER_STEPS,
        batch=_AUTOENCODER_BATCH,
        seed=seed,
        device=device,
        progress=progress,
    )
    latents, rmse = _scaled(vae, images)
    facts = train_on_latents(
        lambda: Sana([*emoji.captions, ""], device), vae, latents, out, seed=seed, progress=progress
    )
    return {"autoencoder_rmse": rmse, **facts}


@torch.no_grad()
def _scaled(vae: AutoencoderDC, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Latents of unit variance and the error of the reconstructions; the autoencoder is told the factor."""
    raw = torch.cat([vae.encode(part).latent for part in images.split(128)])
    decoded = torch.cat([vae.decode(part).sample for part in raw.split(128)])
    vae.register_to_config(scaling_factor=1 / float(raw.std()))
    return raw * float(vae.config["scaling_factor"]), float((decoded - images).square().mean().sqrt()) * 127.5


def _build_autoencoder() -> AutoencoderDC:
    """An untrained autoencoder: 32x32 pixels to 8x8 latents."""
    levels = len(_WIDTHS)
    return AutoencoderDC(
        latent_channels=_CHANNELS,
        encoder_block_out_channels=_WIDTHS,
        decoder_block_out_channels=_WIDTHS,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
    )


def _build_gemma(vocabulary: int) -> Gemma2Model:
    """An untrained two-layer encoder for captions of a few words."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    )
