"""The output directory: its files, its manifest and its atomic replacement."""
