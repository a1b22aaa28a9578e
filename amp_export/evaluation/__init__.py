"""Measures the quality of language models on tasks, text and prompts, and compares two of them."""
