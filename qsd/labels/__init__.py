"""Images from a config and what they are worth, into a store."""

from qsd.labels.evaluator import LABELS, Evaluator, Measurement, headline
from qsd.labels.label import Run, jobs_of_stream, label, open_or_create
from qsd.labels.measurer import Job, Measurer, MeasurerPool
from qsd.labels.probe import Prober, ProberPool, RunLayers, probe
from qsd.labels.settings import EvaluationSettings
from qsd.labels.verify import verify

__all__ = [
    "LABELS",
    "EvaluationSettings",
    "Evaluator",
    "Job",
    "Measurement",
    "Measurer",
    "MeasurerPool",
    "Prober",
    "ProberPool",
    "Run",
    "RunLayers",
    "headline",
    "jobs_of_stream",
    "label",
    "open_or_create",
    "probe",
    "verify",
]
