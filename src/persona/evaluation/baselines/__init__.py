"""Baselines without a language model. They are fitted on the training users, tuned on val and scored on test."""
