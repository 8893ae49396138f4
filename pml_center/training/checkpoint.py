"""Checkpoints: what a run needs to go on, on disk as a whole or not at all."""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1  # a new number where an older reader would be misled
MANIFEST = "manifest.json"
STATE = "state.pt"
BLOCK = 1 << 22  # bytes that are read at a time

Weights = Mapping[str, Tensor]
Fingerprint = dict[str, int]


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or that must not be read."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights by the name of their module, and everything else: optimizer, progress."""

    weights: Mapping[str, dict[str, Tensor]]
    state: dict[str, Any]


def write_checkpoint(
    folder: Path, weights: Mapping[str, Weights], state: Mapping[str, Any], run: str, keep: bool = True
) -> None:
    """Write a folder; the one that was there stays beside it as ``NAME-previous``.

    The new folder is written under another name, synced to the disk, and then renamed. A process that is killed, or a
    disk that is full, leaves the old one as it was.

    Args:
        folder: to write.
        weights: of each module, a safetensors file each.
        state: tensors, numbers, texts, and lists and dicts of them.
        run: the identity of the run, without which nobody reads it again.
        keep: the checkpoint before this one; False deletes it once this one is there.

    Raises:
        CheckpointError: the disk is full, or does not take the files for another reason.
    """
    partial, previous = folder.with_name(f"{folder.name}-partial"), previous_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = {"format": FORMAT, "run": run, "files": _sync_each(_written(partial, weights, state))}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (partial / MANIFEST, partial):
            _sync(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors have words of their own
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint must fit on the disk, got {error} in {folder.parent}. "
            f"{_what_is_left(folder)} Free some space, then resume the run."
        ) from error
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    partial.rename(folder)
    _sync(folder.parent)
    if not keep:
        shutil.rmtree(previous, ignore_errors=True)


def read_checkpoint(folder: Path, run: str) -> Checkpoint:
    """Read a folder of :func:`write_checkpoint`, every byte of which is checked.

    Raises:
        CheckpointError: files that are damaged, missing or of another run.
        FileNotFoundError: no checkpoint.
    """
    manifest = _manifest(folder)
    if manifest["run"] != run:
        raise CheckpointError(
            f"checkpoint must be of this run, got {folder}, which is of another. {_other_choice(folder)}"
        )
    there = {path.name: _fingerprint(path) for path in folder.iterdir() if path.name in manifest["files"]}
    for name, expected in manifest["files"].items():
        if there.get(name) != expected:
            size = f"{expected['bytes']:,} bytes"
            got = f"{there[name]['bytes']:,} bytes" if name in there else "none"
            with_what = f"other {size}" if got == size else f"{got} in place of {size}"
            raise CheckpointError(
                f"checkpoint must be whole, got {folder / name} with {with_what}: the file is damaged. "
                f"{_other_choice(folder)}"
            )
    weights = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    return Checkpoint(weights, torch.load(folder / STATE, map_location="cpu", weights_only=True))


def newest(folder: Path) -> Path:
    """``folder``, or the one before it where a process ended between the two renames.

    Raises:
        FileNotFoundError: neither.
    """
    if (newest := found(folder)) is not None:
        return newest
    there = sorted(path.name for path in folder.parent.glob("*") if is_checkpoint(path))
    remedy = "The run ended before its first one: train again."
    if there:
        remedy = f"Choose one that is there with --checkpoint: {', '.join(there)}."
    raise FileNotFoundError(f"checkpoint must be a folder that training wrote, got none at {folder}. {remedy}")


def found(folder: Path) -> Path | None:
    """As :func:`newest`, None where there is neither."""
    return next(filter(is_checkpoint, (folder, previous_of(folder))), None)


def is_checkpoint(folder: Path) -> bool:
    """Whether there is one that was written to its end."""
    return (folder / MANIFEST).is_file()


def previous_of(folder: Path) -> Path:
    """Where the checkpoint before this one is."""
    return folder.with_name(f"{folder.name}-previous")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
    except FileNotFoundError:
        raise FileNotFoundError(f"checkpoint must hold {MANIFEST}, got {folder} without it.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} must be whole, got {error!r}. {_other_choice(folder)}") from error
    if not known:
        raise CheckpointError(
            f"checkpoint must have format {FORMAT}, got {manifest['format']} in {folder}. "
            "It was written by another version of pml-center: resume with that one."
        )
    return manifest


def _written(folder: Path, weights: Mapping[str, Weights], state: Mapping[str, Any]) -> Iterator[Path]:
    """Write the files, each of which follows once it is there."""
    for name, tensors in weights.items():
        path = folder / f"{name}.safetensors"
        save_file(_own_storage(tensors), path)
        yield path
    torch.save(dict(state), folder / STATE)
    yield folder / STATE


def _sync_each(paths: Iterable[Path]) -> dict[str, Fingerprint]:
    """The fingerprints of files. The disk takes one while its sum is computed and the next one is written."""
    with ThreadPoolExecutor() as pool:
        tasks = {path.name: (pool.submit(_fingerprint, path), pool.submit(_sync, path)) for path in paths}
    for _, synced in tasks.values():
        synced.result()
    return {name: fingerprint.result() for name, (fingerprint, _) in tasks.items()}


def _fingerprint(path: Path) -> Fingerprint:
    """Length and CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return {"bytes": path.stat().st_size, "crc32": value}


def _own_storage(tensors: Weights) -> dict[str, Tensor]:
    """Contiguous tensors, of which no two share memory: safetensors takes no others."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _what_is_left(folder: Path) -> str:
    return f"The checkpoint {folder} is as it was." if is_checkpoint(folder) else "There is none yet."


def _other_choice(folder: Path) -> str:
    previous = previous_of(folder)
    if is_checkpoint(previous):
        return f"Go on from the one before it: pml-center resume {folder.parent.parent} --checkpoint {previous.name}"
    return "There is no checkpoint before it: train again."
