"""Images of a config and what they are worth: prompts, references, drawing, metrics, the image grid."""

from qsd.evaluation.evaluator import LABELS, Evaluator, Measurement, headline
from qsd.evaluation.settings import EvaluationSettings

__all__ = ["LABELS", "EvaluationSettings", "Evaluator", "Measurement", "headline"]
