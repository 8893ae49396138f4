"""What weights have seen, and what makes numbers of them doubtful: of runs, folders of embeddings and exports alike."""

from contextlib import suppress
from pathlib import Path

from pml_center.data.open_images import split_apart
from pml_center.data.seen_images import NOTHING, Seen, SeenImages
from pml_center.data.vectors import doubts_of, is_vectors, made_by
from pml_center.training.config import TrainConfig
from pml_center.training.data_record import DataRecord
from pml_center.training.run_folder import Run


def seen_by(source: str, weights: str | None = None, followed: frozenset[str] = frozenset()) -> SeenImages:
    """The images that a model was trained on, or what it started from, as far as anybody wrote it down.

    Args:
        source: a run folder, a folder of embeddings, or a model by name, of which those of ``local-dir:`` may say it.
        weights: a file of weights for a model by name, which may lie in an export.
        followed: runs that ask, and are not asked again.
    """
    kind, _, place = source.partition(":")
    folder = Path(weights).parent if weights else Path(place) if kind.lower() == "local-dir" else Path(source)
    folder = folder.expanduser()
    if not weights and (folder / "config.yaml").is_file():
        return _seen_by_run(Run.open(folder), followed)
    if (seen := SeenImages.read(folder)) is not None:
        return seen
    maker = made_by(str(folder)).get("model")  # of a version that wrote down no more than its name
    return seen_by(maker, followed=followed) if maker else NOTHING


def seen_before(config: TrainConfig, followed: frozenset[str] = frozenset()) -> SeenImages:
    """The images that the weights that a run starts from, and the model behind its features, were trained on."""
    found = [seen_by(config.init_from, followed=followed)] if config.init_from else []
    if is_vectors(source := split_apart(config.data)[0]):
        found.append(seen_by(source, followed=followed))
    model = config.model or ""
    if config.weights or (config.pretrained and model.lower().startswith("local-dir:")):
        found.append(seen_by(model, config.weights))
    return NOTHING.and_before(*found)


def doubts(config: TrainConfig, record: DataRecord) -> list[str]:
    """Sentences on what makes numbers of a run doubtful before it has begun."""
    measured = record.as_seen("test", config.data, config.features is not None)
    by = record.seen.runs_of(measured)
    runs = [run for run in dict.fromkeys(by) if run]
    seen = sum(run is not None for run in by)
    found = doubts_of(split_apart(config.data)[0]) if config.features is not None else []
    if seen:
        found.insert(
            0,
            f"{seen:,} of the {len(measured):,} images held out are among those that {' and '.join(runs)} "
            f"{'were' if len(runs) > 1 else 'was'} trained on, which this run started from",
        )
    return found


def _seen_by_run(run: Run, followed: frozenset[str]) -> SeenImages:
    """By a run and all before it; those that an earlier version did not write down are followed."""
    config, by = run.config, str(run.folder.resolve())
    if by in followed:
        return NOTHING
    before, own = NOTHING, [Seen(by, label) for label in run.classes]
    if run.has_data_record:
        record = run.data
        before, own = record.seen, record.as_seen("train", config.data, config.features is not None, by)
    if not before:
        with suppress(OSError, ValueError):  # what is no longer there tells nothing
            before = seen_before(config, followed | {by})
    return SeenImages(own).and_before(before)
