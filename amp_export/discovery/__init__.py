"""Find out the facts of an architecture from transformers' class, on tiny random copies, and prove them."""
