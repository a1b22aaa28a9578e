"""Verbs that read and write the output directory: prune, export, validate, benchmark, convert."""
