"""Find, read, load, hash and write checkpoints."""
