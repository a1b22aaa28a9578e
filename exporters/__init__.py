"""Export formats: one package per format, each with `export` and `run`."""
