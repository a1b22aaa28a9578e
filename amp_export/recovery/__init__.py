"""Recovery: train a pruned model towards the dense one's predictions, or on instructions."""
