"""Golden values: what other implementations computed, in ``tests/golden/<loss>__<implementation>__<case>.npz``."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"


@dataclass
class Golden:
    """One file: its arrays by key, and what is known about how they were made."""

    name: str
    arrays: dict[str, np.ndarray]
    meta: dict

    def step(self, number: int) -> dict[str, np.ndarray]:
        """What belongs to one batch, without the prefix ``s<number>/``."""
        prefix = f"s{number}/"
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}

    def assert_close(self, key: str, value) -> None:
        """Equal up to the rounding that the official result itself shows when its inputs move by one ulp."""
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        official = self.arrays[key].astype(np.float64)
        value = value.astype(np.float64).reshape(official.shape)
        assert np.isfinite(value).all(), f"{self.name} {key}: not finite"
        if key in self.meta.get("version_dependent", {}):
            return
        known = np.isfinite(official)
        size = np.where(known, np.abs(official), 0.0)
        row = size.max(axis=-1, keepdims=True) if size.ndim > 1 else np.full(size.shape, size.max(initial=0.0))
        sensitivity = self.meta.get("ulp_sensitivity", {}).get(key, 0.0)
        allowed = 1e-8 * row + 100 * sensitivity * size.max(initial=0.0) + 1e-11
        error = np.abs(np.where(known, value - np.where(known, official, 0.0), 0.0))
        assert (error <= allowed).all(), f"{self.name} {key}: off by {error.max():.3e}, allowed {allowed.min():.3e}"


def load(name: str) -> Golden:
    """The file of that name, without its ending."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
        return Golden(name, arrays, json.loads(str(file["meta"])))


def names(pattern: str) -> list[str]:
    """The names of the files that match a pattern such as ``center__*``; at least one."""
    found = sorted(path.stem for path in FOLDER.glob(f"{pattern}.npz"))
    assert found, f"no golden file matches {pattern}"
    return found
