"""Where embeddings come from: a model by name and images by path, a folder that ``embed`` wrote, or arrays."""

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pml_center.arrays import read_array
from pml_center.backbones import Embedder, full_name
from pml_center.cli.embeddings import is_embedding_folder, read_embeddings
from pml_center.cli.options import ModelOptions
from pml_center.data import LabeledImages, digits, eval_transform, open_images
from pml_center.data.archives import split_archive
from pml_center.data.data_folder import cache_folder
from pml_center.data.inspect_images import readable
from pml_center.data.open_images import full_source, split_apart
from pml_center.data.seen_images import NOTHING, SeenImages
from pml_center.data.vectors import IDENTITY, MODEL_FILE, doubts_of, left_out, made_by, maker_of
from pml_center.evaluation import Samples, embed
from pml_center.evaluation.embedding_cache import cached_embeddings, model_fingerprint
from pml_center.text_files import read_rows

if TYPE_CHECKING:
    from pml_center.training import Run

LOG = logging.getLogger("pml_center")
KEPT = ("pretrained", "weights", "image_size", "channels", "flip_test")  # of the options: what embeddings depend on


@dataclass(frozen=True)
class Embedded:
    """Embeddings, what is known of each, and where they come from."""

    samples: Samples
    images: Any  # LabeledImages or paths, in the order of the rows; None where there are none to show
    facts: dict[str, Any]  # where they come from, for a reader
    model: "Model | None" = None
    doubts: tuple[str, ...] = ()  # sentences for every report

    @property
    def run(self) -> "Run | None":
        """The run of the model, if it has one."""
        return None if self.model is None else self.model.run

    @property
    def maker(self) -> dict[str, Any]:
        """What tells the model from others, as far as it is known, in values of JSON."""
        if self.model is not None:
            return self.model.identity
        return maker_of(self.facts["embeddings"])

    @property
    def seen(self) -> SeenImages:
        """What the model was trained on, as far as it is known."""
        if self.model is not None:
            return self.model.seen
        folder = self.facts["embeddings"]
        seen = SeenImages.read(Path(folder))
        if seen is None and made_by(folder):  # of an earlier version
            from pml_center.training.origin import seen_by

            return seen_by(folder)
        return seen or NOTHING

    @property
    def name(self) -> str:
        """The model, or the folder of embeddings, in a word."""
        return Path(next(iter(self.facts.values()))).name

    def cut(self, width: int) -> "Embedded":
        """The same rows, of which each has its first numbers alone.

        Raises:
            ValueError: rows that have fewer.
        """
        embeddings = self.samples.embeddings
        size = embeddings.shape[1]
        if width > size:
            raise ValueError(
                f"widths must be at most the {size} numbers of an embedding, got {width} for {self.name}. Leave it out."
            )
        return replace(self, samples=self.samples._replace(embeddings=embeddings[:, :width]))

    def in_groups(self, pattern: str | None) -> "Embedded":
        """The same rows, in the groups that their names tell by a regular expression; None for no groups."""
        groups = None if pattern is None else groups_by_name(pattern, self.samples.names)
        return replace(self, samples=self.samples._replace(groups=groups))


class Model:
    """A model by name, ready to embed.

    Args:
        source: a run folder, a timm name, ``hf-hub:...`` or ``local-dir:...``.
        options: how to make it and run it.

    Raises:
        ValueError: an unknown name, or options that do not fit.
        OSError: no such file of weights; pretrained weights that are not on this machine while there is no network.
    """

    def __init__(self, source: str, options: ModelOptions):
        from pml_center.training.loop import choose_device  # and with it timm and PML, which arrays do not need
        from pml_center.training.run_folder import Run

        self.source, self.options = source, options
        self.device = choose_device(options.device)
        is_path = Path(source).is_dir() or (os.sep in source and ":" not in source)  # timm has sources with a colon
        self.run = Run.open(source) if is_path else None
        self.weights_digest = self.run and self.run.weights_digest  # before they are read: others may come meanwhile
        self.embedder = self._of_run(self.run) if self.run else self._of_timm()
        self.network: nn.Module = _WithMirrorImage(self.embedder) if options.flip_test else self.embedder
        self.network.eval()
        if options.flip_test and self.embedder.image_size is None:
            raise ValueError(f"flip_test must be left out for {source}, which takes features, got it. Embed with it.")

    def embed(self, images: LabeledImages, network: nn.Module | None = None) -> np.ndarray:
        """Embed images, or take the embeddings from the cache: (N, D); by another network of the same input, if any."""
        options = self.options
        if self.embedder.image_size is None:
            images = self.features(images)
            return embed(network or self.network, DataLoader(images, options.batch_size), self.device)[0]
        if images.width is not None:
            raise ValueError(f"data must be images, as {self.source} takes, got features. Give the images.")
        return cached_embeddings(
            network or self.network,
            images.with_transform(eval_transform(*self.recipe)),
            self.recipe,
            self.device,
            options.batch_size,
            options.workers,
            cache_folder() if options.cache else None,
        )

    def features(self, images: LabeledImages) -> LabeledImages:
        """Features in the place of images, by the model that made those of training."""
        if images.width is not None:
            return images
        from pml_center.training.run_folder import check_features

        source = Path(split_apart(self.run.config.data)[0]) if self.run else Path()
        if not (source / MODEL_FILE).is_file():
            raise ValueError(
                f"data must be features, as {self.source} was trained on, got images. Embed them with the model that "
                "made its features, and give that folder."
            )
        assert self.run is not None
        check_features(self.run, self.run.config.data)
        return images.as_vectors(model_of(source, self.options).embed(images))

    @property
    def recipe(self) -> tuple[Any, ...]:
        """How images are put before the model: size, channels, mean and standard deviation."""
        model = self.embedder
        return model.image_size, model.in_chans, model.mean, model.std

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the model from others that embed otherwise, in values of JSON."""
        values = model_fingerprint(self.embedder), self.options.flip_test, json.loads(json.dumps(self.recipe))
        return dict(zip(IDENTITY, values, strict=True))

    @property
    def seen(self) -> SeenImages:
        """What the model was trained on, as far as it is known."""
        from pml_center.training.origin import seen_by

        if self.run is not None:
            return seen_by(self.source)
        has_learned = self.options.pretrained or self.options.weights is not None
        return seen_by(self.source, self.options.weights) if has_learned else NOTHING

    @property
    def facts(self) -> dict[str, Any]:
        """What made the embeddings, for a reader and for :func:`model_of`."""
        source = str(self.run.folder.resolve()) if self.run else full_name(self.source)
        kept = {name: getattr(self.options, name) for name in KEPT}
        if self.options.weights:
            kept |= {"weights": str(Path(self.options.weights).expanduser().resolve()), "pretrained": False}
        return {"model": source} | kept

    def _of_run(self, run: "Run") -> Embedder:
        options = self.options
        given = {"weights": options.weights, "image_size": options.image_size, "channels": options.channels}
        wrong = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
        if wrong:
            raise ValueError(f"a run must be taken as it is, got {' and '.join(wrong)}. Leave these options out.")
        return run.load_model()

    def _of_timm(self) -> Embedder:
        from pml_center.training.run_folder import timm_trunk

        options = self.options
        pretrained = options.pretrained and options.weights is None
        if not pretrained and options.weights is None:
            LOG.warning("%s has random weights: give --weights, or leave --no-pretrained out", self.source)
        return timm_trunk(self.source, pretrained, options.weights, options.image_size, options.channels)


def model_of(folder: Path, options: ModelOptions) -> Model:
    """The model that made a folder of embeddings.

    Raises:
        FileNotFoundError: nobody wrote down which.
        ValueError: its weights have changed since.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"folder must say which model made its embeddings, got {str(folder)!r} without {MODEL_FILE}. "
            "Embed with `pml-center embed`."
        )
    facts = made_by(str(folder))
    lacking = [name for name in ("model", "fingerprint", *KEPT) if name not in facts]
    if lacking:
        raise ValueError(
            f"{MODEL_FILE} must say what made the embeddings, got {str(path)!r} without {', '.join(lacking)}. "
            "Embed again."
        )
    model = Model(facts["model"], replace(options, **{name: facts[name] for name in KEPT}))
    if any(facts.get(name, value) != value for name, value in model.identity.items()):
        raise ValueError(
            f"model must be the one that made {str(folder)!r}, got other weights of {facts['model']!r}. Embed again."
        )
    return model


def embedded(
    source: str,
    data: str | None,
    options: ModelOptions,
    model: Model | None = None,
    names: str | None = None,
    look: Callable[[list[str]], object] | None = None,
) -> Embedded:
    """Embeddings by what a user gives: a model and data, a folder of embeddings, or two files.

    Args:
        source: a run folder, a timm name, a folder of ``embed``, or an .npy file of embeddings.
        data: images; for an .npy file the labels, .npy or a line each; none for a folder of ``embed``.
        options: how to make and run a model.
        model: the model of ``source``, where it is there already.
        names: for an .npy file: a text file with the path of each row.
        look: at the names of the images, before they are embedded.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: what does not fit together.
    """
    if names is not None and not source.endswith(".npy"):
        raise ValueError(
            f"--names must come with an .npy file of embeddings, got {source}, which has names. Leave it out."
        )
    if is_embedding_folder(source):
        if data is not None:
            raise ValueError(f"data must be left out because {source} holds embeddings, got {data}. Use --gallery.")
        samples, said = read_embeddings(source), tuple(doubts_of(source))
        for doubt in said:
            LOG.warning("%s", doubt)
        return Embedded(samples, pictures(samples.names), {"embeddings": str(Path(source).resolve())}, doubts=said)
    if source.endswith(".npy"):
        return _of_arrays(Path(source), data, names)
    model = model or Model(source, options)
    images, skipped, doubts = _images(model.run, data, options)
    for doubt in doubts:
        LOG.warning("%s", doubt)
    LOG.info("data    %s images of %s classes", f"{len(images):,}", f"{images.num_classes:,}")
    if images.width is not None and model.run is not None and data is not None:
        from pml_center.training.run_folder import check_features

        check_features(model.run, data)
    of_images = [images.name(i) for i in range(len(images))]
    if look is not None:
        look(of_images)
    labels = [images.classes[label] for label in images.labels]
    groups = None if images.groups is None else images.groups.tolist()
    facts = {"data": full_source(data) if data else "held out", "images": len(images), "classes": images.num_classes}
    facts |= {"skipped": skipped} if options.skip_bad else {}
    samples = Samples(model.embed(images), labels, groups, of_images)
    return Embedded(samples, images, model.facts | facts, model, doubts)


def before(rows: Embedded) -> tuple[Embedded | None, list[str]]:
    """The same images with the embeddings of the model of a run before training; None, and why, where that is gone."""
    from pml_center.training.measurement import feature_rows
    from pml_center.training.run_folder import untouched

    model = rows.model
    if model is None or model.run is None:
        return None, []
    config = model.run.config
    begins_with_features = config.features is not None and config.init_from is None
    found = feature_rows(model.features(rows.images)) if begins_with_features else None
    if found is None:
        came, gone = untouched(config, model.run.start)
        if came is None:
            return None, gone
        network = _WithMirrorImage(came) if model.options.flip_test else came
        found = model.embed(rows.images, network.eval())
    return replace(rows, samples=rows.samples._replace(embeddings=found)), []


def pixels(rows: Embedded) -> tuple[Embedded | None, list[str]]:
    """The same images with raw pixels as embeddings; None for features in the place of images. Nothing is doubtful."""
    from pml_center.training.measurement import pixel_rows

    if rows.images.width is not None:
        return None, []
    options = ModelOptions() if rows.model is None else rows.model.options
    cache = cache_folder() if options.cache else None
    found = pixel_rows(rows.images, options.batch_size, options.workers, cache)
    return replace(rows, samples=rows.samples._replace(embeddings=found)), []


def groups_by_name(pattern: str, names: Sequence[str] | None) -> list[str]:
    """The group of each image, such as its camera, from its name.

    Args:
        pattern: a regular expression; what its first parentheses match is the group, or the whole match.
        names: of the images.

    Raises:
        ValueError: a pattern that is no regular expression, an image that it does not match, or no names.

    Example:
        >>> groups_by_name("_c([0-9])", ["0002_c1s1.jpg", "0002_c3s1.jpg"])
        ['1', '3']
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"groups must be a regular expression, got {pattern!r} ({error}). Try '_c([0-9]+)'."
        ) from error
    if names is None:
        raise ValueError(
            "groups must be read from names, got embeddings without names. Give --names, or write a column 'group'."
        )
    found = [compiled.search(name) for name in names]
    missing = [name for name, match in zip(names, found, strict=True) if match is None]
    if missing:
        raise ValueError(
            f"groups must match every name, got {missing[0]!r} which {pattern!r} does not match ({len(missing)} of "
            f"{len(names)} names). Try another expression."
        )
    return [match[1] if compiled.groups else match[0] for match in found if match]


def pictures(names: Sequence[str] | None) -> Any:
    """The images that rows are named by, None where one is not there."""
    if names is None:
        return None
    numbers = [re.fullmatch(r"digits\[([0-9]+)\]", name) for name in names]
    if all(numbers):
        return digits().subset([int(match[1]) for match in numbers if match])
    missing = next((name for name in names if not os.path.exists(name) and split_archive(name)[0] is None), None)
    if missing is not None:
        LOG.info("no pictures in the report: %s is not there", missing)
        return None
    try:
        LabeledImages([names[0]], [0], ["image"])[0]
    except ValueError:
        LOG.info("no pictures in the report: %s is no image", names[0])
        return None
    return list(names)


class _WithMirrorImage(nn.Module):
    """The sum of the embeddings of an image and of its mirror image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + self.model(torch.flip(images, dims=[-1]))


def _images(
    run: "Run | None", data: str | None, options: ModelOptions
) -> tuple[LabeledImages, list[str], tuple[str, ...]]:
    """The images to embed, the names of those left out because they cannot be read, and what makes all doubtful."""
    doubts = [] if run is None else run.accepted
    if data is not None:
        images = open_images(data, options.data_root, options.labels)
    elif run is not None:
        images = open_images(run.config.data, options.data_root or run.config.data_root, run.config.labels)
        images, doubts = run.find_held_out(images, options.accept_changes)
    else:
        raise ValueError("data must be given for a model that is no run, got none. Name a folder, or 'digits'.")
    if not options.skip_bad or images.width is not None:
        return images, [], tuple(doubts)
    images, skipped = readable(images, options.workers)
    if skipped:
        doubts.append(left_out(skipped, len(images)))
    return images, skipped, tuple(doubts)


def _of_arrays(path: Path, data: str | None, names: str | None) -> Embedded:
    if data is None:
        raise ValueError(f"labels must be given for the embeddings {path}, got none. Name an .npy or a text file.")
    embeddings = read_array(path, mapped=True)
    labels = read_array(data) if data.endswith(".npy") else read_rows(data, "labels")
    paths = None if names is None else read_rows(names, "names")
    if embeddings.dtype.kind not in "fiu":
        raise ValueError(
            f"embeddings must be real numbers, got dtype {embeddings.dtype} in {path}. Save them as float32."
        )
    facts = {"embeddings": str(path.resolve()), "labels": data} | ({} if names is None else {"names": names})
    return Embedded(Samples(embeddings, labels, names=paths), pictures(paths), facts)
