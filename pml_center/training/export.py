"""Export: the model of a run as others load it, with the same embeddings."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from packaging.version import Version
from timm.models import save_for_hf
from torch import Tensor, nn

from pml_center.arrays import sum_of_file
from pml_center.backbones import HEAD_EMBEDS, SUM, Embedder
from pml_center.data.open_images import split_apart
from pml_center.data.seen_images import FILE as SEEN
from pml_center.data.vectors import made_by
from pml_center.evaluation.embedding_cache import model_fingerprint
from pml_center.evaluation.report import told_once
from pml_center.training.loss_catalog import describe_loss, references
from pml_center.training.loss_formula import known_losses, parse_terms
from pml_center.training.origin import seen_by
from pml_center.training.owner import FILES as OWNER_FILES
from pml_center.training.owner import clear, owned
from pml_center.training.run_folder import (
    PARTIAL,
    Run,
    check_features,
    check_holds_only,
    input_of,
    timm_trunk,
    write_whole,
)

WEIGHTS = "model.safetensors"
OWN = {"config.json", WEIGHTS, "labels.json", SEEN, "README.md"}
PROBES = 2  # images that both models must embed alike
SLACK = 1e-4  # of the largest number in an embedding, for the order in which floating point adds


def export_timm(run: Run, folder: str | Path | None = None) -> Path:
    """Write the model of a run as a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.

    To load it takes timm 1.0.26; :func:`pml_center.create_embedder` does it with an older one, too.
    The neck becomes timm's classifier, so that the model gives embeddings; with ``num_classes=0`` it gives the features
    before the neck. ``config.json`` has the input that it was trained with, which
    ``timm.data.resolve_model_data_config`` reads; ``labels.json`` the classes; ``README.md`` is a card with the loss,
    what the model is worth, and the papers. What is written is loaded again and compared with the run before it takes
    its place.

    Args:
        run: with weights.
        folder: to write; an earlier export is replaced. None is ``export`` in the run folder.

    Returns:
        The folder.

    Raises:
        ImportError: timm is older than 1.0.31.
        ValueError: a model that timm does not have, or whose classifier is not one linear layer on the features.
        FileExistsError: the folder holds other things.
        BlockingIOError: another process trains or exports the run, or writes to the folder.
    """
    if Version(timm.__version__) < Version("1.0.31"):  # which writes how images are prepared, and how a model is built
        raise ImportError(
            f"timm must be 1.0.31 or newer to write what timm loads, got {timm.__version__}. "
            "Run: python -m pip install 'timm>=1.0.31', or use --format onnx."
        )
    folder = run.folder / "export" if folder is None else Path(folder)
    check_holds_only({*OWN, "model.onnx"}, folder)
    draft = folder.with_name(f"{folder.name}.tmp")
    check_holds_only({*OWN, *OWNER_FILES}, draft)  # it is deleted in the end
    with _alone(run), owned(draft):
        try:
            return _export_timm(run, folder, draft)
        finally:
            shutil.rmtree(draft)  # with the lock, which nobody wants to publish


def export_onnx(run: Run, path: str | Path | None = None) -> Path:
    """Write the model of a run as ONNX: ``images`` (batch, C, H, W) -> ``embeddings`` (batch, D).

    The number of images is free, their size is that of the run. The properties of the file say how images are prepared:
    ``channels``, ``image_size``, ``mean``, ``std``. What is written is tried and compared with the run before it takes
    its place.

    Args:
        run: with weights.
        path: to write; an earlier file is replaced. None is ``export/model.onnx`` in the run folder.

    Returns:
        The path.

    Raises:
        ImportError: the extra ``onnx`` is not installed.
        ValueError: a model that ONNX cannot say, or does not give the same embeddings.
        BlockingIOError: another process trains or exports the run.
    """
    modules = import_onnx()
    path = run.folder / "export" / "model.onnx" if path is None else Path(path)
    with _alone(run):
        return _export_onnx(run, path, *modules)


def import_onnx() -> tuple[Any, Any]:
    """The modules ``onnx`` and ``onnxruntime``.

    Raises:
        ImportError: they, or what torch writes ONNX with, are not installed, or torch is older than 2.9.
    """
    if Version(torch.__version__) < Version("2.9"):  # which writes by torch.export, with a batch of any size
        raise ImportError(
            f"torch must be 2.9 or newer to write ONNX, got {torch.__version__}. "
            "Upgrade torch and torchvision, or use --format timm."
        )
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch imports it)
    except ImportError as error:
        raise ImportError(
            f"{error.name} must be installed to write ONNX. Install it with: pip install 'pml-center[onnx]'"
        ) from error
    return onnx, onnxruntime


def _alone(run: Run) -> AbstractContextManager[None]:
    """The run while nothing else writes to it; one that can only be read is taken as it is."""
    return owned(run.folder) if os.access(run.folder, os.W_OK) else nullcontext()


def whole_model(run: Run) -> Embedder:
    """The model of a run; that of one on features behind the trunk that made them, where ``embed`` wrote down which.

    Raises:
        ValueError: the trunk has other weights now, or embedded each image together with its mirror image.
    """
    model, source = run.load_model(), split_apart(run.config.data)[0]
    facts = made_by(source)
    if model.image_size is not None or not facts:
        return model
    check_features(run, source)
    if (Path(facts["model"]) / "config.yaml").is_file():
        whole = Run.open(facts["model"]).load_model()
    else:
        names = ("model", "pretrained", "weights", "image_size", "channels")
        whole = timm_trunk(*(facts[name] for name in names))
    if facts["flip_test"] or model_fingerprint(whole) != facts["fingerprint"]:
        what = "the sum of an image and its mirror image" if facts["flip_test"] else "other weights now"
        raise ValueError(
            f"model must be the one that made the features of {run.folder}, got {what} in {source}. Embed again, "
            "and train on that."
        )
    whole.neck = nn.Sequential(whole.neck, model.trunk, model.neck)
    whole.embedding_size = model.embedding_size
    return whole.eval()


def _export_timm(run: Run, folder: Path, draft: Path) -> Path:
    model = whole_model(run)
    network = _with_head(model)
    _check_same(network, model, f"{model.name} with its neck as classifier")
    clear(draft)  # of an export that was killed
    _write(network, model, run, draft)
    reloaded = timm.create_model(f"local-dir:{draft}", pretrained=True).eval()
    _check_same(reloaded, model, f"{model.name}, written and loaded again,")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)  # weights never stand beside what belongs to others, and come last
    for name in sorted(OWN, key=WEIGHTS.__eq__):
        (draft / name).replace(folder / name)
    return folder


def _export_onnx(run: Run, path: Path, onnx: Any, runtime: Any) -> Path:
    model = whole_model(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")  # of two runs that are exported there, one is whole
    try:
        proto = _onnx_proto(model)
        inputs = input_of(model)
        onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in inputs.items()})
        onnx.save(proto, draft)
        session = runtime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        _check_same(lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), model, "ONNX")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _onnx_proto(model: Embedder) -> Any:
    try:
        program: Any = torch.onnx.export(
            model,
            (_probe(model),),
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model must be one that ONNX can say, got {model.name!r} ({reason}). Use --format timm."
        ) from error
    return program.model_proto


def _with_head(model: Embedder) -> nn.Module:
    """A timm model whose classifier is the neck."""
    network: Any = copy.deepcopy(model.trunk)
    if not hasattr(network, "reset_classifier"):
        raise ValueError(
            f"model must be one of timm's for timm to load it, got {model.name!r}. "
            "Use --format onnx, or train a timm model."
        )
    if isinstance(model.neck, nn.Identity):
        return network.eval()
    before = network.get_classifier()  # a layer that embeds, where the trunk is itself what was exported
    network.reset_classifier(model.embedding_size)
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"model must have one linear layer as classifier to put the neck there, got {model.name!r}, which has "
            f"{'several' if isinstance(head, tuple) else type(head).__name__}. Use --format onnx."
        )
    neck = nn.Sequential(before, model.neck) if isinstance(before, nn.Linear) else model.neck
    weight, bias = _affine(neck, head.in_features)
    head.load_state_dict({"weight": weight, "bias": bias})
    return network.eval()


def _affine(neck: nn.Module, features: int) -> tuple[Tensor, Tensor]:
    """The weight (D, F) and the bias (D,) of a neck, which in evaluation is an affine function of the features."""
    neck = copy.deepcopy(neck).double().eval()
    with torch.no_grad():
        bias = neck(torch.zeros(1, features, dtype=torch.double))[0]
        return (neck(torch.eye(features, dtype=torch.double)) - bias).T, bias


def _write(network: nn.Module, model: Embedder, run: Run, folder: Path) -> None:
    inputs = {"input_size": tuple(_probe(model).shape[1:]), "mean": model.mean, "std": model.std}
    whole = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"}  # as data.eval_transform does
    facts: dict[str, Any] = {"description": f"Embeddings, trained with {run.config.loss}", "tag": None}
    if network.num_classes:
        facts["notes"] = [HEAD_EMBEDS]
    if not run.config.pretrained:  # these are of weights that took no part
        facts |= dict.fromkeys(("license", "origin_url", "paper_name", "paper_ids"))
    save_for_hf(network, folder, {"pretrained_cfg": facts}, safe_serialization=True, data_config=inputs | whole)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {SUM: sum_of_file(folder / WEIGHTS)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copymode(folder / "config.json", folder / WEIGHTS)  # which safetensors lets only its owner read
    (folder / "labels.json").write_text(json.dumps(run.classes, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    write_whole(folder / SEEN, seen_by(str(run.folder)).without_folders().text)
    (folder / "README.md").write_text(_card(network, model, run), encoding="utf-8")


def _check_same(network: Callable[[Tensor], Tensor], model: Embedder, what: str) -> None:
    images = _probe(model)
    with torch.no_grad():
        wanted, found = model(images), network(images)
    error = float((wanted - found).abs().max()) if wanted.shape == found.shape else float("inf")
    if not error <= SLACK * float(wanted.abs().max()):
        raise ValueError(
            f"{what} must embed images as the run does, got a difference of {error:.2g} in embeddings of up to "
            f"{float(wanted.abs().max()):.2g}. Use the other --format."
        )


def _probe(model: Embedder) -> Tensor:
    """Images (B, C, H, W) that stand for any others."""
    sides = (model.image_size,) * 2 if isinstance(model.image_size, int) else model.image_size or ()
    return torch.randn(PROBES, model.in_chans, *sides, generator=torch.Generator().manual_seed(0))


def _card(network: nn.Module, model: Embedder, run: Run) -> str:
    """What a reader wants to know of the model, as Markdown with the front matter of a model card."""
    environment = Environment(
        loader=PackageLoader("pml_center.training", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = {term.name for term in parse_terms(run.config.loss)}
    names = [name for name in known_losses() if name in named]
    return environment.get_template("model_card.md.jinja").render(
        run=run,
        model=model,
        config=run.config,
        data=Path(run.config.data).name,
        classes=len(run.classes),
        head=bool(network.num_classes),
        report=run.report,
        told_once=told_once,
        sources={name: references(describe_loss(name).source) for name in names},
        versions={name: version(name) for name in ("pml-center", "timm", "torch")},
    )
