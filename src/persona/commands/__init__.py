"""The commands of `python -m persona`: their options, and what they print."""
