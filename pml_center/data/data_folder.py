"""Where things are kept that need not be made or fetched again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where embeddings are kept: ``PML_CENTER_CACHE``, or ``pml-center`` in the user's folder of caches."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PML_CENTER_CACHE") or Path(home) / "pml-center")


def data_folder(root: str | Path | None = None) -> Path:
    """Where data sets by name lie: the root that was given, or ``data`` in :func:`cache_folder`."""
    return cache_folder() / "data" if root is None else Path(root).expanduser()
