"""The tiny CLIP trained on pictures of emoji and their captions, for the CLIP score.

The loss is CLIP's own (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision"): every caption belongs to one picture.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.emoji.classifier import jittered
from qsd.zoo.emoji.dataset import IMAGE_SIZE, EmojiData, load_emoji
from qsd.zoo.emoji.text import TEXT_LENGTH, emoji_bert_tokenizer
from qsd.zoo.folders import write_folder, write_image_processor
from qsd.zoo.optimization import Batch, fit

_WIDTH, _PROJECTION = 64, 48
_BATCH = 64


def train_emoji_clip(
    out: Path, *, seed: int = 0, device: torch.device, progress: Progress | None = None, steps: int = 1800
) -> dict[str, float]:
    """Trains on all pictures but the held-out ones and writes the folder.

    Returns:
        ``loss``, ``train_caption_accuracy`` (own caption among all of training), ``held_out_style_accuracy``
        (own style among two), ``bytes``.
    """
    emoji = load_emoji()
    known = emoji.where(~emoji.held_out)
    tokenizer = emoji_bert_tokenizer()
    torch.manual_seed(seed)
    with device:
        model = _build_clip(tokenizer)
    images = to_pixels(known.images).to(device)
    tokens = tokenizer(known.captions, padding=True, return_tensors="pt").to(device)
    ids, mask = tokens.input_ids, tokens.attention_mask

    def draw() -> Batch:
        rows = torch.randperm(len(images))[:_BATCH].to(device)
        return jittered(images[rows]), ids[rows], mask[rows]

    def loss(pixels: torch.Tensor, text: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        logits = model(pixel_values=pixels, input_ids=text, attention_mask=attended).logits_per_image
        own = torch.arange(len(logits), device=device)
        return (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2

    final = fit(
        model.parameters(),
        draw,
        loss,
        steps=steps,
        learning_rate=1e-3,
        weight_decay=0.05,
        resume=out.with_name(f"{out.name}.training"),
        progress=progress,
        message="CLIP",
    )
    model.eval()
    facts = {
        "loss": final,
        "train_caption_accuracy": _own_caption(model, tokenizer, known),
        "held_out_style_accuracy": _own_style(model, tokenizer, emoji.where(emoji.held_out)),
    }

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_image_processor(folder, "CLIPImageProcessor", IMAGE_SIZE)

    return facts | {"bytes": write_folder(out, save)}


@torch.no_grad()
def _scores(model: CLIPModel, tokenizer: BertTokenizer, emoji: EmojiData) -> torch.Tensor:
    """Logits [pictures, captions]."""
    tokens = tokenizer(emoji.captions, padding=True, return_tensors="pt").to(model.device)
    pixels = to_pixels(emoji.images).to(model.device)
    return model(
        pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
    ).logits_per_image


def _own_caption(model: CLIPModel, tokenizer: BertTokenizer, emoji: EmojiData) -> float:
    best = _scores(model, tokenizer, emoji).argmax(1).cpu()
    return (best == torch.arange(len(emoji))).float().mean().item()


def _own_style(model: CLIPModel, tokenizer: BertTokenizer, emoji: EmojiData) -> float:
    """Both styles of a code point are neighbours."""
    scores = _scores(model, tokenizer, emoji).cpu()
    rows = torch.arange(len(emoji))
    return (scores[rows, rows] > scores[rows, rows ^ 1]).float().mean().item()


def _build_clip(tokenizer: BertTokenizer) -> CLIPModel:
    """An untrained CLIP of 32x32 images in 16 patches."""
    tower = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 4}
    text = {
        "projection_dim": _PROJECTION,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "projection_dim": _PROJECTION,
        "num_hidden_layers": 3,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }
    return CLIPModel(
        CLIPConfig(projection_dim=_PROJECTION, text_config=tower | text, vision_config=tower | vision)
    )
