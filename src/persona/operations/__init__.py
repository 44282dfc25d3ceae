"""The commands of `python -m persona`: status, disk, cancel."""
