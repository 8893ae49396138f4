"""export: the model of a run for others to load."""

from pathlib import Path
from typing import Literal

from pml_center.cli.options import Json
from pml_center.cli.output import show_json


def export(
    run: Path, /, *, format: Literal["timm", "onnx"] = "timm", out: Path | None = None, json_: Json = False
) -> None:
    """Write the model of a run for timm to load, or as ONNX.

    What is written is run, and refused if it does not embed images as the model does.

    Args:
        run: the folder that `pml-center train` wrote.
        format: 'timm' is a folder with config.json, model.safetensors, labels.json and README.md; 'onnx' a file, which
            needs `pip install 'pml-center[onnx]'`.
        out: the folder, or the file, to write; by default export, or export/model.onnx, in the run folder.
        json_: print one JSON object.
    """
    from pml_center.training import Run, export_onnx, export_timm

    path = (export_timm if format == "timm" else export_onnx)(Run.open(run), out)
    if json_:
        show_json("export", {"run": str(run), "format": format, "path": str(path)})
    elif format == "timm":
        print(
            f'export  {path}\nload    timm.create_model("local-dir:{path}", pretrained=True), by timm 1.0.26 or newer'
        )
    else:
        print(f'export  {path}\nload    onnxruntime.InferenceSession("{path}")')
