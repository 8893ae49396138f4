"""Comparison: which of several losses is best on given images, by how much, and whether the difference is real."""
