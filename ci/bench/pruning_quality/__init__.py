"""What pruning costs in quality: the methods, the data, the measurements, and the page."""
