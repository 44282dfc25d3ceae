"""The report of all stages."""
