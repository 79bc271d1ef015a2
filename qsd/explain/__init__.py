"""What makes configs good or bad: costs of layers, interactions, Shapley values, plots and reports."""

from qsd.explain.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
