"""AMP: score, plan, slice, rewrite and check what a reload computes."""
