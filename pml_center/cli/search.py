"""search: the images that are most like others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
    report: Path | None = None,
    json_: Json = False,
    batch_size: int = 128,
    device: str = "auto",
) -> None:
    """Find the images that are most like others, among those that were embedded.

    Args:
        folder: what `pml-center embed` wrote. Its model embeds the images.
        images: files to find others like.
        k: how many to find for each.
        similarity: how embeddings are compared.
        report: write a page (HTML) that shows them there.
        json_: print one JSON object instead of tables.
        batch_size: images at a time.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
    """
    from pml_center.cli.sources import model_of, read_embeddings
    from pml_center.data import LabeledImages
    from pml_center.evaluation import nearest_neighbours

    missing = [str(image) for image in images if not image.is_file()]
    if missing or not images:
        raise FileNotFoundError(f"images must be existing files, got {', '.join(missing) or 'none'}. Check the paths.")
    samples = read_embeddings(folder)
    model = model_of(folder, ModelOptions(batch_size=batch_size, device=device, workers=0, cache=False))
    queries = LabeledImages([str(image) for image in images], [0] * len(images), ["image"])
    ids, scores = nearest_neighbours(
        model.embed(queries), min(k, len(samples.embeddings)), samples.embeddings, similarity
    )
    found = {
        str(image): _found(samples, *row)
        for image, row in zip(images, zip(ids.tolist(), scores.tolist(), strict=True), strict=True)
    }
    if report is not None:
        _write_page(report, folder, samples, queries, ids, scores, similarity)
    if json_:
        show_json("search", {"folder": str(folder), "neighbours": found})
        return
    for image, rows in found.items():
        print(image)
        cells = [[f"{row['rank']}", f"{row['score']:.4f}", str(row["label"]), row["image"]] for row in rows]
        show_table(["", similarity, "label", "image"], cells)
    if report is not None:
        print(f"page    {report}")


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
    path: Path, folder: Path, samples: "Samples", queries: Any, ids: Any, scores: Any, similarity: str
) -> None:
    from pml_center.cli.sources import pictures
    from pml_center.evaluation import write_html
    from pml_center.pages.parts import neighbours

    name = "minus squared distance" if similarity == "euclidean" else f"{similarity} similarity"
    part = neighbours(queries, samples, pictures(samples.names), ids, scores, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_html(path, {}, title=f"Nearest images in {folder.name}", extra=[part])
