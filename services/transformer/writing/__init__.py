"""Filling the feature store: tables are read by the column, packed as whole arrays, and written in atomic steps."""
