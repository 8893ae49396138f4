"""What all evaluators have in common: they take embeddings, or a model and data to embed with it."""

from typing import Any, Generic, TypeVar

import torch
from torch import nn

from pml_center.evaluation.embed import embed_samples
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
            TypeError: labels that are not integers.
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
