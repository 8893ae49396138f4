"""What a model is worth: retrieval among images that it was not trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pml_center import distributed
from pml_center.backbones import Embedder, Trunk
from pml_center.data import LabeledImages, inspect_images
from pml_center.data.data_folder import cache_folder
from pml_center.decoding import convert
from pml_center.evaluation import PairedTest, Report, RetrievalEvaluator, embed, wilson_interval
from pml_center.evaluation.embed import transform_of
from pml_center.evaluation.embedding_cache import cached_embeddings
from pml_center.evaluation.report import BESIDE
from pml_center.notebooks import html_table
from pml_center.training.config import TrainConfig

Embeddings = NDArray[np.float32]
PIXEL_SIDE = 32  # of the grey thumbnails that the raw-pixel base line compares
Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True, repr=False)
class Measurement:
    """Retrieval by a model's embeddings, and by what needs no training and any model has to beat.

    ``before`` is that of the model as it came, or of the features that a run begins with, see
    :func:`~pml_center.training.run_folder.untouched`; ``pixels`` that of raw pixels, None for features. ``accuracy`` is
    that of the loss as a classifier, for images of the classes that it was trained on; None for others. ``embeddings``
    are those of the images, (N, D).
    """

    model: Report
    before: Report | None
    pixels: Report | None
    accuracy: Report | None
    embeddings: Embeddings

    @property
    def beside(self) -> dict[str, Report]:
        """What stands beside the model, by the name of the file."""
        return {name: report for name in BESIDE if (report := getattr(self, name)) is not None}

    @property
    def reports(self) -> dict[str, Report]:
        """By the name of their file in a run folder."""
        return {"report": self.model} | self.beside | ({} if self.accuracy is None else {"accuracy": self.accuracy})

    def __repr__(self) -> str:
        return f"<Measurement: {self.model.summary}>"

    def _repr_html_(self) -> str:
        beside = {BESIDE[name]: report for name, report in self.beside.items()}
        said = gained(self.model, self.beside, next(iter(self.model.metrics)))
        return html_table(*self.model.table(beside), above=self.model.summary, below=[*said, *self.model.remarks])

    def to_dataframe(self) -> Any:
        """The values of every query as a data frame of pandas."""
        return self.model.to_dataframe()

    def with_warnings(self, warnings: Sequence[str]) -> "Measurement":
        """The same, whose report of the model says what makes it doubtful."""
        return replace(self, model=replace(self.model, warnings=(*self.model.warnings, *warnings)))


def measure(
    model: Embedder,
    images: LabeledImages,
    config: TrainConfig,
    known: bool = False,
    classify: Classifier | None = None,
    untouched: Embedder | Trunk | None = None,
) -> Measurement:
    """Search each image among all others, by embeddings and by what needs no training.

    Args:
        model: embeds.
        images: of classes whose numbers the classifier knows, where there is one.
        config: how images are read, embeddings compared.
        known: whether the model was trained on their classes, so that intervals are over images; else over classes.
        classify: embeddings -> numbers of classes.
        untouched: the model as it came; None where nobody has it. Features that a run begins with are what came.
    """
    embeddings = embeddings_of(model, images, config)
    before = feature_rows(images) if config.init_from is None else None
    if before is None and untouched is not None:
        before = embeddings_of(untouched.to(next(model.parameters()).device), images, config, is_kept=True)
    return distributed.from_main(lambda: _measure(embeddings, before, model, images, config, known, classify))


def feature_rows(images: LabeledImages) -> Embeddings | None:
    """The features in the place of images, (N, F); None of images."""
    return None if images.width is None else np.stack([np.asarray(vector) for vector in images.images])


def validate(model: Embedder, images: LabeledImages, config: TrainConfig) -> dict[str, float]:
    """The metric that chooses an epoch, and recall at 1, without intervals."""
    embeddings = embeddings_of(model, images, config)
    evaluator = validator(config)
    return distributed.from_main(lambda: dict(evaluator(embeddings, images.labels, query_groups=images.groups).metrics))


def validator(config: TrainConfig) -> RetrievalEvaluator:
    """What looks at the validation images.

    Raises:
        ValueError: an unknown metric.
    """
    return RetrievalEvaluator((config.metric,), recall_at=(1,), similarity=config.similarity, ci=None)


def check_measurable(split: str, images: LabeledImages, config: TrainConfig) -> None:
    """Images that will be measured must be readable, and one must find another.

    Args:
        split: what the images are for, ``"val"`` or ``"test"``.
        images: each process reads its share of them.
        config: of the run.

    Raises:
        ValueError: others.
    """
    # An image finds another of its class; where there are groups, such as cameras, one of another group.
    groups = np.arange(len(images)) if images.groups is None else np.unique(images.groups, return_inverse=True)[1]
    classes, counts = np.unique(np.unique([images.labels, groups], axis=1)[0], return_counts=True)
    if counts.max() < 2:
        where = "" if images.groups is None else " in another group"
        raise ValueError(
            f"{split} must have two images of a class to find one by the other{where}, got {len(images):,} images of "
            f"{len(classes):,} classes in {config.data}. Add images, or train on {config.data}/train with --held-out."
        )
    if images.width is not None:
        return  # features were looked at when they were opened
    rows = distributed.shard_rows(len(images))
    facts = inspect_images(images.subset(rows), config.workers)
    bad = [row for row, fact in zip(rows, facts, strict=True) if fact.error]
    if bad:
        more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ValueError(
            f"image must be a readable image file, got {images.name(bad[0])} ({facts[rows.index(bad[0])].error}){more} "
            f"in {split}. Repair or remove what `pml-center data check {config.data}` lists."
        )


def _measure(
    embeddings: Embeddings,
    before: Embeddings | None,
    model: Embedder,
    images: LabeledImages,
    config: TrainConfig,
    known: bool,
    classify: Classifier | None,
) -> Measurement:
    names = [images.name(i) for i in range(len(images))]
    labels = [images.classes[label] for label in images.labels]
    metrics = dict.fromkeys((*RetrievalEvaluator.metrics, config.metric))
    searched: dict[str, Any] = {"query_groups": images.groups, "names": names}
    ci: Literal["query", "class"] = "query" if known else "class"
    evaluator = RetrievalEvaluator(tuple(metrics), similarity=config.similarity, ci=ci)
    found = evaluator(embeddings, labels, **searched)
    beside = {} if before is None else {"before": evaluator(before, labels, **searched)}
    if images.width is None:
        # Thumbnails have length 1, so that distances rank as cosines do; unlike a cosine, they take a plain image.
        by_pixels = RetrievalEvaluator(tuple(metrics), similarity="euclidean", ci=None)
        rows = pixel_rows(images, config.batch_size, config.workers)
        beside["pixels"] = by_pixels(rows, labels, **searched)
    return Measurement(
        with_doubts(found, beside, config),
        beside.get("before"),
        beside.get("pixels"),
        None if classify is None else accuracy(embeddings, images.labels, classify, model),
        embeddings,
    )


def unbeaten(report: Report, beside: Mapping[str, Report], config: TrainConfig) -> list[str]:
    """Sentences on what needs no training and is better, each with what to try.

    Args:
        report: on retrieval.
        beside: the same by what needs no training, by the names of :data:`~pml_center.evaluation.report.BESIDE`.
        config: of the run, whose metric it is about; the first one where that was not measured.
    """
    name = config.metric if config.metric in report.metrics else next(iter(report.metrics))
    remedies, warnings = remedies_of(config, of_images="pixels" in beside), []
    if "before" in beside and beside["before"][name] > report[name]:
        tested = _tested(report, beside, name)
        worse = "worse" if tested is not None and tested[1].high < 0 else "no better"
        warnings.append(
            f"training made it {worse}: {name} is {report[name]:.4f}, and was {beside['before'][name]:.4f} before. "
            + remedies["before"].capitalize()
        )
    if "pixels" in beside and beside["pixels"][name] >= report[name]:
        warnings.append(
            f"{name} is {report[name]:.4f}, and raw pixels reach {beside['pixels'][name]:.4f}: {remedies['pixels']}"
        )
    return warnings


def remedies_of(config: TrainConfig, of_images: bool) -> dict[str, str]:
    """What to try that was not tried, where what needs no training is not beaten, by the names of ``BESIDE``.

    Example:
        >>> remedies_of(TrainConfig(pretrained=True, freeze="trunk"), of_images=True)["before"]
        'train with a smaller --lr, or for longer'
    """
    has_learned = bool(config.pretrained or config.weights or config.init_from)
    neck = "the neck alone with --freeze trunk, " if of_images and has_learned and config.freeze != "trunk" else ""
    start = "" if has_learned else "start from --pretrained weights, "
    return {
        "before": f"train {neck}with a smaller --lr, or for longer",
        "pixels": f"train longer, {start}or look at the data",
    }


def with_doubts(report: Report, beside: Mapping[str, Report], config: TrainConfig) -> Report:
    """The report, with those of :func:`unbeaten` as its first warnings."""
    return replace(report, warnings=tuple(dict.fromkeys([*unbeaten(report, beside, config), *report.warnings])))


def gained(report: Report, beside: Mapping[str, Report], metric: str) -> list[str]:
    """What training brought, tested over what is new, in a sentence; none where nothing was measured before it.

    Args:
        report: on retrieval.
        beside: as of :func:`unbeaten`.
        metric: of the run; the first one where that was not measured.
    """
    tested = _tested(report, beside, metric)
    if tested is None:
        return []
    name, test = tested
    before, after = f"{beside['before'][name]:.4f}", f"{report[name]:.4f}"
    if before == after:
        return [f"Training left {name} at {after}: {test}"]
    verb = "raised" if test.difference > 0 else "lowered"
    chance = ", which may be chance" if test.low <= 0 <= test.high else ""
    return [f"Training {verb} {name} from {before} to {after}{chance}: {test}"]


def _tested(report: Report, beside: Mapping[str, Report], metric: str) -> tuple[str, PairedTest] | None:
    """The metric, and the test of a model against what it was before; None where nothing can be tested."""
    before = beside.get("before")
    name = metric if metric in report.per_unit else next(iter(report.per_unit), "")
    if before is None or name not in before.per_unit or report.over != before.over:
        return None
    try:
        return name, replace(report, per_unit={name: report.per_unit[name]}).compare(before)[name]
    except ValueError:  # a single class
        return None


def of_known_classes(images: LabeledImages, classes: Sequence[str]) -> bool:
    """Whether all images are of classes, with the numbers, that were trained on."""
    labels = np.unique(images.labels)
    return all(label < len(classes) and images.classes[label] == classes[label] for label in labels)


def accuracy(embeddings: Embeddings, labels: NDArray[np.int64], classify: Classifier, model: Embedder) -> Report:
    """The share of images that the loss itself puts into the right class."""
    device = next(model.parameters()).device
    with torch.no_grad():
        predicted = classify(torch.from_numpy(embeddings).to(device)).cpu().numpy()
    right = (predicted == labels).astype(np.float64)
    return Report(
        metrics={"accuracy": float(right.mean())},
        protocol="classified by the class weights of the loss",
        counts={"images": len(labels)},
        per_unit={"accuracy": right},
        unit="image",
        over="images",
        ci={"accuracy": wilson_interval(right.sum(), len(right))},
        ci_method=f"Wilson's over {len(right):,} images",
    )


def embeddings_of(
    model: Embedder | Trunk, images: LabeledImages, config: TrainConfig, is_kept: bool = False
) -> Embeddings:
    """Of all images, in every process; each process embeds its share, with what BatchNorm saw in the first.

    Args:
        model: embeds.
        images: N of them.
        config: how they are read.
        is_kept: in the cache, where other runs may find them.

    Returns:
        (N, D).
    """
    distributed.share_buffers(model)
    rows = distributed.shard_rows(len(images))
    if not rows:
        return distributed.gather_rows(np.empty((0, model.embedding_size), np.float32))
    own = images.subset(rows).with_transform(transform_of(model))
    if images.width is not None:
        return distributed.gather_rows(embed(model, DataLoader(own, config.batch_size), progress=False)[0])
    if is_kept and (config.pretrained or config.weights):
        computed = config.batch_size, torch.get_num_threads()  # which the last bits may depend on
        recipe = model.image_size, model.in_chans, model.mean, model.std, *computed
        device = next(model.parameters()).device
        cached = cached_embeddings(model, own, recipe, device, config.batch_size, config.workers, cache_folder())
        return distributed.gather_rows(cached)
    loader = DataLoader(own, config.batch_size, num_workers=config.workers)
    return distributed.gather_rows(embed(model, loader, progress=distributed.is_main())[0])


def pixel_rows(images: LabeledImages, batch_size: int, workers: int, cache: Path | None = None) -> NDArray[np.float32]:
    """Images as rows of pixels: a 32 × 32 grey thumbnail, read as the model reads it, its mean subtracted, of length 1.

    Args:
        images: N of them.
        batch_size: how many at a time.
        workers: processes that read images.
        cache: the folder where rows are kept, None for nowhere.
    """
    recipe = ("grey thumbnail", PIXEL_SIDE)
    thumbnails = images.with_transform(_thumbnail)
    return cached_embeddings(torch.nn.Identity(), thumbnails, recipe, torch.device("cpu"), batch_size, workers, cache)


def _thumbnail(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(convert(image, channels=1).resize((PIXEL_SIDE, PIXEL_SIDE)), dtype=np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(np.linalg.norm(pixels), np.finfo(np.float32).eps)
