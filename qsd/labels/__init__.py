"""Jobs: probing, labeling and verifying configs, and the pools that run them."""

from qsd.labels.conditions import store_conditions
from qsd.labels.labeling import Run, jobs_of_stream, label, open_or_create
from qsd.labels.measurer import Job, Measured, Measurer
from qsd.labels.pool import Pool
from qsd.labels.probing import Prober, RunLayers, probe
from qsd.labels.verifying import verify

__all__ = [
    "Job",
    "Measured",
    "Measurer",
    "Pool",
    "Prober",
    "Run",
    "RunLayers",
    "jobs_of_stream",
    "label",
    "open_or_create",
    "probe",
    "store_conditions",
    "verify",
]
