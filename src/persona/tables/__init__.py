"""Schemas, reading and writing of the Parquet tables of the workflow."""
