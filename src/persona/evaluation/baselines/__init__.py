"""Baselines without a language model. They are fitted on the training texts, tuned on val and scored on test."""
