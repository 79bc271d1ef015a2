"""The FLUX miniature: a tiny CLIP text tower and T5, and a transformer of joint and single-stream blocks."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, T5Tokenizer

from qsd.zoo.autoencoder import LATENT_CHANNELS
from qsd.zoo.diffusion import Recipe
from qsd.zoo.emoji.autoencoder import FACTOR
from qsd.zoo.emoji.dataset import IMAGE_SIZE
from qsd.zoo.emoji.text import TEXT_LENGTH, emoji_bert_tokenizer, emoji_t5_tokenizer
from qsd.zoo.pixart_alpha import build_t5

_HEADS, _ROTARY = 3, (8, 12, 12)
_JOINT_BLOCKS, _SINGLE_BLOCKS = 2, 4
_POOLED_WIDTH = 48
_PATCH = 2  # the pipeline packs so many latents each way into a token
_SIDE = IMAGE_SIZE // FACTOR


class Flux:
    """Satisfies :class:`qsd.zoo.emoji.flow.FlowMiniature`."""

    recipe = Recipe(cycles=((1600, 2e-3),), batch=64)

    def __init__(self, captions: Sequence[str], device: torch.device) -> None:
        self.tokenizer: Any = emoji_bert_tokenizer()  # the pipeline is annotated with CLIP's
        self.tokenizer_2: T5Tokenizer = emoji_t5_tokenizer()
        with device:
            self.text_encoder = _build_text_tower(self.tokenizer)
            self.text_encoder_2 = build_t5(len(self.tokenizer_2))
            self.transformer = FluxTransformer2DModel(
                in_channels=LATENT_CHANNELS[FACTOR] * _PATCH**2,
                num_layers=_JOINT_BLOCKS,
                num_single_layers=_SINGLE_BLOCKS,
                attention_head_dim=sum(_ROTARY),
                num_attention_heads=_HEADS,
                joint_attention_dim=self.text_encoder_2.config.d_model,
                pooled_projection_dim=_POOLED_WIDTH,
                axes_dims_rope=_ROTARY,
            )
        self.modules = nn.ModuleDict(
            {
                "text_encoder": self.text_encoder,
                "text_encoder_2": self.text_encoder_2,
                "transformer": self.transformer,
            }
        )
        padding = {"padding": "max_length", "max_length": TEXT_LENGTH, "return_tensors": "pt"}
        texts = list(captions)
        self._tokens = self.tokenizer(texts, **padding).input_ids.to(device)
        self._tokens_2 = self.tokenizer_2(texts, **padding).input_ids.to(device)
        side = _SIDE // _PATCH
        self._image_ids = FluxPipeline._prepare_latent_image_ids(1, side, side, device, torch.float32)
        self._text_ids = torch.zeros(TEXT_LENGTH, 3, device=device)

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Encodes the captions, without masks as the pipeline does, and predicts the velocity."""
        pooled = self.text_encoder(self._tokens[captions]).pooler_output
        predicted = self.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, *noisy.shape),
            timestep=sigmas,
            pooled_projections=pooled,
            encoder_hidden_states=self.text_encoder_2(self._tokens_2[captions])[0],
            txt_ids=self._text_ids,
            img_ids=self._image_ids,
        ).sample
        return FluxPipeline._unpack_latents(predicted, IMAGE_SIZE, IMAGE_SIZE, FACTOR)

    def pipeline(self, vae: AutoencoderKL) -> FluxPipeline:
        """The stock pipeline around the trained parts."""
        return FluxPipeline(
            scheduler=sampler(),
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            transformer=self.transformer,
        )


def sampler() -> Any:  # the pipelines are annotated with a stand-in
    """Euler steps that put fresh noise on the predicted picture, which forgives a small model's errors."""
    return FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)


def _build_text_tower(tokenizer: BertTokenizer) -> CLIPTextModel:
    """An untrained layer whose output at the last token conditions every block."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_POOLED_WIDTH,
            intermediate_size=2 * _POOLED_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
