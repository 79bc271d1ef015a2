"""What settings of an evaluation are by content: equal if the same is measured, wherever its files lie."""

import dataclasses
from typing import Any

from torch import nn

from qsd.denoisers.identity import component_identity
from qsd.evaluation.extractors import ClassifierFeatures, clip_loader, load_features
from qsd.evaluation.given import by_content
from qsd.evaluation.pictures import pictures_hash
from qsd.evaluation.settings import EvaluationSettings
from qsd.support.hashing import json_hash

_NO_CONTENT = (
    *("noise_seed", "holdout_prompts", "holdout_classes", "holdout_reference"),
    *("prompts_column", "classes_column"),
)


def settings_content(settings: EvaluationSettings) -> dict[str, Any]:
    """Settings in which hashes of content stand for all paths.

    Prompts and classes count up to ``num_images``, in whatever kind of file they stand; real images by their
    files' bytes in the order of names; a classifier or a CLIP model by configuration, weights and
    preprocessing. The seed of the noise is left out: every record has its own.

    Raises:
        QsdError: something that the settings name is missing or unusable.
    """
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _NO_CONTENT}
    if not settings.compile:
        del values["compile"]  # as stores do that know of none
    values["prompts"] = None if settings.prompts is None else json_hash(settings.load_prompts())
    values["call"] = by_content(settings.call, settings.num_images) or None
    values["images"] = (
        None if settings.images is None else pictures_hash(settings.images, settings.num_images)
    )
    classes = settings.load_classes()
    values["classes"] = None if classes is None else json_hash(classes)
    values["clip"] = None if settings.clip is None else clip_content(settings.clip)
    if settings.reference is None:
        unused = ("reference", "features", "classes", "kid_subset_size", "kid_subsets")
        return values | dict.fromkeys(unused)
    reference = settings.open_reference()
    return values | {
        "reference": reference.content_hash(),
        "features": features_content(settings.features),
        "kid_subset_size": settings.subset_size(len(reference)),
    }


def features_content(name: str) -> dict[str, str]:
    """Identity of a feature extractor, see :func:`qsd.evaluation.extractors.load_features`."""
    return extractor_content(name, load_features(name))


def extractor_content(name: str, features: nn.Module) -> dict[str, str]:
    """The same of an extractor that is loaded."""
    if isinstance(features, ClassifierFeatures):
        preprocessing = json_hash(component_identity(features.processor))
        return component_identity(features.model) | {"preprocessing": preprocessing}
    return {"class": name}


def clip_content(name: str) -> dict[str, str]:
    """Identity of a CLIP model, see :func:`qsd.evaluation.extractors.clip_loader`."""
    model, processor = clip_loader(name)()
    parts = [component_identity(part) for part in (processor.image_processor, processor.tokenizer)]
    return component_identity(model.model) | {"preprocessing": json_hash(parts)}
