"""Configs: one option per weight layer, as documents and as random draws."""
