"""Images from a config and what they are worth, into a store."""

from qsd.labels.evaluator import LABELS, Evaluator, Measurement, headline
from qsd.labels.label import Run, jobs_of_stream, label, open_or_create
from qsd.labels.measurer import Job, Measured, Measurer
from qsd.labels.pool import Pool
from qsd.labels.probe import Prober, RunLayers, probe
from qsd.labels.settings import EvaluationSettings
from qsd.labels.verify import verify

__all__ = [
    "LABELS",
    "EvaluationSettings",
    "Evaluator",
    "Job",
    "Measured",
    "Measurement",
    "Measurer",
    "Pool",
    "Prober",
    "Run",
    "RunLayers",
    "headline",
    "jobs_of_stream",
    "label",
    "open_or_create",
    "probe",
    "verify",
]
