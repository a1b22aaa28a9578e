"""Commands as functions on an output directory: prune, export, validate, benchmark, convert."""
