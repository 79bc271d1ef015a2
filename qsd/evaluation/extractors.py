"""Feature extractors for FID, KID, agreement and the CLIP score, frozen and in evaluation mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoTokenizer,
    CLIPModel,
    CLIPProcessor,
)

from qsd.evaluation.settings import INCEPTION_SIZES
from qsd.support.errors import QsdError, first_line
from qsd.support.paths import find
from qsd.support.quiet import quiet


class ClassifierFeatures(nn.Module):
    """The pooled penultimate features and the logits of a transformers image classifier."""

    def __init__(self, folder: str) -> None:
        """Loads the classifier.

        Raises:
            QsdError: the folder holds none.
        """
        super().__init__()
        try:
            path = find(folder)
            with quiet():
                self.model = AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32)
                self.processor = AutoImageProcessor.from_pretrained(path)
        except Exception as error:  # transformers raises many kinds; all mean "cannot open"
            raise QsdError(
                f"{folder}: no transformers image classifier ({first_line(error)}); give a folder of one, "
                "or inception-2048"
            ) from error
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, F] and logits [B, K] of uint8 images [B, 3, H, W]."""
        pixels = self.processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"]
        pooled = self.model.base_model(pixels.to(self.model.device)).pooler_output.flatten(1)
        return pooled, self.model.classifier(pooled)


class InceptionFeatures(nn.Module):
    """The Inception-v3 features that published FIDs are measured on; no logits."""

    def __init__(self, size: int) -> None:
        """Loads the network through torch-fidelity, which downloads its weights once.

        Raises:
            QsdError: torch-fidelity is not installed.
        """
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.model = NoTrainInceptionV3(name="inception-v3-compat", features_list=[str(size)])
        except (ImportError, ModuleNotFoundError) as error:
            raise QsdError("inception features need torch-fidelity; `pip install torch-fidelity`") from error

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Features [B, size] of uint8 images [B, 3, H, W]."""
        return self.model(images.to(next(self.model.parameters()).device)), None


def load_features(name: str) -> nn.Module:
    """The extractor of a settings' ``features``: a classifier folder or ``inception-SIZE``.

    Raises:
        QsdError: neither.
    """
    if name.startswith("inception-"):
        size = name.removeprefix("inception-")
        if size not in map(str, INCEPTION_SIZES):
            raise QsdError(f"{name}: inception features have sizes {', '.join(map(str, INCEPTION_SIZES))}")
        return InceptionFeatures(int(size))
    return ClassifierFeatures(name)


def feature_width(name: str) -> int | None:
    """Numbers per image of a settings' ``features``; None where the classifier does not say."""
    if name.startswith("inception-"):
        return int(name.removeprefix("inception-"))
    sizes = getattr(AutoConfig.from_pretrained(find(name), local_files_only=True), "hidden_sizes", None)
    return int(sizes[-1]) if sizes else None


class _TensorClip(nn.Module):
    """A CLIP model whose features are plain tensors, as torchmetrics expects them.

    Features of texts are kept: all configs are compared with the same prompts, batch by batch.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._texts: dict[tuple[Any, ...], torch.Tensor] = {}

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return _pooled(self.model.get_image_features(pixel_values))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = (input_ids.cpu().numpy().tobytes(), attention_mask.cpu().numpy().tobytes())
        known = (input_ids.device, input_ids.shape, *tokens)
        if known not in self._texts:
            self._texts[known] = _pooled(self.model.get_text_features(input_ids, attention_mask))
        return self._texts[known]


class CutToLength:
    """A CLIP processor that cuts long prompts as their tokenizer does, keeping the end token.

    torchmetrics cuts tokens off the end instead, and CLIP reads a text's features at the end token.
    """

    def __init__(self, processor: CLIPProcessor, limit: int) -> None:
        self.processor = processor
        self.limit = limit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("text") is not None:
            kwargs |= {"truncation": True, "max_length": self.limit}
        return self.processor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def count_long(self, prompts: list[str]) -> int:
        """How many prompts have more tokens than CLIP reads."""
        tokens = self.processor.tokenizer(prompts, truncation=False)["input_ids"]
        return sum(len(some) > self.limit for some in tokens)


def _pooled(output: Any) -> torch.Tensor:
    """transformers 5 wraps projected features in an output object, 4 returns the tensor."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def clip_loader(name: str) -> Callable[[], tuple[Any, Any]]:
    """What :class:`torchmetrics.multimodal.CLIPScore` calls to get its model and processor.

    Args:
        name: folder, shipped folder, or hub id.

    Raises:
        QsdError: there is no CLIP model of that name (when called).
    """

    def load() -> tuple[Any, Any]:
        try:
            folder = str(find(name))
        except QsdError:
            folder = name  # a hub id
        try:
            with quiet():
                model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
                processor = CLIPProcessor(
                    AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
                )
        except Exception as error:  # transformers raises many kinds; all mean "cannot open"
            raise QsdError(f"{name}: no CLIP model ({first_line(error)}); give a folder or hub id") from error
        return _TensorClip(model), CutToLength(processor, model.config.text_config.max_position_embeddings)

    return load
