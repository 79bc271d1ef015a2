"""The tiny CLIP trained on (digit, caption) pairs, for the CLIP score.

The loss is the pairwise sigmoid of SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image
Pre-Training"), because several captions fit one image: ``a seven`` as well as ``a bold seven``.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from qsd.support.progress import Progress
from qsd.zoo.autoencoder import to_pixels
from qsd.zoo.captions import SLANTS, WEIGHTS, Attributes, all_captions, caption, parse
from qsd.zoo.classifier import shifted
from qsd.zoo.digits import IMAGE_SIZE, Digits, load_digits
from qsd.zoo.folders import write_folder, write_image_processor
from qsd.zoo.optimization import Batch, fit
from qsd.zoo.tokenizers import clip_tokenizer

_WIDTH, _PROJECTION, _LENGTH = 64, 32, 12
_BATCH = 64


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP of 16x16 images in 16 patches and captions of a few words."""
    tower = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 4}
    return CLIPModel(
        CLIPConfig(
            projection_dim=_PROJECTION,
            text_config=tower
            | {
                "projection_dim": _PROJECTION,
                "num_hidden_layers": 2,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": _LENGTH,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config=tower
            | {
                "projection_dim": _PROJECTION,
                "num_hidden_layers": 3,
                "image_size": IMAGE_SIZE,
                "patch_size": 4,
            },
        )
    )


def train_clip(
    out: Path,
    *,
    seed: int = 0,
    device: torch.device,
    progress: Progress | None = None,
    steps: int = 2000,
) -> dict[str, float]:
    """Trains on four fifths of the digits and writes the folder.

    Returns:
        ``loss``, ``held_out_digit_accuracy`` (among ten), ``held_out_weight_accuracy`` (among two),
        ``held_out_slant_accuracy`` (among three; both where the measurement is clear), ``bytes``.
    """
    digits = load_digits()
    tokenizer = clip_tokenizer(_LENGTH)
    torch.manual_seed(seed)
    with device:
        model = build_clip(tokenizer)
    bias = nn.Parameter(torch.tensor(-3.0, device=device))
    images = to_pixels(digits.rgb).to(device)
    fits, known = (table.to(device) for table in _caption_fits(digits))
    train = torch.nonzero(~digits.held_out)[:, 0].to(device)
    tokens = tokenizer(all_captions(), padding=True, return_tensors="pt").to(device)

    def draw() -> Batch:
        rows = train[torch.randint(len(train), (_BATCH,))]
        return shifted(images[rows]), fits[rows], known[rows]

    def loss(pixels: torch.Tensor, fitting: torch.Tensor, certain: torch.Tensor) -> torch.Tensor:
        logits = model(pixel_values=pixels, **tokens).logits_per_image + bias
        error = nn.functional.binary_cross_entropy_with_logits(logits, fitting, reduction="none")
        return (error * certain).sum() / certain.sum()

    final = fit(
        [*model.parameters(), bias],
        draw,
        loss,
        steps=steps,
        learning_rate=1e-3,
        weight_decay=0.05,
        progress=progress,
        message="CLIP",
    )
    model.eval()
    facts = {"loss": final} | held_out_accuracy(model, tokenizer, digits)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_image_processor(folder, "CLIPImageProcessor")

    return facts | {"bytes": write_folder(out, save)}


@torch.no_grad()
def held_out_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, digits: Digits) -> dict[str, float]:
    """How often the right digit, weight and slant win among their alternatives on the held-out digits."""
    tokens = tokenizer(all_captions(), padding=True, return_tensors="pt").to(model.device)
    rows = torch.nonzero(digits.held_out)[:, 0].tolist()
    images = to_pixels(digits.rgb[digits.held_out]).to(model.device)
    scores = model(pixel_values=images, **tokens).logits_per_image.cpu()
    column = {text: index for index, text in enumerate(all_captions())}
    hits: dict[str, list[bool]] = {"digit": [], "weight": [], "slant": []}

    def best(row: int, choices: list[str]) -> int:
        return int(scores[row, [column[text] for text in choices]].argmax())

    for row, index in enumerate(rows):
        digit, truth = int(digits.classes[index]), digits.attributes[index]
        hits["digit"].append(best(row, [caption(d, Attributes()) for d in range(10)]) == digit)
        if truth.weight:
            choices = [caption(digit, Attributes(weight=word)) for word in WEIGHTS]
            hits["weight"].append(WEIGHTS[best(row, choices)] == truth.weight)
        if truth.slant:
            choices = [caption(digit, Attributes(slant=word)) for word in SLANTS]
            hits["slant"].append(SLANTS[best(row, choices)] == truth.slant)
    return {f"held_out_{name}_accuracy": sum(hit) / len(hit) for name, hit in hits.items()}


def _caption_fits(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each caption fits each digit, and whether that is known; float32 [N, 120] both.

    It is unknown where the caption states an attribute whose measurement is unclear.
    """
    meanings = [parse(text) for text in all_captions()]
    fits = torch.zeros(len(digits.classes), len(meanings))
    known = torch.ones_like(fits)
    for row, (truth, measured) in enumerate(zip(digits.classes.tolist(), digits.attributes, strict=True)):
        for column, (digit, stated) in enumerate(meanings):
            pairs = ((stated.weight, measured.weight), (stated.slant, measured.slant))
            agrees = all(said is None or said == seen for said, seen in pairs)
            unclear = any(said is not None and seen is None for said, seen in pairs)
            fits[row, column] = float(digit == truth and agrees)
            known[row, column] = float(digit != truth or not unclear)
    return fits, known
