"""doctor: what is there, and what is broken."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from pml_center.cli.options import Json
from pml_center.cli.output import show_entries, show_json

PATIENCE = 120  # seconds for what takes three
LEAST_FREE = 2**30  # bytes: a run with a large model writes more than half of it
SINGLE = "set OMP_NUM_THREADS=1"
NOT_FOR_USERS = {"dev", "docs"}  # extras
NEWEST = Path(__file__).with_name("newest.txt")  # versions that the whole suite passed with; floors are in the metadata
FAST_FAISS = ("AVX2", "AVX512", "NEON", "SVE")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, what was found, and what to do if it is not as it should be."""

    name: str
    state: Literal["ok", "note", "broken"]
    found: str
    remedy: str = ""


def doctor(*, json_: Json = False) -> None:
    """Look at this installation: packages, threads, GPU, search, folders that must be writable, space on the disk.

    Of each package it says the version, and between which versions it was tested. The exit code is 1 where something is
    broken.

    Args:
        json_: print one JSON object.
    """
    findings = list(examine())
    broken = [finding for finding in findings if finding.state == "broken"]
    if json_:
        show_json("doctor", {"ok": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        show_entries({f"{f.state:<7} {f.name}": f"{f.found}{f.remedy and f' — {f.remedy}'}" for f in findings})
        print(f"\n{len(broken)} broken: {', '.join(f.name for f in broken)}" if broken else "\nnothing is broken")
    if broken:
        sys.exit(1)


def examine() -> Iterator[Finding]:
    """Look at one thing after the other; what fails is a finding, and no error."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from map(_package, _requirements())
    yield _tried("threads and GPU", _torch, "install torch again, for this machine's driver")
    yield _tried(
        "torch and torchvision", _torchvision, "install both again, in one command: pip install torch torchvision"
    )
    yield _tried("faiss build", _faiss, "install faiss-cpu again")
    yield _tried("OpenMP", _openmp, SINGLE)
    for name, folder in _folders().items():
        yield _writable(name, folder)
    yield _disk(Path())
    extras = distribution("pml-center").metadata.get_all("Provides-Extra") or []
    yield from (_extra(extra) for extra in extras if extra not in NOT_FOR_USERS)


def _tried(name: str, look: Callable[[], tuple[str, str]], remedy: str) -> Finding:
    """What a look found; with advice it is a note, and an error is something broken."""
    try:
        found, advice = look()
        return Finding(name, "note" if advice else "ok", found, advice)
    except Exception as error:  # whatever a broken installation raises
        return Finding(name, "broken", f"{type(error).__name__}: {error}", remedy)


def _requirements(extra: str = "") -> list[Requirement]:
    """What this distribution asks for, or what one of its extras adds."""
    wanted = [Requirement(line) for line in distribution("pml-center").requires or []]
    return [each for each in wanted if (each.marker.evaluate({"extra": extra}) if each.marker else not extra)]


def _package(wanted: Requirement) -> Finding:
    name = wanted.name
    if name == "faiss-cpu":  # or faiss-gpu, which has another name
        owners = sorted(set(packages_distributions().get("faiss", [])))
        if len(owners) != 1:
            remedy = "uninstall all but one, and install that again" if owners else "pip install faiss-cpu"
            return Finding("faiss", "broken", ", ".join(owners) or "not installed", remedy)
        name = owners[0]
    if not _installed(name):
        return Finding(name, "broken", "not installed", f"pip install {name}")
    found, tested = version(name), _newest().get(wanted.name)
    if not wanted.specifier.contains(found, prereleases=True):
        rule = f"must be {wanted.specifier}"
        return Finding(name, "broken", f"{found}, {rule}", f"pip install '{name}{wanted.specifier}'")
    oldest = next((each.version for each in wanted.specifier if each.operator == ">="), None)
    if tested is None or oldest is None:
        return Finding(name, "ok", found)
    beyond = Version(found).release > Version(tested).release
    return Finding(name, "ok", f"{found}, {'newer than what was ' if beyond else ''}tested from {oldest} to {tested}")


def _newest() -> dict[str, str]:
    lines = NEWEST.read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def _torch() -> tuple[str, str]:
    import torch

    found = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    if not torch.cuda.is_available():
        found = f"{found}, no CUDA: training on CPU"
        if not _has_gpu():
            return found, ""
        if torch.version.cuda is None:
            return f"{found}, and beside a GPU torch {torch.__version__} is built for CPUs", (
                "install torch with CUDA: https://pytorch.org/get-started/locally/"
            )
        return f"{found}, beside a GPU that CUDA {torch.version.cuda} cannot use", "install a newer driver"
    torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).cpu()  # raises where the driver does not fit
    return f"{found}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}", ""


def _has_gpu() -> bool:
    """Whether NVIDIA's driver is there, whatever torch can use."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def _torchvision() -> tuple[str, str]:
    """Torchvision is built for one version of torch; pip may have replaced one of them alone."""
    found = f"{version('torch')} and {version('torchvision')}"
    for line in distribution("torchvision").requires or []:
        wanted = Requirement(line)
        if wanted.name == "torch" and not wanted.specifier.contains(version("torch"), prereleases=True):
            raise ImportError(f"torchvision {version('torchvision')} needs {wanted}, got {version('torch')}")
    import torch
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)  # of torchvision's compiled part, which may not load
    return found, ""


def _faiss() -> tuple[str, str]:
    import faiss

    options = faiss.get_compile_options().split()
    found = f"{faiss.omp_get_max_threads()} threads, built with {', '.join(options)}"
    if any(option.startswith(FAST_FAISS) for option in options):
        return found, ""
    return f"{found}, without AVX2", "search is slower: unset FAISS_OPT_LEVEL, or take a processor that has AVX2"


def _openmp() -> tuple[str, str]:
    """Torch and faiss bring an OpenMP each. In a process of its own, which a clash of them may end or stop."""
    code = f"from {__name__} import search_after_training; print(*search_after_training(), sep=' and ')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    if ran.returncode:
        raise ChildProcessError((ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1])
    libraries = ran.stdout.strip()
    advice = f"loaded twice, which works here; if a program stops or is slow, {SINGLE}" if " and " in libraries else ""
    return f"torch, then faiss, with {libraries or 'none'}", advice


def search_after_training() -> list[str]:
    """Compute a gradient with torch, then search with faiss, both on all threads.

    Returns:
        The OpenMP libraries that were loaded.

    Raises:
        ArithmeticError: the nearest rows are not those that torch finds.
    """
    import torch
    from threadpoolctl import threadpool_info

    from pml_center.evaluation.search.exact_search import import_faiss

    rows = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (rows @ rows[:256].T).square().sum().backward()
    keys = rows.detach().numpy()
    faiss = import_faiss()
    index = faiss.IndexFlatL2(64)
    index.add(keys)
    ids = index.search(keys[:256], 1)[1][:, 0]
    if ids.tolist() != list(range(256)):
        raise ArithmeticError("faiss must find each row nearest to itself, got others")
    return sorted({Path(each["filepath"]).name for each in threadpool_info() if each["user_api"] == "openmp"})


def _folders() -> dict[str, Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from pml_center.data.data_folder import cache_folder

    return {"current folder": Path(), "cache of embeddings": cache_folder(), "cache of weights": Path(HF_HUB_CACHE)}


def _writable(name: str, folder: Path) -> Finding:
    where = str(folder.resolve())
    present = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=present).close()
    except OSError as error:
        return Finding(name, "broken", f"{where}: {error.strerror}", "choose another folder, or change its rights")
    return Finding(name, "ok", where)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free in {folder.resolve()}"
    if free < LEAST_FREE:
        return Finding("disk", "note", found, "make room before a long run")
    return Finding("disk", "ok", found)


def _extra(extra: str) -> Finding:
    names = [each.name for each in _requirements(extra)]
    if missing := [name for name in names if not _installed(name)]:
        return Finding(extra, "note", f"without {', '.join(missing)}", f"for it: pip install 'pml-center[{extra}]'")
    return Finding(extra, "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
