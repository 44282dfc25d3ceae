"""Teach a language model to write what one particular user would write next."""

__version__ = "0.1.0"
