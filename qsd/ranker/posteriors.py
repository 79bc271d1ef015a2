"""One posterior per label of a store, fitted on all records that may be learned from, and its files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qsd.ranker.additive import fit_additive_model
from qsd.ranker.ensemble import Ensemble
from qsd.ranker.features import GraphFeatures
from qsd.ranker.metrics import calibration
from qsd.ranker.predictors import (
    AdditivePredictor,
    CorrectedPredictor,
    EnsemblePredictor,
    LabelPredictor,
    LengthPredictor,
    ProcessPredictor,
    calibration_factor,
    scores_of,
)
from qsd.ranker.process import Kernel, ResponseProcess, stacked
from qsd.ranker.responses import ResponseSettings, fit_response_model
from qsd.ranker.scale import Scale
from qsd.ranker.store_data import StoreData
from qsd.store import Header, Responses

TARGET = "target"
"""The name under which the target is predicted, beside the labels."""
FEWEST = 8
"""With fewer labels than these the length of the probed change predicts alone."""
_MOST = 2000  # records of a process; its cost grows with their cube

Posteriors = dict[str, LabelPredictor]
"""By label name, and :data:`TARGET`."""


def fit_posteriors(
    members: Ensemble, data: StoreData, store: int = 0, settings: ResponseSettings | None = None
) -> Posteriors:
    """Fits the posterior of the target and of every label.

    The closed form of the ranker predicts each: a process on responses where the store was probed, else a
    sum over layers. The target of a ranker without closed form is predicted by its members. Where members
    correct the closed form of the target, their mean correction is added to its mean.

    Args:
        members: trained and calibrated; empty where there were too few labels for networks.
        data: the store's records; training and validation records are learned from.
        store: its position among those that the members know.
        settings: of processes; None for the usual ones.
    """
    settings = settings or ResponseSettings()
    known = data.known_rows().numpy()
    target = data.targets[:, 0].double().numpy()[known]
    alone = stacked(data.responses) if data.responses is not None else None
    if len(known) < FEWEST and data.responses is not None:
        return length_posteriors(data.responses)
    first = next(iter(members), None)
    posteriors: Posteriors = {}
    if first is not None and first.network.settings.closed_form == "none":
        posteriors[TARGET] = _of_ensemble(members, data, store)
        alone = None
    else:
        responds = first is None or first.network.settings.closed_form == "responses"
        base = _of_label(data, known, target, False, alone if responds else None, settings)
        corrects = first is not None and float(first.graph_share[store]) > 0
        posteriors[TARGET] = CorrectedPredictor(base, members, data.graph, store) if corrects else base
        alone = alone if responds else None
    for column, label in enumerate(data.header.labels):
        if not data.predicts(label.name):
            continue
        values = data.labels[known, column]
        present = np.isfinite(values)
        if present.sum() < FEWEST or np.ptp(values[present]) <= 1e-12 * np.abs(values[present]).max():
            continue
        ever = data.labels[:, column]  # an estimate such as KID may fall below zero in a single record
        positive = not label.larger_is_better and bool((ever[np.isfinite(ever)] > 0).all())
        posteriors[label.name] = _of_label(data, known[present], values[present], positive, alone, settings)
    return posteriors


def length_posteriors(responses: Responses) -> Posteriors:
    """What a probed store without labels says of the target and of ``latent_mse``."""
    latents = np.nan_to_num(responses.spaces["latents"].astype(np.float64))
    space = np.nan_to_num(responses.spaces.get("features", responses.spaces["latents"]).astype(np.float64))
    return {TARGET: LengthPredictor(space), "latent_mse": LengthPredictor(latents, sign=1)}


def _of_label(
    data: StoreData,
    rows: np.ndarray,
    values: np.ndarray,
    log: bool,
    alone: torch.Tensor | None,
    settings: ResponseSettings,
) -> ProcessPredictor | AdditivePredictor:
    configs = data.configs[rows].numpy().astype(np.int16)
    scale = Scale.of(values, log=log)
    standardized = scale.standardized(values)
    if alone is None or data.responses is None:
        additive = fit_additive_model(data.header, configs, standardized)
        scale = dataclasses.replace(scale, power=additive.power)
        missed = scale.warped(values) - additive.left_out
        common = float(missed.var())
        factor = calibration_factor(missed, np.full(len(missed), common))
        return AdditivePredictor(additive.table, factor * common, scale)
    counts = None if data.num_images is None else data.num_images[rows].astype(np.int64)
    if len(rows) > _MOST:
        few = np.random.default_rng(0).permutation(len(rows))[:_MOST]
        configs, values, standardized = configs[few], values[few], standardized[few]
        counts = None if counts is None else counts[few]
    model = fit_response_model(data.responses, configs, standardized, settings, counts)
    scale = dataclasses.replace(scale, power=model.power)
    warped = scale.warped(values)
    process = ResponseProcess(alone, configs, warped, Kernel.fitted(model), counts)
    mean, variance = process.left_out(warped)
    factor = calibration_factor(warped - mean, variance)
    return ProcessPredictor(process, scale, factor, configs, warped, counts)


def _of_ensemble(members: Ensemble, data: StoreData, store: int) -> EnsemblePredictor:
    """Calibrated on validation records: each is predicted by the member that did not learn from it."""
    missed, disagreement = [], []
    target = data.targets[:, 0].double().numpy()
    for index, _ in enumerate(members):
        rows = data.validation_rows(index).numpy()
        scores = scores_of(members, data.graph, data.configs[rows].numpy(), store)
        missed.append(target[rows] - scores[index])
        disagreement.append(scores.var(axis=0))
    deviation, variance = np.concatenate(missed), np.concatenate(disagreement)
    # least squares of squared errors on the variance over members, neither part below a tenth of the mean
    floor = 0.1 * float(np.mean(deviation**2))
    slope = max(float(np.cov(variance, deviation**2)[0, 1] / max(variance.var(), 1e-300)), 0.0)
    constant = max(float(np.mean(deviation**2) - slope * variance.mean()), floor)
    factor = calibration_factor(deviation, slope * variance + constant)
    return EnsemblePredictor(members, data.graph, store, factor * slope, factor * constant)


def describe_posteriors(
    posteriors: Posteriors, responses: Responses | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The arrays of a store's posteriors, and their JSON part."""
    tensors = {
        f"{name}|{key}": np.ascontiguousarray(value)
        for name, predictor in posteriors.items()
        for key, value in predictor.tensors().items()
    }
    if responses is not None and any(predictor.kind == "process" for predictor in posteriors.values()):
        for place, (name, values) in enumerate(
            responses.spaces.items()
        ):  # kernels know spaces by their place
            tensors[f"responses|{place} {name}"] = values
    tensors["version"] = np.ones(1, np.int64)  # a file of safetensors holds at least one
    arrays = {name: torch.from_numpy(values) for name, values in tensors.items()}
    return arrays, {name: predictor.to_json() for name, predictor in posteriors.items()}


def load_posteriors(
    arrays: Mapping[str, torch.Tensor],
    document: Mapping[str, Any],
    members: Ensemble,
    header: Header,
    store: int,
) -> Posteriors:
    """The inverse of :func:`describe_posteriors`.

    Args:
        arrays: by name.
        document: the JSON part.
        members: of the ranker.
        header: of the store.
        store: its position among those that the members know.

    Raises:
        KeyError, TypeError, ValueError: they do not fit together.
    """
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        owner, _, name = key.rpartition("|")
        tensors.setdefault(owner, {})[name] = values.numpy()
    spaces = dict(sorted(tensors.get("responses", {}).items()))
    alone = stacked(Responses(spaces, 0, 0)) if spaces else None
    graph = GraphFeatures.of(header)
    posteriors: Posteriors = {}
    for name, data in document.items():
        own = tensors.get(name, {})
        posteriors[name] = _loaded(data, own, alone, members, graph, store)
    base, share = posteriors.get(TARGET), [float(member.graph_share[store]) for member in members]
    if isinstance(base, ProcessPredictor | AdditivePredictor) and any(share):
        posteriors[TARGET] = CorrectedPredictor(base, members, graph, store)
    return posteriors


def _loaded(
    data: Mapping[str, Any],
    tensors: dict[str, np.ndarray],
    alone: torch.Tensor | None,
    members: Ensemble,
    graph: GraphFeatures,
    store: int,
) -> LabelPredictor:
    match data["kind"]:
        case "process":
            if alone is None:
                raise ValueError("responses are missing")
            return ProcessPredictor.load(dict(data), tensors, alone)
        case "additive":
            return AdditivePredictor(tensors["table"], float(data["variance"]), Scale(**data["scale"]))
        case "ensemble":
            return EnsemblePredictor(members, graph, store, float(data["factor"]), float(data["variance"]))
        case "length":
            return LengthPredictor(tensors["change"], float(data["variance"]), int(data["sign"]))
    raise ValueError(f"unknown predictor {data['kind']!r}")


def coverage(posteriors: Posteriors, data: StoreData) -> dict[str, dict[str, float]]:
    """How calibrated each posterior is on the test records, by label."""
    test = data.test_rows().numpy()
    configs = data.configs[test].numpy().astype(np.int16)
    rows: dict[str, dict[str, float]] = {}
    for name, predictor in posteriors.items():
        truth = (
            data.targets[test, 0].double().numpy()
            if name == TARGET
            else data.labels[test, data.header.label_names.index(name)]
        )
        present = np.isfinite(truth)
        if present.sum() > 2:
            rows[name] = calibration(truth[present], predictor.posterior(configs[present]))
    return rows
