"""The table that most tests use."""

from qsd.quantizers import parse_options

SIX = parse_options(["uaq-3", "uaq-4", "kmeans_c-3", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4"])
