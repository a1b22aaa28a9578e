"""Inputs that models are run on: texts, arrays, token batches and random inputs."""
