"""The output directory: its files, its manifest and how it is replaced."""
