"""A Gaussian process over configs on what their options do alone: errors are vectors, they add or cancel.

To first order a config changes the drawn images by the sum of the changes that its options make alone, and
those are measured on a few images (:mod:`qsd.labels.probing`). How much damage such a change is, the labels
tell. A prediction has two parts:

    a slope times the logarithm of the length of the change, in latents, features and their mean;
    a process in which configs are alike that change the images alike, over spaces s:
    covariance of configs a and b = variance * exp(-sum of scale[s] * |change[s, a] - change[s, b]|^2)

(Rasmussen and Williams, "Gaussian processes for machine learning", 2006, sections 2.7 and 4.2). There are few
hyper-parameters, whatever the number of layers: a slope and a scale per space, the latter more or less in
each of up to four bands of coordinates, and three more. What is expected of them is set by
:class:`ResponseSettings`, which can also give predictions a third part: a quadratic form of the direction of
the change, whose covariance is the squared cosine of two changes (section 4.2.2). Damage that is a quadratic
form of the change is its squared length times a form of its direction, so its logarithm is a sum.
"""

import dataclasses
import itertools
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qsd.ranker.evidence import MEAN_VARIANCE, Slopes, most_likely
from qsd.store import Responses
from qsd.support.errors import QsdError

_SLOPE, _PROCESS = 0.3, 0.5  # variances expected, of a target of variance 1
_SCALE = 0.3  # of the mean squared distance of two configs
OFFSET = 1.0
"""Prior variance, in a standardized target, of what all labels of one number of images have in common: FID on
few images is larger."""
_SHORTEST = 1e-30  # squared length of a change, so that it has a logarithm
_BAND_ENDS = (4, 16, 64)  # coordinates; the last band is the rest


@dataclasses.dataclass(frozen=True)
class ResponseSettings:
    """How a process looks at changes, and what it expects before it has seen a label.

    Attributes:
        spaces: by name, how many times as much as usual a space is expected to matter, in its slope and in
            its scale; 1 where nothing is said. Many labels overrule it.
        bands: how far the scales of a space's bands of coordinates (the foremost 4, the 12 after them, the 48
            after those, the rest) are expected to be from that of the space: standard deviation of the
            logarithm of their ratio; with 0 there is one scale.
        quadratic: variance expected, of a target of variance 1, of quadratic forms of the direction of a
            change, one per space; with 0 there are none.
        noise: variance expected of what configs do not explain, of a target of variance 1.
        deviation: standard deviation of the logarithms of all other hyper-parameters around what is expected.
    """

    spaces: dict[str, float] = dataclasses.field(default_factory=dict)
    bands: float = 0.3
    quadratic: float = 0.0
    noise: float = 0.03
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if min(self.bands, self.quadratic) < 0 or min(self.noise, self.deviation, *self.spaces.values()) <= 0:
            raise QsdError(
                f"responses: {self} has bands or quadratic below 0 or another number that is not positive"
            )


@dataclasses.dataclass(frozen=True)
class ResponseModel:
    """S spaces, L layers, O options, d coordinates, n training records.

    Attributes:
        change: float64 [S, L, O, d], by option, in units in which squared distances are exponents.
        scale: float64 [S, d], square of these units, in which lengths are not taken.
        slope: float64 [S], by the logarithm of the squared length of a config's change.
        constant: of the prediction.
        known: float64 [S, n, d], changes of the training configs.
        form: float64 [S], variance of the quadratic form in each space, of one of the process.
        weight: float64 [n], of the similarities to them.
        power: of the warping of the standardized target.
        left_out: float64 [n], warped prediction of each record by the same model without that record.
        trend: float64 [S], variances of the slopes on standardized logarithms of lengths.
        length_mean: float64 [S], mean of these logarithms over the training configs.
        length_std: float64 [S], their standard deviation.
        process: variance of the process.
        noise: variance of what configs do not explain, of a label on the most images.
    """

    change: np.ndarray
    scale: np.ndarray
    slope: np.ndarray
    constant: float
    known: np.ndarray
    form: np.ndarray
    weight: np.ndarray
    power: float
    left_out: np.ndarray
    trend: np.ndarray
    length_mean: np.ndarray
    length_std: np.ndarray
    process: float
    noise: float

    def __call__(self, configs: np.ndarray) -> np.ndarray:
        """Warped predictions, float64 [m], of configs int8 [m, L]."""
        constant = np.array(self.constant)
        parts = (self.change, self.scale, self.slope, constant, self.known, self.form, self.weight)
        return predict(torch.from_numpy(configs), *map(torch.from_numpy, parts)).numpy()


def predict(
    configs: Tensor,
    change: Tensor,
    scale: Tensor,
    slope: Tensor,
    constant: Tensor,
    known: Tensor,
    form: Tensor,
    weight: Tensor,
) -> Tensor:
    """Warped predictions, float [m], of integer configs [m, L]; the rest as in :class:`ResponseModel`."""
    changes = total_change(configs, change)
    alike = torch.exp(-squared_distances(changes, known).sum(dim=0))
    if form.any():
        one, other = (unit_length(some / scale.sqrt().unsqueeze(-2)) for some in (changes, known))
        alike = alike + torch.einsum("s,smn->mn", form, (one @ other.mT).square())
    return constant + slope @ log_length(changes, scale) + alike @ weight


def total_change(configs: Tensor, change: Tensor) -> Tensor:
    """Sums over the layers of integer configs [m, L] of the changes [S, L, O, d], float [S, m, d]."""
    chosen = F.one_hot(configs.long(), change.shape[2]).flatten(1).to(change.dtype)
    return chosen @ change.flatten(1, 2)


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Of points [S, m, d] and [S, n, d], float [S, m, n]."""
    lengths = one.square().sum(dim=-1)[..., :, None] + other.square().sum(dim=-1)[..., None, :]
    return (lengths - 2 * one @ other.mT).clamp_min(0)


def fit_response_model(
    responses: Responses,
    configs: np.ndarray,
    target: np.ndarray,
    settings: ResponseSettings = ResponseSettings(),
    num_images: np.ndarray | None = None,
) -> ResponseModel:
    """Fits on training records.

    Args:
        responses: measured for all layers.
        configs: int8 [n, L].
        target: float64 [n], standardized.
        settings: expectations and bands.
        num_images: int [n], of each label; the variance of its noise is inversely proportional to it. None:
            all alike. Predictions are of labels on the most images.

    Raises:
        QsdError: the settings name a space that the store was not probed in.
    """
    matter = _expected(responses, settings.spaces)
    spaces = [torch.from_numpy(values.astype(np.float64)) for values in responses.spaces.values()]
    widest = max(values.shape[-1] for values in spaces)
    alone = torch.stack([F.pad(values, (0, widest - values.shape[-1])) for values in spaces])
    changes = total_change(torch.from_numpy(configs), alone)
    unit = squared_distances(changes, changes).mean(dim=(1, 2)).clamp_min(_SHORTEST)
    bands = _bands(len(spaces), widest, settings.bands > 0)
    owner = np.array([space for space, _ in bands])
    ratios = np.ones(len(bands) if settings.bands else 0)  # expected, of scales of bands to those of spaces
    apart = np.stack(
        [
            (squared_distances(some, some)[0] / unit[space]).numpy()
            for space, part in bands
            for some in [changes[space : space + 1, :, part]]
        ]
    )
    lengths = log_length(changes, torch.ones(1)).numpy()
    length_mean, length_std = lengths.mean(axis=1), np.maximum(lengths.std(axis=1), 1e-12)
    standardized = (lengths - length_mean[:, None]) / length_std[:, None]
    trends = np.einsum("si,sj->sij", standardized, standardized)
    count = len(spaces)
    if settings.quadratic:
        directions = unit_length(changes)
        trends = np.concatenate([trends, (directions @ directions.mT).square().numpy()])

    counts = ImageCounts.of(num_images, len(target))

    def by_kind(values: np.ndarray) -> tuple[np.ndarray, float, float, np.ndarray]:
        """Of hyper-parameters: those of trends, variances of process and noise, scales of all bands."""
        at = np.cumsum([len(trends), 2, count])
        of_trends, (process, noise), scales, by_band = np.split(values, at)
        return of_trends, process, noise, scales[owner] * (by_band if len(ratios) else 1.0)

    def covariance(logs: np.ndarray) -> tuple[np.ndarray, Slopes]:
        of_trends, process, noise, scales = by_kind(np.exp(logs))
        alike = process * np.exp(-np.tensordot(scales, apart, 1))
        matrix = np.tensordot(of_trends, trends, 1) + alike + noise * np.diag(counts.noise) + counts.offset

        def by_logs(by: np.ndarray) -> np.ndarray:
            pulled = by * alike
            by_trends = of_trends * np.tensordot(trends, by, 2)
            by_bands = -scales * np.tensordot(apart, pulled, 2)
            by_others = [pulled.sum(), noise * (np.diag(by) @ counts.noise)]
            return np.concatenate(
                [by_trends, by_others, np.bincount(owner, by_bands), by_bands[: len(ratios)]]
            )

        return matrix, by_logs

    of_trends = np.concatenate([_SLOPE * matter, settings.quadratic * matter])[: len(trends)]
    expected = np.concatenate([of_trends, [_PROCESS, settings.noise], _SCALE * matter, ratios])
    deviation = np.repeat([settings.deviation, settings.bands], [len(expected) - len(ratios), len(ratios)])
    found = most_likely(covariance, target, expected, deviation)
    of_trends, process, noise, scales = by_kind(found.values)
    scale = torch.zeros(count, widest, dtype=torch.float64)
    for (space, part), value in zip(bands, scales.tolist(), strict=True):
        scale[space, part] = value / unit[space]
    slope = of_trends[:count] * (standardized @ found.weights) / length_std
    return ResponseModel(
        change=(alone * scale.sqrt()[:, None, None]).numpy(),
        scale=scale.numpy(),
        slope=slope,
        constant=float((MEAN_VARIANCE + counts.of_most) @ found.weights - slope @ length_mean),
        known=(changes * scale.sqrt()[:, None]).numpy(),
        form=np.pad(of_trends[count:], (0, 2 * count - len(of_trends))) / process,
        weight=process * found.weights,
        power=found.power,
        left_out=found.left_out,
        trend=of_trends[:count],
        length_mean=length_mean,
        length_std=length_std,
        process=process,
        noise=noise,
    )


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """What the numbers of images behind n labels mean for their covariance.

    Attributes:
        noise: float64 [n], variance of the noise of each label, relative to that of one on the most images.
        offset: float64 [n, n], covariance of what labels of one number of images have in common.
        of_most: float64 [n], the same with a label on the most images.
    """

    noise: np.ndarray
    offset: np.ndarray
    of_most: np.ndarray

    @classmethod
    def of(cls, num_images: np.ndarray | None, count: int) -> Self:
        """Of n labels; where all are on equally many images there is no offset."""
        if num_images is None or len(np.unique(num_images)) < 2:
            return cls(np.ones(count), np.zeros((count, count)), np.zeros(count))
        images = np.maximum(np.asarray(num_images, np.float64), 1.0)
        same = images[:, None] == images
        return cls(images.max() / images, OFFSET * same, OFFSET * (images == images.max()))


def _expected(responses: Responses, spaces: dict[str, float]) -> np.ndarray:
    """How much each space is expected to matter, float64 [S]."""
    for name, factor in spaces.items():
        if name not in responses.spaces and factor != 1:  # 1 says nothing, as of videos without features
            raise QsdError(
                f"model.responses.spaces: no space {name!r}: the store was probed in "
                f"{', '.join(responses.spaces)}; name these alone, or none"
            )
    return np.array([spaces.get(name, 1.0) for name in responses.spaces])


def _bands(num_spaces: int, width: int, several: bool) -> list[tuple[int, slice]]:
    """(space, coordinates) of every scale."""
    ends = [end for end in _BAND_ENDS if several and end < width]
    return [
        (space, slice(*pair)) for space in range(num_spaces) for pair in itertools.pairwise([0, *ends, width])
    ]


def unit_length(changes: Tensor) -> Tensor:
    """Changes [..., d] of length 1."""
    return F.normalize(changes, dim=-1)


def log_length(changes: Tensor, scale: Tensor) -> Tensor:
    """Logarithm of the squared length of changes [S, m, d] in units of square ``scale``, float [S, m]."""
    return (changes.square() / scale.unsqueeze(-2)).sum(dim=-1).clamp_min(_SHORTEST).log()
