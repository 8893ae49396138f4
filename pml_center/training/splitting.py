"""Which images train, which choose the best epoch, and which are measured at the end."""

from dataclasses import replace

from pml_center.data import ImageSplits, LabeledImages, open_splits, split_classes, split_images
from pml_center.training.config import TrainConfig
from pml_center.training.data_record import SPLITS, DataRecord, Recorded, listing, parts_of, taken
from pml_center.training.run_folder import Run


def split_data(config: TrainConfig) -> ImageSplits:
    """The images of a run: those of a data set that has splits as they are, else by ``held_out`` and ``val``.

    They depend on ``split_seed`` and not on ``seed``: runs with other seeds are measured on the same images.

    Classes of the training images are numbered from 0. Validation and test images share these numbers where they are of
    the same classes.

    Raises:
        ValueError: shares that leave too little on a side.
    """
    splits = open_splits(config.data, config.data_root, config.labels)
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


def recorded_data(run: Run, config: TrainConfig, accept_changes: bool = False) -> tuple[ImageSplits, DataRecord, str]:
    """The images of a run that began: what it recorded decides, whatever else has come to the data.

    Args:
        run: that began.
        config: of the run.
        accept_changes: go on with what is still there of the recorded images, with the labels that they had.

    Returns:
        The images in the order of the record, the record, and what has changed, which was accepted.

    Raises:
        ValueError: data that have changed.
    """
    if not run.has_data_record:
        return _drawn_again(run, config)
    record, opened = run.data, parts_of(open_splits(config.data, config.data_root, config.labels))
    drawn = {split for split in SPLITS if split not in opened}
    found = record.found_in(listing(opened, config.data), drawn)
    said = found.said()
    if said and not accept_changes:
        raise _changed(
            run, said, "go on with --accept-changes: what is new stays out, and what is left stays as it was"
        )
    splits = {}
    for split in SPLITS:
        pairs = found.of_split(split)
        if pairs:
            part = taken(pairs, opened, config.data, record.classes)
            by_class = split in drawn and config.split == "classes"
            splits[split] = part.subset(range(len(part)), renumber=by_class)
    return ImageSplits(**splits), record, said


def changes_since(run: Run, record: DataRecord) -> str:
    """What differs between what a run recorded and the data as they are divided now; empty where nothing does.

    A run of an earlier version recorded no more than the names of its classes and of the images held out.
    """
    before, now = run.data, record.by_path
    if not run.has_data_record:
        before = DataRecord([], [*before.rows, *(Recorded("", name, name) for name in run.classes)])
        now = {row.path: row for row in record.rows if row.split == "test"}
        now |= {name: Recorded("", name, name) for name in record.classes}
    said = before.found_in(now, drawn=["val"]).said()  # a search takes validation images from those of training
    return said or ("another order" if before.names("test") != record.names("test") else "")


def _drawn_again(run: Run, config: TrainConfig) -> tuple[ImageSplits, DataRecord, str]:
    """The images of a run of an earlier version."""
    images = split_data(config)
    record = DataRecord.of(images, config.data)
    if said := changes_since(run, record):
        raise _changed(run, said, "measure it with `pml-center eval`")
    return images, record, ""


def _changed(run: Run, said: str, way: str) -> ValueError:
    return ValueError(
        f"data must be those that {run.folder} trains on and holds out, got {said}. Restore them, train anew, or {way}."
    )


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
