"""embed: write the embeddings of images."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pml_center.cli.options import DATA, Json, ModelOptions
from pml_center.cli.output import show_json

INDEX_FILE = "index.faiss"


def embed(
    model: str,
    data: Annotated[str | None, Parameter(help=f"{DATA} By default what a run held out.")] = None,
    /,
    *,
    out: Path,
    index: str | None = None,
    similarity: Literal["cosine", "dot", "euclidean"] | None = None,
    json_: Json = False,
    model_options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008 (frozen)
) -> None:
    """Write the embeddings of images to a folder, to evaluate them or to search among them.

    The folder holds embeddings.npy, a row per image; samples.csv, the path and label of each; model.json, what made
    them; and index.faiss, if it is asked for.

    Args:
        model: a run folder, any timm model, hf-hub:... or local-dir:...
        data: images, in one of the forms of ``pml_center.cli.options.DATA``; by default what a run held out.
        out: the folder to write, which must not hold anything else.
        index: also write an index of them, by a factory string of faiss such as 'HNSW32' or 'IVF256,Flat'.
        similarity: how the index compares them; by default as the run was trained to, or by cosine.
        json_: print one JSON object.
        model_options: how images become embeddings.
    """
    from pml_center.arrays import sum_of_file
    from pml_center.cli.sources import Model, embedded
    from pml_center.data.open_images import full_source
    from pml_center.data.seen_images import FILE as SEEN
    from pml_center.data.vectors import MODEL_FILE, name_order, sum_of
    from pml_center.evaluation import FaissSearcher, save_samples
    from pml_center.training.owner import owned
    from pml_center.training.run_folder import check_holds_only, write_whole

    if similarity is not None and index is None:
        raise ValueError(f"similarity must come with --index, got {similarity}. Leave it out, or name an index.")
    check_holds_only({"embeddings.npy", "samples.csv", MODEL_FILE, INDEX_FILE, SEEN}, out)
    opened = Model(model, model_options)
    searcher = None
    if index is not None:
        searcher = FaissSearcher(index, similarity or (opened.run.config.similarity if opened.run else "cosine"))
        searcher.empty(opened.embedder.embedding_size)  # what faiss does not understand, before the images are embedded
    rows = embedded(model, None if data is None else full_source(data), model_options, opened)
    if searcher is not None:
        searcher.train(rows.samples.embeddings)
    with owned(out):
        for name in (MODEL_FILE, INDEX_FILE, SEEN):  # nothing of an earlier model must stand beside these rows
            (out / name).unlink(missing_ok=True)
        save_samples(out, rows.samples, rows.images.splits)
        facts = rows.facts | opened.identity | {"order": name_order(rows.samples.names or [])}
        facts |= {"sum": sum_of(rows.samples.embeddings), "doubts": rows.doubts}
        if searcher is not None:
            searcher.save(out / INDEX_FILE)
            facts["index"] = {"factory": index, "similarity": searcher.similarity}
            facts["index_sum"] = sum_of_file(out / INDEX_FILE)
        source = data or (opened.run.config.data if opened.run else "")
        seen = rows.seen.also_in(out, rows.samples.names or (), source, rows.images.images)
        write_whole(out / SEEN, seen.text)
        write_whole(out / MODEL_FILE, json.dumps(facts, indent=2) + "\n")
    shape = [int(size) for size in rows.samples.embeddings.shape]
    if json_:
        show_json("embed", {**facts, "shape": shape, "folder": str(out)})
        return
    print(f"{shape[0]:,} embeddings of {shape[1]} numbers\nfolder  {out}")
    if searcher is not None:
        print(f"index   {out / INDEX_FILE}, by {searcher.similarity}")
