"""What a request means for a model, worked out from its config alone."""
