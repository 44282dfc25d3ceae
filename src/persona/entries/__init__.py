"""Chooses which history entries a prompt shows."""
