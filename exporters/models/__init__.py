"""Runs exported decoders, encoders and encoder-decoders, in any runtime."""
