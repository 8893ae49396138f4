"""Comparison: which of several losses is best on given images, by how much, and whether the difference is real."""

from pml_center.names import require

require(__name__, "jinja2", "matplotlib", "scipy", "tqdm", "yaml")
