"""Which images train, which choose the best epoch, and which are measured at the end."""

from dataclasses import replace

from pml_center.data import ImageSplits, LabeledImages, open_splits, split_classes, split_images
from pml_center.training.config import TrainConfig


def split_data(config: TrainConfig) -> ImageSplits:
    """The images of a run: those of a data set that has splits as they are, else by ``held_out`` and ``val``.

    They depend on ``split_seed`` and not on ``seed``: runs with other seeds are measured on the same images.

    Classes of the training images are numbered from 0. Validation and test images share these numbers where they are of
    the same classes.

    Raises:
        ValueError: shares that leave too little on a side.
    """
    splits = open_splits(config.data, config.data_root)
    if splits.val is not None and config.val:
        raise ValueError(
            f"val must be 0 because {config.data} comes with validation images, got {config.val}. Leave --val out."
        )
    if splits.test is None and config.held_out:
        train, test = _hold_out("held_out", splits.train, config.held_out, config)
        splits = replace(splits, train=train, test=test)
    if splits.val is None and config.val:
        train, val = _hold_out("val", splits.train, config.val, config)
        splits = replace(splits, train=train, val=val)
    if splits.val is None and config.patience:
        raise ValueError(
            f"patience must be 0 without validation images, got {config.patience}. Take some with --val 0.2."
        )
    return splits


def _hold_out(
    name: str, images: LabeledImages, share: float, config: TrainConfig
) -> tuple[LabeledImages, LabeledImages]:
    by_class = config.split == "classes"
    try:
        kept, held_out = (split_classes if by_class else split_images)(images.labels, share, config.split_seed)
    except ValueError as error:
        raise ValueError(str(error).replace("held_out", name)) from error
    rest, part = (images.subset(rows, renumber=by_class) for rows in (kept, held_out))
    if part.counts.max() < 2:
        got, remedy = f"{share} of {images.counts.max()} images in the largest class", "--split classes"
        if by_class:
            got, remedy = (
                f"{part.num_classes} classes with one image each",
                "another --split-seed",
            )
        raise ValueError(
            f"{name} must leave two images of a class to find one by the other, got {got}. Use a larger "
            f"--{name.replace('_', '-')}, or {remedy}."
        )
    return rest, part
