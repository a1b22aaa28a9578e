"""Speculative decoding: a pruned model drafts tokens, and its dense one checks them."""
