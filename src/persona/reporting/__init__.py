"""The report that compares all stages."""
