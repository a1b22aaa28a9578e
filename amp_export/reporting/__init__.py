"""Reports, their forms, quality gates and comparisons."""
