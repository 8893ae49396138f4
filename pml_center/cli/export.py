"""export: the model of a run for others to load."""

from pathlib import Path
from typing import Literal

from pml_center.cli.options import Flag, Json
from pml_center.cli.output import show_json


def export(
    run: Path,
    /,
    *,
    format: Literal["timm", "onnx"] = "timm",
    out: Path | None = None,
    push: str | None = None,
    private: Flag = False,
    json_: Json = False,
) -> None:
    """Write the model of a run for timm to load, or as ONNX.

    What is written is run, and refused if it does not embed images as the model does.

    Args:
        run: the folder that `pml-center train` wrote.
        format: 'timm' is a folder with config.json, model.safetensors, labels.json and README.md; 'onnx' a file, which
            needs `pip install 'pml-center[onnx]'`.
        out: the folder, or the file, to write; by default export, or export/model.onnx, in the run folder.
        push: upload it to this repository of the Hugging Face Hub, such as owner/model, with the token of `hf auth
            login` or HF_TOKEN; names of classes go along.
        private: the repository is for you alone, if it is a new one.
        json_: print one JSON object.
    """
    from pml_center.training import Run, export_onnx, export_timm
    from pml_center.training.hub import check_can_push
    from pml_center.training.hub import push as push_to_hub

    if private and push is None:
        raise ValueError("--private must come with --push, got it alone. Leave it out.")
    if push is not None:
        check_can_push(push)  # before the work
    path = (export_timm if format == "timm" else export_onnx)(Run.open(run), out)
    repo = None if push is None else push_to_hub(path, push, private)
    if json_:
        content = {"run": str(run), "format": format, "path": str(path)}
        show_json("export", content | ({} if repo is None else {"repo": repo}))
        return
    if format == "timm":
        print(
            f'export  {path}\nload    timm.create_model("local-dir:{path}", pretrained=True), by timm 1.0.26 or newer'
        )
    else:
        print(f'export  {path}\nload    onnxruntime.InferenceSession("{path}")')
    if repo is not None:
        load = f'timm.create_model("hf-hub:{repo}", pretrained=True)' if format == "timm" else path.name
        print(f"hub     https://huggingface.co/{repo}\nload    {load}")
