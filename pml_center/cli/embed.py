"""embed: write the embeddings of images."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pml_center.cli.options import DATA, Json, ModelOptions
from pml_center.cli.output import show_json


def embed(
    model: str,
    data: Annotated[str | None, Parameter(help=f"{DATA} By default what a run held out.")] = None,
    /,
    *,
    out: Path,
    json_: Json = False,
    model_options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008 (frozen)
) -> None:
    """Write the embeddings of images to a folder, to evaluate them or to search among them.

    The folder holds embeddings.npy, a row per image; samples.csv, the path and label of each; and model.json, what made
    them.

    Args:
        model: a run folder, any timm model, hf-hub:... or local-dir:...
        data: images, in one of the forms of ``pml_center.cli.options.DATA``; by default what a run held out.
        out: the folder to write, which must not hold anything else.
        json_: print one JSON object.
        model_options: how images become embeddings.
    """
    from pml_center.cli.sources import Model, embedded
    from pml_center.data.open_images import full_source
    from pml_center.data.vectors import MODEL_FILE, name_order, sum_of
    from pml_center.evaluation import save_samples
    from pml_center.training.owner import owned
    from pml_center.training.run_folder import check_holds_only, write_whole

    check_holds_only({"embeddings.npy", "samples.csv", MODEL_FILE}, out)
    opened = Model(model, model_options)
    rows = embedded(model, None if data is None else full_source(data), model_options, opened)
    with owned(out):
        (out / MODEL_FILE).unlink(missing_ok=True)  # nothing of an earlier model must stand beside these rows
        save_samples(out, rows.samples, rows.images.splits)
        facts = rows.facts | opened.identity | {"order": name_order(rows.samples.names or [])}
        facts["sum"] = sum_of(rows.samples.embeddings)
        write_whole(out / MODEL_FILE, json.dumps(facts, indent=2) + "\n")
    shape = [int(size) for size in rows.samples.embeddings.shape]
    if json_:
        show_json("embed", {**facts, "shape": shape, "folder": str(out)})
        return
    print(f"{shape[0]:,} embeddings of {shape[1]} numbers\nfolder  {out}")
