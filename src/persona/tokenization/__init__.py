"""Prompts -> token ids."""
