"""AMP pruning: score, plan, slice and rewrite a model, and check the reloaded checkpoint."""
