"""Checks for data leaks."""
