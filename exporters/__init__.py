"""Formats that a checkpoint can be exported to: one folder a format, each with `export` and `run`."""
