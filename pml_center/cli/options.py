"""Options that several commands take."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from pml_center.training.config import check_at_least, sides_of

# What a user may give as data, said once for the help of every command that takes some.
DATA = (
    "'digits'; a folder with one sub-folder of images per class, or with such folders in train/, val/ and test/; a zip "
    "file of either; a CSV file with columns path, label and, if wanted, group and split; or a data set by name: "
    "torchvision/CIFAR10, pml/CUB, or timm's torch/..., hfds/..., wds/..., tfds/.... One split of it is photos/test, "
    "images.csv/test, pml/CUB/test. Or features in the place of images: a folder that embed wrote, or an .npz file."
)

Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]
Protocol = Literal["retrieval", "verification", "identification", "openset", "clustering", "fewshot"]


@dataclass(frozen=True)
class ModelOptions:
    """How images become embeddings.

    Attributes:
        pretrained: load the weights that timm names, for a timm model without --weights.
        weights: a file of weights for a timm model, safetensors or pth.
        image_size: side of the square that images are resized to, in pixels, or height and width, such as 256x128; by
            default what the model takes.
        channels: 1 for grey, 3 for colour; by default what the model takes.
        flip_test: add the embedding of the mirror image.
        batch_size: images at a time.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
        workers: processes that read images; 0 reads in the main process.
        cache: keep embeddings, and use those that the same model made of the same files before.
        data_root: where data sets by name lie, or are downloaded to; by default data in ~/.cache/pml-center.
        labels: of features in an .npy file, for a run that was trained on features.
        skip_bad: leave out images that cannot be read, and list them; without it, the first one ends the command.
        accept_changes: measure what a run held out although it has changed: what is still there, in the classes that it
            had. The report then says so.
    """

    pretrained: bool = True
    weights: str | None = None
    image_size: int | str | None = None
    channels: Literal[1, 3] | None = None
    flip_test: Flag = False
    batch_size: int = 128
    device: str = "auto"
    workers: int = 2
    cache: bool = True
    data_root: str | None = None
    labels: str | None = None
    skip_bad: Flag = False
    accept_changes: Flag = False

    def __post_init__(self) -> None:
        check_at_least(0, "See --help.", workers=self.workers)
        check_at_least(1, "See --help.", batch_size=self.batch_size)
        sides_of(self.image_size)


@dataclass(frozen=True)
class EvalOptions:
    """What to measure.

    Attributes:
        protocol: one or several; by default retrieval, or verification where there are pairs. 'retrieval' searches
            each image among all others, or in the gallery; 'verification' decides whether two images are of one class,
            for --pairs or for all pairs; 'identification' looks up each image in a gallery of one image per class;
            'openset' tells images of known classes from others, by the gallery or by the logits of a run;
            'clustering' compares k-means with the classes; 'fewshot' classifies by a few images per class.
        gallery: where to search: another data set, or another folder of embeddings. Identification without it enrols
            the first image of each class.
        groups: a regular expression for image names, such as '_c([0-9]+)'. What it finds is an image's camera or
            sequence: a query does not see references of its own class and group. By default the groups of the data, if
            these have any.
        names: for an .npy file of embeddings: a text file with the path of each row, a line each. --pairs and --groups
            go by it, and --report shows the images.
        pairs: verify these pairs: LFW's pairs.txt; a CSV file with columns first, second, same, and fold if there are
            folds; or trials of speakers, '1 path path' or 'path path target' a line.
        cohort: normalise the scores of pairs by those with these (AS-Norm): another data set, or another folder of
            embeddings, of none who is in the pairs.
        top_n: how many of the cohort count for each image.
        p_target: how often pairs are expected to be genuine, of each minDCF that verification reports for --pairs.
        metrics: of retrieval, see RetrievalEvaluator; by default its own, and that which chose the epochs of a run.
        recall_at: the K of each recall_at_K.
        ranks: the k of each rank_k of identification.
        far: false accept rates at which verification reports the true accept rate; by default those that there are
            pairs enough for.
        ways: classes in an episode of few-shot.
        shots: known images of each class in an episode.
        queries: images of each class to classify in an episode.
        episodes: of few-shot; by default as many as share no image.
        widths: measure the first numbers of embeddings alone, too, such as the first 64 and the first 128 by 64x128.
        similarity: how embeddings are compared; by default as the run was trained to, or by cosine.
        index: a faiss factory string for retrieval, such as 'IVF256,Flat' or 'HNSW32'; Flat is exact.
        singletons: what retrieval does with images that are alone in their class.
        ci: what could have been others, in retrieval, identification and few-shot: 'class', where classes are new to
            the model, or 'query', new images of known classes. By default classes, and queries where a run was trained
            on all of them. Verification always goes by people.
        ci_level: level of the confidence intervals.
        resamples: of the bootstrap.
        seed: of everything random.
        json: print one JSON object instead of tables.
        report: write a page (HTML) with images and plots there.
    """

    protocol: tuple[Protocol, ...] | None = None
    gallery: str | None = None
    groups: str | None = None
    names: str | None = None
    pairs: str | None = None
    cohort: str | None = None
    top_n: int = 300
    p_target: tuple[float, ...] = ()
    metrics: tuple[str, ...] | None = None
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    ranks: tuple[int, ...] = (1, 5, 10)
    far: tuple[float, ...] | None = None
    ways: int = 5
    shots: int = 1
    queries: int = 15
    episodes: int | None = None
    widths: int | str | None = None
    similarity: Literal["cosine", "dot", "euclidean"] | None = None
    index: str = "Flat"
    singletons: Literal["skip", "zero", "error"] = "skip"
    ci: Literal["class", "query", "none"] | None = None
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    json: Flag = False
    report: str | None = None
