"""What all evaluators have in common: they take embeddings or folders of them, or a model and data to embed."""

from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from pml_center.arrays import as_list, parts_of
from pml_center.evaluation.embed import Samples, embed_samples, load_parts
from pml_center.evaluation.report import Report

AnyReport = TypeVar("AnyReport", bound=Report, covariant=True)


class Evaluator(Generic[AnyReport]):
    """What measures embeddings. It is called with :class:`Samples`, or with arrays and labels, and returns a report."""

    def __call__(self, embeddings: Any, *args: Any, **kwargs: Any) -> AnyReport:
        """Measure embeddings; each evaluator says what else it takes."""
        raise NotImplementedError

    def run(
        self,
        model: nn.Module,
        data: Any,
        gallery: Any = None,
        device: str | torch.device | None = None,
        *,
        batch_size: int = 64,
        workers: int = 0,
        progress: bool = True,
        **arguments: Any,
    ) -> AnyReport:
        """Embed data with a model and measure the embeddings.

        Args:
            model: images (B, ...) -> embeddings (B, D).
            data: a DataLoader, a data set, or :class:`~pml_center.data.LabeledImages`.
            gallery: likewise, for an evaluator that searches in one.
            device: where to compute; None means where the model is.
            batch_size: images at a time, where ``data`` is not a DataLoader.
            workers: processes that read images, likewise.
            progress: show a progress bar on stderr when that is a terminal.
            arguments: more of calling the evaluator, such as ``pairs`` of verification.

        Raises:
            TypeError: as for :func:`embed_samples`.
            ValueError: as for :func:`embed_samples` and for calling the evaluator.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> from pml_center.evaluation import RetrievalEvaluator
            >>> data = TensorDataset(torch.tensor([[1.0, 0], [2, 1], [0, 1], [1, 2]]), torch.tensor([0, 0, 1, 1]))
            >>> RetrievalEvaluator().run(nn.Identity(), data)["precision_at_1"]
            1.0
        """
        queries = embed_samples(model, data, device, batch_size, workers, progress)
        if gallery is not None:
            arguments["gallery"] = embed_samples(model, gallery, device, batch_size, workers, progress)
        return self(queries, **arguments)


def samples_of(values: Any, labels: Any = None, groups: Any = None, names: Any = None) -> Samples:
    """What was given; where it leaves something out, what samples or folders of :func:`save_samples` hold of it.

    Args:
        values: embeddings; or samples, a folder, or a list of folders.
        labels: (N,) the class of each row.
        groups: (N,) the group of each row.
        names: (N,) what to call each row.
    """
    given = Samples(values, labels, groups, names)
    if isinstance(values, Samples):
        stored = values
    else:
        folders = [values] if isinstance(values, (str, Path)) else values
        if not (isinstance(folders, (list, tuple)) and folders and isinstance(folders[0], (str, Path))):
            return _with_names(given)
        stored = load_parts(folders)
    columns = (old if new is None else new for old, new in zip(stored[1:], given[1:], strict=True))
    return _with_names(Samples(stored.embeddings, *columns))


def _with_names(samples: Samples) -> Samples:
    """The same samples, if they have a name for each row or none at all."""
    if samples.names is not None:
        samples = samples._replace(names=as_list(samples.names, "names"))
    if samples.names is not None and samples.embeddings is not None:
        rows = sum(len(part) if part.ndim else 0 for part in parts_of(samples.embeddings))
        if len(samples.names) != rows:
            raise ValueError(f"names must be one per row ({rows}), got {len(samples.names)}. Give them in order.")
    return samples


def labelled_samples(called: str, values: Any, labels: Any, groups: Any = None, names: Any = None) -> Samples:
    """:func:`samples_of`, where embeddings and labels must both be known; ``called`` is their name in an error."""
    samples = samples_of(values, labels, groups, names)
    if samples.embeddings is None or samples.labels is None:
        given = {called: samples.embeddings, "labels" if called == "embeddings" else f"{called}_labels": labels}
        got = [name for name, value in given.items() if value is not None]
        raise ValueError(
            f"{' and '.join(reversed(given))} must come together, got {f'only {got[0]}' if got else 'neither'}. "
            "Pass both, or a folder of save_samples."
        )
    return samples
