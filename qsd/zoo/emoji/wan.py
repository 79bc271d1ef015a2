"""The Wan miniature: a tiny UMT5, a small causal video autoencoder, and a transformer over space and time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.diffusion import Recipe
from qsd.zoo.emoji.dataset import load_emoji
from qsd.zoo.emoji.text import VIDEO_TEXT_LENGTH, emoji_t5_tokenizer
from qsd.zoo.emoji.train import own_autoencoder, train_on_latents
from qsd.zoo.emoji.videos import animate, video_captions

_HEADS, _HEAD_WIDTH, _BLOCKS = 3, 32, 6
_TEXT_WIDTH = 64
_CHANNELS = 16
_KL_WEIGHT = 3e-5
_FACTOR = 4  # in space and in time
_STATISTICS = 500  # videos behind the latents' mean and deviation, and behind the error
_AUTOENCODER_STEPS, _AUTOENCODER_BATCH = 700, 16


class Wan:
    """Satisfies :class:`qsd.zoo.emoji.flow.FlowMiniature`."""

    recipe = Recipe(cycles=((1400, 2e-3),), batch=64)

    def __init__(self, captions: Sequence[str], device: torch.device) -> None:
        self.tokenizer: Any = emoji_t5_tokenizer()  # the pipeline is annotated with AutoTokenizer
        with device:
            self.text_encoder = _build_umt5(len(self.tokenizer))
            self.transformer = WanTransformer3DModel(
                patch_size=(1, 1, 1),
                num_attention_heads=_HEADS,
                attention_head_dim=_HEAD_WIDTH,
                in_channels=_CHANNELS,
                out_channels=_CHANNELS,
                text_dim=_TEXT_WIDTH,
                freq_dim=_TEXT_WIDTH,
                ffn_dim=256,
                num_layers=_BLOCKS,
                rope_max_seq_len=32,
            )
        self.modules = nn.ModuleDict({"text_encoder": self.text_encoder, "transformer": self.transformer})
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=VIDEO_TEXT_LENGTH, return_tensors="pt"
        ).to(device)
        self._tokens, self._mask = tokens.input_ids, tokens.attention_mask

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Encodes the captions, zero behind their ends as the pipeline does, and predicts the velocity."""
        mask = self._mask[captions]
        text = self.text_encoder(self._tokens[captions], attention_mask=mask)[0] * mask[..., None]
        return self.transformer(
            hidden_states=noisy, timestep=sigmas * 1000, encoder_hidden_states=text
        ).sample

    def pipeline(self, vae: AutoencoderKLWan) -> WanPipeline:
        """The stock pipeline around the trained parts."""
        return WanPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=self.transformer,
        )


def train_wan(
    out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None
) -> dict[str, float]:
    """Trains the video autoencoder, then text encoder and denoiser, and writes the folder.

    Args:
        out: the folder to write; an interrupted training goes on from the files ``OUT.training*`` beside it.
        seed: of initialisation, batches and noise.
        device: where to train.
        progress: told every 10 steps.

    Returns:
        ``autoencoder_rmse`` in grey levels of 255, ``loss`` and ``bytes``.
    """
    emoji = load_emoji(["images"])
    videos = animate(to_pixels(emoji.images)).to(device)
    vae = own_autoencoder(
        lambda: _build_autoencoder([0.0] * _CHANNELS, [1.0] * _CHANNELS),
        _loss,
        videos,
        out,
        steps=_AUTOENCODER_STEPS,
        batch=_AUTOENCODER_BATCH,
        seed=seed,
        device=device,
        progress=progress,
    )
    latents, rmse = _normalised(vae, videos)
    facts = train_on_latents(
        lambda: Wan([*video_captions(emoji.captions), ""], device),
        vae,
        latents,
        out,
        seed=seed,
        progress=progress,
    )
    return {"autoencoder_rmse": rmse, **facts}


def _loss(vae: AutoencoderKLWan, batch: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(batch).latent_dist
    error = nn.functional.mse_loss(vae.decode(posterior.sample()).sample, batch)
    return error + _KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


@torch.no_grad()
def _modes(vae: AutoencoderKLWan, videos: torch.Tensor) -> torch.Tensor:
    return torch.cat([vae.encode(part).latent_dist.mode() for part in videos.split(128)])


@torch.no_grad()
def _normalised(vae: AutoencoderKLWan, videos: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Latents of unit variance as the pipeline scales them, and the error of 256 reconstructions.

    The autoencoder is told the latents' mean and deviation.
    """
    raw = _modes(vae, videos)
    mean, deviation = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    rows = torch.arange(0, len(videos), max(1, len(videos) // 256))
    error = (vae.decode(raw[rows]).sample - videos[rows]).square().mean().sqrt().item()
    shape = (1, _CHANNELS, 1, 1, 1)
    return (raw - mean.view(shape)) / deviation.view(shape), error * 127.5


def _build_autoencoder(mean: list[float], deviation: list[float]) -> AutoencoderKLWan:
    """An untrained autoencoder: 5 frames of 16x16 to 2 of 4x4 latents."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=mean,
        latents_std=deviation,
        scale_factor_temporal=_FACTOR,
        scale_factor_spatial=_FACTOR,
    )


def _build_umt5(vocabulary: int) -> UMT5EncoderModel:
    """An untrained two-layer encoder for captions of a few words."""
    return UMT5EncoderModel(
        UMT5Config(
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
