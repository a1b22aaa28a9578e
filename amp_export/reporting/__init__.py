"""Reports, their formats, quality gates and comparisons."""
