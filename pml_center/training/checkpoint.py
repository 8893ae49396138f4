"""Checkpoints: what a run needs to go on, on disk as a whole or not at all."""

import io
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from pml_center.training.interrupt import is_dead_worker

FORMAT = 1  # a new number where an older reader would be misled
MANIFEST = "manifest.json"
STATE = "state.pt"
TABLES = "tables"  # a folder of what several processes have a part of each
WEIGHTS = ".safetensors"  # ends the name of a file of weights
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
    folder: Path,
    weights: Mapping[str, Weights],
    state: Mapping[str, Any],
    run: str,
    keep: bool = True,
    facts: Mapping[str, Any] | None = None,
    tables: tuple[Path, dict[str, Fingerprint]] | None = None,
) -> None:
    """Write a folder; the one that was there stays beside it as ``NAME-previous``.

    The new folder is written under another name, synced to the disk, and then renamed. A process that is killed, or a
    disk that is full, leaves the old one as it was; and so do numbers that are not finite, from which no run goes on.

    Args:
        folder: to write.
        weights: of each module, a safetensors file each.
        state: tensors, numbers, texts, and lists and dicts of them.
        run: the identity of the run, without which nobody reads it again.
        keep: the checkpoint before this one; False deletes it once this one is there.
        facts: what a reader may look at without the tensors, see :func:`facts_of`.
        tables: a folder on the same disk, which becomes part of this one, and what is in it, see
            :func:`~pml_center.training.split_checkpoint.write_tables`.

    Raises:
        CheckpointError: the disk is full, or does not take the files for another reason.
        FloatingPointError: weights or a state that are not finite.
    """
    check_finite(folder, weights, state)
    partial, previous = folder.with_name(f"{folder.name}-partial"), previous_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = sync_each(_written(partial, weights, state))
        if tables is not None:
            draft, parts = tables
            draft.rename(partial / TABLES)
            files |= {f"{TABLES}/{name}": fingerprint for name, fingerprint in parts.items()}
        manifest = {"format": FORMAT, "run": run, **(facts or {}), "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (partial / MANIFEST, partial):
            _sync(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors have words of their own
        shutil.rmtree(partial, ignore_errors=True)
        if is_dead_worker(error):  # which torch says wherever the main process is
            raise
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
    files = _files(folder, run)
    weights = {Path(name).stem: _loaded(folder, name, files) for name in files if name.endswith(WEIGHTS)}
    state = torch.load(io.BytesIO(_content(folder, STATE, files)), map_location="cpu", weights_only=True)
    return Checkpoint(weights, state)


def read_weights(folder: Path, parts: Sequence[str], run: str) -> dict[str, Tensor]:
    """The weights of one module, every byte of which is checked, while the run may be writing the next checkpoint.

    Args:
        folder: as of :func:`newest`.
        parts: names of modules; the first that the checkpoint has is read.
        run: the identity of the run.

    Raises:
        CheckpointError: files that are damaged, missing or of another run.
        FileNotFoundError: no checkpoint.
    """
    while True:
        before = _inode(folder)
        try:
            return _weights(newest(folder), parts, run)
        except (CheckpointError, FileNotFoundError):
            if _inode(folder) == before:  # else another checkpoint has taken the place of the one that was being read
                raise


def _weights(folder: Path, parts: Sequence[str], run: str) -> dict[str, Tensor]:
    files = _files(folder, run)
    name = next(name for part in parts if (name := f"{part}{WEIGHTS}") in files or part == parts[-1])
    weights = _loaded(folder, name, files)
    if "loss" in parts and (folder / TABLES).is_dir():
        from pml_center.distributed.sharded import read_tables

        check_tables(folder, run)
        weights |= read_tables(folder / TABLES)
    return weights


def check_tables(folder: Path, run: str, rank: int = 0, world: int = 1) -> None:
    """Whether what several processes wrote is whole; each of several looks at its share.

    Raises:
        CheckpointError: files that are damaged or missing.
    """
    files = _files(folder, run)
    for name in sorted(name for name in files if name.startswith(f"{TABLES}/"))[rank::world]:
        _content(folder, name, files)


def _loaded(folder: Path, name: str, files: Mapping[str, Fingerprint]) -> dict[str, Tensor]:
    """The tensors of a file, by name in order: safetensors gives them in any."""
    return dict(sorted(load(_content(folder, name, files)).items()))


def _content(folder: Path, name: str, files: Mapping[str, Fingerprint]) -> bytes:
    """The bytes of a file, read once: what is checked is what is used.

    Raises:
        CheckpointError: a file that is damaged or missing.
    """
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise _damaged(folder / name, files.get(name), None) from None
    there = {"bytes": len(content), "crc32": zlib.crc32(content)}
    if there != files.get(name):
        raise _damaged(folder / name, files.get(name), there)
    return content


def check_finite(folder: Path, weights: Mapping[str, Weights], state: Mapping[str, Any] | None = None) -> None:
    """Weights, and what an optimizer keeps, must be finite to become a checkpoint.

    Raises:
        FloatingPointError: NaN or infinity; the message says where, and how to go on.
    """
    named = [*_tensors(weights), *_tensors(state or {})]
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in named}
    bad = [name for name, count in counts.items() if count]
    if bad:
        raise FloatingPointError(
            f"weights must be finite, got {sum(counts.values()):,} numbers that are not, e.g. in {bad[0]}. "
            f"{go_on_slower(folder)}"
        )


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


def facts_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: ``data``, the digest of the record of its images, and ``best_epoch``.

    Args:
        folder: as of :func:`newest`. Nothing is known where there is none, and of some what earlier versions wrote.
    """
    try:
        return dict(json.loads((newest(folder) / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # of what is damaged the reader of its weights tells
        return {}


def go_on_slower(folder: Path) -> str:
    """What to do once numbers went wrong: start from the last checkpoint, where there is one, in smaller steps.

    Args:
        folder: of any checkpoint of the run.
    """
    slower = "with a lower --lr, with --clip-grad 1, or with --amp none"
    last, run = found(folder.with_name("last")), folder.parent.parent
    if last is None:
        return f"There is no checkpoint yet: train again {slower}."
    return (
        f"The checkpoint {last} is as it was: start a new run from its weights with --init-from {run}, {slower}; "
        f"pml-center resume {run} would take the same steps again."
    )


def previous_of(folder: Path) -> Path:
    """Where the checkpoint before this one is."""
    return folder.with_name(f"{folder.name}-previous")


def _files(folder: Path, run: str) -> dict[str, Fingerprint]:
    """The files of a checkpoint of a run, as they were when it was written.

    Raises:
        CheckpointError: a damaged manifest, or one of another run or another version.
        FileNotFoundError: no manifest.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
        files = {name: {key: file[key] for key in ("bytes", "crc32")} for name, file in manifest["files"].items()}
        of = manifest["run"]
    except FileNotFoundError:
        raise FileNotFoundError(f"checkpoint must hold {MANIFEST}, got {folder} without it.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} must be whole, got {error!r}. {_other_choice(folder)}") from error
    if not known:
        raise CheckpointError(
            f"checkpoint must have format {FORMAT}, got {manifest['format']} in {folder}. "
            "It was written by another version of pml-center: resume with that one."
        )
    if of != run:
        raise CheckpointError(
            f"checkpoint must be of this run, got {folder}, which is of another. {_other_choice(folder)}"
        )
    return files


def _damaged(path: Path, expected: Fingerprint | None, there: Fingerprint | None) -> CheckpointError:
    size, got = (f"{file['bytes']:,} bytes" if file else "none" for file in (expected, there))
    with_what = f"other {size}" if got == size else f"{got} in place of {size}"
    return CheckpointError(
        f"checkpoint must be whole, got {path} with {with_what}: the file is damaged. {_other_choice(path.parent)}"
    )


def _inode(folder: Path) -> tuple[int, int] | None:
    """What tells a checkpoint from the one that takes its place."""
    try:
        there = (folder / MANIFEST).stat()
    except FileNotFoundError:
        return None
    return there.st_ino, there.st_mtime_ns


def _written(folder: Path, weights: Mapping[str, Weights], state: Mapping[str, Any]) -> Iterator[Path]:
    """Write the files, each of which follows once it is there."""
    for name, tensors in weights.items():
        path = folder / f"{name}{WEIGHTS}"
        path.touch()
        mode = path.stat().st_mode  # as the user's umask wants it, where safetensors lets only the owner read
        save_file(_own_storage(tensors), path)
        path.chmod(mode)
        yield path
    torch.save(dict(state), folder / STATE)
    yield folder / STATE


def sync_each(paths: Iterable[Path]) -> dict[str, Fingerprint]:
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
    previous, last = previous_of(folder), folder.with_name("last")
    if is_checkpoint(previous):
        return f"Go on from the one before it: pml-center resume {folder.parent.parent} --checkpoint {previous.name}"
    if folder.name == "best" and is_checkpoint(last):
        return 'Take the last one, with Run.open(...).load_model("last"), or train again.'
    return "There is no checkpoint before it: train again."


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in lists and dicts of them, by name."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, (Mapping, list, tuple)):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
