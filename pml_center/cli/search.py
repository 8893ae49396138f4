"""search: the images that are most like others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pml_center.cli.embed import INDEX_FILE
from pml_center.cli.options import Json, ModelOptions
from pml_center.cli.output import show_json, show_table

if TYPE_CHECKING:
    from pml_center.evaluation import Samples


def search(
    folder: Path,
    images: tuple[Path, ...],
    /,
    *,
    k: int = 10,
    similarity: Literal["cosine", "dot", "euclidean"] | None = None,
    index: Path | None = None,
    report: Path | None = None,
    json_: Json = False,
    batch_size: int = 128,
    device: str = "auto",
) -> None:
    """Find the images that are most like others, among those that were embedded.

    Args:
        folder: what `pml-center embed` wrote. Its model embeds the queries.
        images: to find others like, and folders of images; or what is embedded already, which needs no model:
            folders that `pml-center embed` wrote, and .npy files of embeddings.
        k: how many to find for each.
        similarity: how embeddings are compared; by default as the index that `pml-center embed` wrote beside them
            compares them, or by cosine.
        index: search in this faiss index of the embeddings, as `pml-center embed --index` writes it, which may miss
            some; without it, the search is exact.
        report: write a page (HTML) that shows them there.
        json_: print one JSON object instead of a table.
        batch_size: images at a time.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
    """
    from pml_center.checks import check_size
    from pml_center.cli.embeddings import read_embeddings

    check_size("k", k, "Ask for 10.")
    missing = [str(path) for path in images if not path.exists()]
    if missing or not images:
        got = ", ".join(missing) or "none"
        raise FileNotFoundError(
            f"images must be existing files, got {got}. Give images, folders of them, or embeddings."
        )
    samples = read_embeddings(folder)
    compared = similarity or _compared_by(folder / INDEX_FILE if index is None else index) or "cosine"
    asked = _embedded(folder, images, ModelOptions(batch_size=batch_size, device=device, workers=0, cache=False))
    ids, scores = _nearest(asked, min(k, len(samples.embeddings)), samples, compared, folder, index)
    names = list(asked.names or [])
    found = {
        name: _found(samples, *row)
        for name, row in zip(names, zip(ids.tolist(), scores.tolist(), strict=True), strict=True)
    }
    if report is not None:
        _write_page(report, folder, samples, names, ids, scores, compared)
    if json_:
        show_json("search", {"folder": str(folder), "neighbours": found})
        return
    cells = [
        ["" if place else name, f"{row['rank']}", f"{row['score']:.4f}", str(row["label"]), row["image"]]
        for name, rows_of in found.items()
        for place, row in enumerate(rows_of)
    ]
    show_table(["query", "", compared, "label", "image"], cells)
    if report is not None:
        print(f"page    {report}")


def _embedded(folder: Path, queries: tuple[Path, ...], options: ModelOptions) -> "Samples":
    """All queries by their names, each of them once, in the order in which they were given."""
    from pml_center.cli.embeddings import is_embedding_folder
    from pml_center.evaluation import Samples

    rows: dict[str, Any] = {}
    for path in queries:
        is_ready = is_embedding_folder(str(path)) or path.suffix.lower() == ".npy"
        rows |= _rows(path, folder) if is_ready else dict.fromkeys(_images(path))
    if images := [name for name, row in rows.items() if row is None]:
        from pml_center.cli.sources import model_of  # and with it torch, which arrays do not need
        from pml_center.data import LabeledImages

        found = model_of(folder, options).embed(LabeledImages(images, [0] * len(images), ["image"]))
        rows |= dict(zip(images, found, strict=True))
    return Samples(list(rows.values()), None, names=list(rows))


def _images(path: Path) -> list[str]:
    """An image, or all that lie in a folder and below."""
    from pml_center.data.image_folder import as_classes, scan

    if not path.is_dir():
        return [str(path)]
    images = as_classes(path, scan(path)).images
    if not images:
        raise ValueError(
            f"images must be files or folders that hold some, got {str(path)!r} without any. Check the path."
        )
    return [str(image) for image in images]


def _rows(path: Path, folder: Path) -> dict[str, Any]:
    """Embeddings by name, of the width and, as far as that is known, of the model of those to search in."""
    from pml_center.arrays import as_matrix, read_array
    from pml_center.cli.embeddings import read_embeddings
    from pml_center.data.vectors import maker_of

    if path.is_dir():
        samples = read_embeddings(path)
        rows, names = samples.embeddings, samples.names
        own, theirs = maker_of(str(path)), maker_of(str(folder))
        if any(own[name] != theirs[name] for name in own.keys() & theirs.keys()):
            raise ValueError(
                f"images must be embedded as {str(folder)!r} was, got {str(path)!r} of other weights or input. "
                "Embed both with the same model."
            )
    else:
        rows, names = read_array(path), None
    matrix = as_matrix(rows, "queries", names=names)
    return dict(zip(names or [f"{path}[{row}]" for row in range(len(matrix))], matrix, strict=True))


def _nearest(
    queries: "Samples", k: int, samples: "Samples", similarity: Any, folder: Path, index: Path | None
) -> tuple[Any, Any]:
    """The rows that are nearest to each query, and their scores, largest first."""
    from pml_center.arrays import sum_of_file
    from pml_center.data.vectors import made_by
    from pml_center.evaluation.search import ExactSearch, FaissSearcher

    if index is None:
        names = (queries.names, samples.names)
        return ExactSearch(queries.embeddings, samples.embeddings, similarity, overlap=True, names=names).nearest(k)
    searcher = FaissSearcher(similarity=similarity)
    if index.is_file() and _written_of(index).get("index_sum") not in (None, sum_of_file(index)):
        raise ValueError(
            f"index must be as `pml-center embed` wrote it, got other bytes in {str(index)!r}: the file is damaged, or "
            "another one. Embed again with --index, or search without it."
        )
    searcher.load(index)
    if (written := _compared_by(index)) not in (None, similarity):
        raise ValueError(
            f"index must compare by {similarity}, got one that compares by {written}. "
            "Give the --similarity that it was written for."
        )
    if made_by(str(index.parent)).get("sum") not in (None, made_by(str(folder)).get("sum")):
        raise ValueError(
            f"index must be of the embeddings in {str(folder)!r}, got that of others in {str(index.parent)!r}. "
            "Search in those beside it, or embed again with --index."
        )
    searcher.check_holds(samples.embeddings)
    scores, ids = searcher(queries.embeddings, k)
    return ids, -scores if similarity == "euclidean" else scores


def _compared_by(index: Path) -> str | None:
    """By what an index compares, where that is known."""
    return _written_of(index).get("index", {}).get("similarity")


def _written_of(index: Path) -> dict[str, Any]:
    """What `pml-center embed` wrote down beside an index; nothing of any other."""
    from pml_center.data.vectors import made_by

    return made_by(str(index.parent)) if index.name == INDEX_FILE else {}


def _found(samples: "Samples", ids: list[int], scores: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "score": round(score, 4),
            "label": samples.labels[row],
            "image": samples.names[row] if samples.names else f"row {row}",
        }
        for rank, (row, score) in enumerate(zip(ids, scores, strict=True), start=1)
    ]


def _write_page(
    path: Path, folder: Path, samples: "Samples", names: list[str], ids: Any, scores: Any, similarity: str
) -> None:
    from pml_center.cli.sources import pictures
    from pml_center.evaluation import write_html
    from pml_center.pages.parts import neighbours

    name = "minus squared distance" if similarity == "euclidean" else f"{similarity} similarity"
    part = neighbours(names, pictures(names), samples, pictures(samples.names), ids, scores, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_html(path, {}, title=f"Nearest images in {folder.name}", extra=[part])
