"""The Parquet tables of the workflow."""
