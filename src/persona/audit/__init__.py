"""Checks the data for leaks before anything is trained on it."""
