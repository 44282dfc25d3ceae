"""Raw data sets -> tables."""
