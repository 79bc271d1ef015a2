"""The Hunyuan-DiT miniature: a tiny BERT beside PixArt-Alpha's frozen T5, a transformer with skips."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
    HunyuanDiTPipeline,
    get_resize_crop_region_for_grid,
)
from torch import nn
from transformers import BatchEncoding, BertConfig, BertModel, PreTrainedTokenizerBase, T5EncoderModel

from qsd.zoo.autoencoder import LATENT_CHANNELS, latent_size
from qsd.zoo.diffusion import Recipe, caption_table, sampler
from qsd.zoo.pretrained import pretrained
from qsd.zoo.tokenizers import bert_tokenizer, t5_tokenizer

_NONE: Any = None  # allowed, but not in the annotations
_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 16, 6
_TEXT_WIDTH = 32
_BERT_LENGTH, _T5_LENGTH = 77, 256  # the pipeline pads to these
_BASE_GRID = 64  # the pipeline's: positions count as in a 512-pixel image of factor 8


class HunyuanDiT:
    """Satisfies :class:`qsd.zoo.diffusion.Miniature`."""

    factor = 8  # the pipeline assumes it when it lays out positions
    recipe = Recipe(cycles=((2500, 2e-3),), batch=64)
    autoencoder_of: str | None = None

    def __init__(self, device: torch.device) -> None:
        self.tokenizer, self.tokenizer_2 = bert_tokenizer(), t5_tokenizer()
        self.text_encoder_2 = pretrained(T5EncoderModel, "digits-pixart-alpha", "text_encoder").to(device)
        size = latent_size(self.factor)
        with device:
            self.text_encoder = _build_bert(len(self.tokenizer))
            self.transformer = HunyuanDiT2DModel(
                num_attention_heads=_HEADS,
                attention_head_dim=_HEAD_WIDTH,
                in_channels=LATENT_CHANNELS[self.factor],
                patch_size=1,
                sample_size=size,
                hidden_size=_HEADS * _HEAD_WIDTH,
                num_layers=_BLOCKS,
                activation_fn="gelu-approximate",
                cross_attention_dim=_TEXT_WIDTH,
                cross_attention_dim_t5=self.text_encoder_2.config.d_model,
                pooled_projection_dim=_TEXT_WIDTH,
                text_len=_BERT_LENGTH,
                text_len_t5=_T5_LENGTH,
                use_style_cond_and_image_meta_size=False,  # as in version 1.2
            )
        self.modules = nn.ModuleDict({"text_encoder": self.text_encoder, "transformer": self.transformer})
        self._tokens = self._tokenize(self.tokenizer, _BERT_LENGTH).to(device)
        tokens = self._tokenize(self.tokenizer_2, _T5_LENGTH).to(device)
        self._t5_mask = tokens.attention_mask
        self._t5 = self.text_encoder_2(tokens.input_ids, attention_mask=self._t5_mask)[0]
        crops = get_resize_crop_region_for_grid((size, size), _BASE_GRID)
        self._rotary = get_2d_rotary_pos_embed(
            _HEAD_WIDTH, crops, (size, size), device=device, output_type="pt"
        )

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Encodes the captions with BERT and predicts the noise (see the protocol).

        The second half of the output, a variance that the pipeline drops, stays untrained.
        """
        mask = self._tokens.attention_mask
        text = self.text_encoder(self._tokens.input_ids, attention_mask=mask)[
            0
        ]  # all captions: fewer than a batch
        predicted = self.transformer(
            noisy,
            timesteps.to(noisy.dtype),
            encoder_hidden_states=text[captions],
            text_embedding_mask=mask[captions],
            encoder_hidden_states_t5=self._t5[captions],
            text_embedding_mask_t5=self._t5_mask[captions],
            image_rotary_emb=self._rotary,
        ).sample
        return predicted.chunk(2, dim=1)[0]

    def pipeline(self, vae: AutoencoderKL) -> HunyuanDiTPipeline:
        """The stock pipeline around the trained parts, without a safety checker."""
        return HunyuanDiTPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.transformer,
            scheduler=sampler(),
            safety_checker=_NONE,
            feature_extractor=_NONE,
            requires_safety_checker=False,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
        )

    @staticmethod
    def _tokenize(tokenizer: PreTrainedTokenizerBase, length: int) -> BatchEncoding:
        return tokenizer(caption_table(), padding="max_length", max_length=length, return_tensors="pt")


def _build_bert(vocabulary: int) -> BertModel:
    """An untrained two-layer encoder for captions of a few words."""
    return BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * _TEXT_WIDTH,
            max_position_embeddings=_BERT_LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
