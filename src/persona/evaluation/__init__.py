"""Scores, generated texts, metrics, baselines and comparisons."""
