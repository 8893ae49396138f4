"""ClassWeights: where the weights of the classes live."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_center.checks import check_embeddings, check_labels
from pml_center.ops.draws import drawn_classes, drawn_probability


class Chosen(NamedTuple):
    """The classes that take part in a step."""

    rows: Tensor
    """(R · sub_centers, D) weights."""
    bias: Tensor | None
    """(R,)"""
    own: Tensor
    """(B,) which of the R classes is each sample's own."""
    classes: Tensor | None = None
    """(R,) their numbers; None where they are all."""
    drawn: Tensor | None = None
    """(R,) the probability with which each was drawn, 1 for those of the batch; None where nothing is corrected."""


class Counting:
    """A module with counts that stay on the CPU wherever it goes, saved as a buffer would be.

    They say what the CPU does next, as the seed of a draw or the step of a schedule does: it must not wait to know. A
    buffer would go along to the GPU, or stay behind, where ``DistributedDataParallel`` wants all on one device.
    """

    _kept_counts: Mapping[str, bool] = MappingProxyType({})  # by name, whether it is saved

    def add_count(self, name: str, is_saved: bool = True) -> None:
        """Count from 0. Counts are replaced, never mutated. In the state they have no underscore."""
        setattr(self, name, torch.zeros((), dtype=torch.long))
        self._kept_counts = {**self._kept_counts, name: is_saved}

    @property
    def counts(self) -> dict[str, Tensor]:
        """All of them, by name."""
        return {name: getattr(self, name) for name in self._kept_counts}

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        for name, is_saved in self._kept_counts.items():
            if is_saved:
                destination[prefix + name.removeprefix("_")] = getattr(self, name)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """A count is part of the state under some options only: a state may come without it, or with it in vain."""
        for name, is_saved in self._kept_counts.items():
            value = state_dict.pop(prefix + name.removeprefix("_"), None)
            if is_saved and value is not None:
                setattr(self, name, value.detach().to("cpu", torch.long, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]


class ClassWeights(Counting, nn.Module):
    """Some rows of weights per class, and a bias per class if asked for.

    Rows, not PML's columns: rows gather, split and sample. They keep the type that they were made with, fp32, whatever
    arrives; a wider type is met by a copy.

    With ``sample_rate`` below 1 a training step sees the classes of its batch and, of the others, a random choice that
    makes ``sample_rate`` of all together (Partial FC, An et al. 2021, arXiv:2010.05222). The choice is a function of
    ``seed`` and of how many were drawn before, which is part of the state: a resumed run draws as if never stopped.
    A step has at least as many classes as samples.

    The choice is even: beside the U classes of the batch, each of the other C − U comes with the probability
    q = (R − U) / (C − U), by which ``sample_correction`` lets sums over R classes estimate those over all.

    Args:
        num_classes: C.
        embedding_size: D.
        init: fills a (D, C · sub_centers) tensor in place, as PML's ``weight_init_func``.
        bias: whether there is a bias, which starts from 0.
        sub_centers: rows per class, which follow each other.
        sample_rate: in (0, 1], the share of the classes in a training step.
        sample_correction: with ``sample_rate`` below 1, whether sums over the classes are to be corrected for it.
        sparse_gradient: with ``sample_rate`` below 1, whether the gradient is a sparse tensor.
        seed: of the choice.
    """

    per_class = ("weight", "bias")
    draws: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        init: Callable[[Tensor], object],
        bias: bool = False,
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        sample_correction: bool = True,
        sparse_gradient: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        columns = torch.empty(embedding_size, num_classes * sub_centers)  # PML's layout, for fan-in and fan-out
        init(columns)
        self.weight = nn.Parameter(columns.t().contiguous())
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None
        self.num_classes, self.sub_centers = num_classes, sub_centers
        self.sample_rate, self.sample_correction = sample_rate, sample_correction
        self.sparse_gradient, self.seed = sparse_gradient, seed
        self.add_count("draws", is_saved=sample_rate < 1)

    def apply(self, fn: Callable[[nn.Module], object]) -> "ClassWeights":
        """Nothing: what starts the ``weight`` of layers anew, as ``model.apply(init)``, would start these, too."""
        return self

    def everything(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """All weights (C · sub_centers, D) and biases (C,) or None, in the type to compute with."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def choose(self, labels: Tensor, dtype: torch.dtype) -> Chosen:
        """The weights that take part in this step, in the type to compute with."""
        rows, bias = self.everything(dtype)
        if self.sample_rate == 1 or not self.training:
            return Chosen(rows, bias, labels)
        classes = self._sample(labels)
        of_class = torch.arange(self.sub_centers, device=labels.device)
        index = (classes.unsqueeze(1) * self.sub_centers + of_class).flatten()
        rows = F.embedding(index, self.weight, sparse=self.sparse_gradient).to(dtype)
        own = torch.searchsorted(classes, labels)
        drawn = self._probability(classes, own).to(dtype) if self.sample_correction else None
        return Chosen(rows, None if bias is None else bias[classes], own, classes, drawn)

    @property
    def compared_classes(self) -> float:
        """How many classes a sum over classes stands for in training."""
        return self.num_classes if self.sample_correction else self.num_classes * self.sample_rate

    def resize(self, num_classes: int, init: Callable[[Tensor], object]) -> None:
        """Keep the first classes, and add new ones as at the start."""
        kept = min(num_classes, self.num_classes)
        fresh = ClassWeights(num_classes, self.weight.shape[1], init, self.bias is not None, self.sub_centers).to(
            self.weight
        )
        fresh.weight[: kept * self.sub_centers] = self.weight[: kept * self.sub_centers]
        self.weight, self.num_classes = fresh.weight, num_classes
        if self.bias is not None and fresh.bias is not None:
            fresh.bias[:kept] = self.bias[:kept]
            self.bias = fresh.bias

    def outliers(self, embeddings: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Which of N embeddings are farther than so many degrees from their dominant row, and these rows, (C, D)."""
        cosine, of_sample, dominant = self._dominant(embeddings, labels)
        own = cosine.gather(1, of_sample.unsqueeze(1)).squeeze(1)
        far = (own < math.cos(math.radians(threshold))).nonzero().squeeze(1)
        return far, self.weight.view(self.num_classes, self.sub_centers, -1)[torch.arange(len(dominant)), dominant]

    def keep_dominant(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep one row of each class: that which is the nearest of the class to most of its embeddings."""
        *_, dominant = self._dominant(embeddings, labels)
        rows = torch.arange(self.num_classes, device=dominant.device) * self.sub_centers + dominant
        self.weight, self.sub_centers = nn.Parameter(self.weight[rows], self.weight.requires_grad), 1

    def _dominant(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines to the rows of one's class, (N, K), which of them dominates there, (N,), and in each class, (C,)."""
        check_embeddings(embeddings, self.weight.shape[1])
        labels = check_labels(labels, self.num_classes, len(embeddings))
        rows = F.normalize(self.weight, dim=1).view(self.num_classes, self.sub_centers, -1)
        cosine = (rows[labels] * F.normalize(embeddings.to(rows), dim=1).unsqueeze(1)).sum(2)
        votes = F.one_hot(cosine.argmax(1), self.sub_centers)
        dominant = votes.new_zeros(rows.shape[:2]).index_add(0, labels, votes).argmax(1)
        return cosine, dominant[labels], dominant

    def _sample(self, labels: Tensor) -> Tensor:
        """Those of the batch and a random choice of the others, sorted."""
        classes = drawn_classes(self.weight, labels, self.num_classes, self.sample_rate, self.seed, self.draws)
        self.draws = self.draws + 1
        return classes

    def _probability(self, classes: Tensor, own: Tensor) -> Tensor:
        """With which each of them was drawn."""
        return drawn_probability(classes, own, self.num_classes)
