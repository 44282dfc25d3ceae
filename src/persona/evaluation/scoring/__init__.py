"""Likelihoods of texts under prompts."""
