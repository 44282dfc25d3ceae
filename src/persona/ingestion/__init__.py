"""Reads raw data sets into the tables `interactions`, `users`, `items` and `rejects`."""
