"""Recovery: train a pruned model to predict what the dense one predicts."""
