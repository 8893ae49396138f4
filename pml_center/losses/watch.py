"""Watches: each looks at training for one classic mistake, and warns of it once."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pml_center.distributed.collectives import called_by, joined_by_wrapper, processes

BATCHES_AT_REST = 20  # so many training batches may pass before we call an optimizer forgotten
BATCHES_WAITING = 100  # training batches that may wait for step_centers()
BATCHES_UNLOOKED = 50  # training batches between two looks for collapse: a look costs a pass over the batch
COLLAPSED = 1e-4  # of the embeddings' length: a spread below is one point
DWARFED = 10  # so many times the rest the weighted center term may be, in the mean over
BATCHES_COMPARED = 100  # so many training batches


class Watch:
    """Looks for one mistake, training batch after training batch, until it has warned or knows that all is well.

    A subclass says :meth:`look`, and reads values once in many batches at most, for each reading waits for a GPU. What
    a watch remembers is no state of the loss: it is not saved with it. Nothing is looked at while torch compiles, for
    what changes with every batch would be compiled anew with every batch.

    Args:
        name: of what is watched, for the message.
    """

    look: Callable[..., str | None]
    """What to say of a training batch, if anything."""

    is_over = False

    def __init__(self, name: str):
        self.name = name

    def see(self, *seen: object) -> None:
        """Look at a training batch, and warn if there is something to say; arguments as for ``look``."""
        if torch.compiler.is_compiling() or self.is_over:
            return
        message = self.look(*seen)
        if message is not None:
            self.is_over = True
            warnings.warn(message, stacklevel=3)


class ForgottenOptimizer(Watch):
    """Gradients keep arriving at class rows which nothing has ever moved.

    One row is kept until the next batch. Values are compared, and not version counters, which fused optimizers do not
    raise. What the comparisons found is added up where the rows are, and read once in so many batches: a look at every
    batch would wait for a GPU.
    """

    _batches = 0
    _at_rest: int | Tensor = 0  # batches that found a gradient
    _moved: bool | Tensor = False
    _kept: tuple[int, Tensor, Tensor, Tensor | None] | None = None

    def look(self, rows: Tensor, labels: Tensor, num_classes: int, seen: Tensor | None = None) -> str | None:
        """Look at class rows.

        Args:
            rows: (C · n, D).
            labels: (B,) of which some row has a gradient.
            num_classes: C.
            seen: (B,) above 0 where an optimizer alone moves the row of a label; None is everywhere.
        """
        if not (torch.is_grad_enabled() and rows.requires_grad and len(labels)):
            return None
        of_class = rows.detach().reshape(num_classes, -1)
        if self._kept is not None and self._kept[0] == num_classes:
            _, label, row, is_known = self._kept
            moved = (of_class.index_select(0, label.to(of_class.device)).to(row) != row).any()
            has_gradient: bool | Tensor = rows.grad is not None
            if is_known is not None:
                moved, has_gradient = moved & is_known, is_known & has_gradient
            self._moved, self._at_rest = self._moved | moved, self._at_rest + has_gradient
            self._batches += 1
            if self._batches % BATCHES_AT_REST == 0:
                if self._moved:
                    self.is_over, self._kept = True, None
                    return None
                if self._at_rest >= BATCHES_AT_REST:
                    return (
                        f"{self.name} has parameters that no optimizer has moved in {BATCHES_AT_REST} training "
                        "batches. Give them to one: torch.optim.AdamW(pml_center.param_groups(model, loss, lr=...)). "
                        "If you accumulate gradients over more batches than that, all is well."
                    )
        label, is_known = labels[:1].clone(), None  # the batch may be filled anew
        if seen is not None:
            longest, place = seen.max(0)
            label, is_known = labels.index_select(0, place.reshape(1)), longest > 0
        self._kept = num_classes, label, of_class.index_select(0, label), is_known
        return None


class ForgottenStep(Watch):
    """Centers wait for a step that nobody takes."""

    def look(self, batches: int) -> str | None:
        """Look at the number of batches that wait."""
        if batches < BATCHES_WAITING:
            return None
        return (
            f"{self.name} has gathered {BATCHES_WAITING} training batches and no center has moved: with "
            "accumulation_steps=None the step is yours. Call step_centers() beside optimizer.step()."
        )


class Collapse(Watch):
    """Different classes have become one point.

    Args:
        name: of the loss.
        only_pulls: whether the loss is smallest there.
    """

    _batches = 0

    def __init__(self, name: str, only_pulls: bool):
        super().__init__(name)
        self.only_pulls = only_pulls

    def look(self, embeddings: Tensor, labels: Tensor) -> str | None:
        """Look at (B, D) embeddings and (B,) labels."""
        self._batches += 1
        if self._batches % BATCHES_UNLOOKED:
            return None
        embeddings = embeddings.detach()
        parts = (embeddings - embeddings.mean(0)).norm(), embeddings.norm(), (labels != labels[0]).any()
        spread, length, differ = torch.stack([part.to(embeddings.dtype) for part in parts]).tolist()
        if not (differ and spread <= COLLAPSED * length):
            return None
        remedy = "Lower the learning rate"
        if self.only_pulls:
            remedy = f"{self.name} alone is smallest there: add a loss that separates classes"
        return (
            f"embeddings of different classes have become one point: their spread is {spread:.3g}, their "
            f"length {length:.3g}. {remedy}, or give {self.name} a smaller weight."
        )


class ClampedLengths(Watch):
    """Most embeddings are longer than what a loss tells apart."""

    _batches = 0

    def look(self, lengths: Tensor, longest: float) -> str | None:
        """Look at (B,) lengths."""
        self._batches += 1
        if self._batches % BATCHES_UNLOOKED:
            return None
        share = float((lengths > longest).double().mean())
        if share <= 0.5:
            return None
        return (
            f"{share:.0%} of the embeddings of a batch are longer than {longest:g}, beyond which {self.name} takes all "
            "lengths for equal: their margin is the same for all, whatever their quality. Let the model end in a "
            "BatchNorm layer, as the authors' does, or divide its embeddings by a constant."
        )


class CenterShare(Watch):
    """The center term of a joint loss dwarfs the rest."""

    _sums: Tensor | None = None
    _batches = 0

    def look(self, center: Tensor, rest: Tensor, weight: float) -> str | None:
        """Look at one training batch.

        Args:
            center: 0-d, the center term before its weight.
            rest: 0-d, all other terms together.
            weight: λ.
        """
        pair = torch.stack([weight * center.detach(), rest.detach().abs()])
        self._sums = pair if self._sums is None else self._sums.to(pair) + pair
        self._batches += 1
        if self._batches < BATCHES_COMPARED:
            return None
        center_sum, rest_sum = self._sums.tolist()
        self._sums, self._batches = None, 0
        if not center_sum > DWARFED * rest_sum:
            return None
        ratio = center_sum / rest_sum if rest_sum else float("inf")
        even = weight * rest_sum / center_sum
        return (
            f"{self.name} with weight {weight:g} is {ratio:.3g} times all other terms together, in the mean of "
            f"{BATCHES_COMPARED} training batches: embeddings are pulled together before classes part. "
            f"Try {even:.1g} or less."
        )


class Drift(Watch):
    """Each of several processes moves parameters of its own. What is around the loss says so in the first batch."""

    def look(self, is_averaged: bool) -> str | None:
        """Look whether somebody takes the mean of their gradients."""
        self.is_over = True
        if is_averaged:
            return None
        return (
            f"{self.name} has parameters, and each of the {processes()} processes moves its own: they drift apart. "
            "Use pml_center.distributed.prepare(model, loss). If something else takes the mean of their "
            "gradients, all is well."
        )


def is_averaged(name: str, sparse_gradient: bool) -> bool:
    """Whether what is around a loss with parameters takes the mean of their gradients over the processes.

    Args:
        name: of the loss.
        sparse_gradient: whether it has one.

    Raises:
        TypeError: what is around it does something else with them.
    """
    if joined_by_wrapper():
        raise TypeError(
            f"{name} must not be inside DistributedLossWrapper, which multiplies the gradient of its parameters by "
            f"the {processes()} processes. Use pml_center.distributed.prepare(model, loss) alone."
        )
    averaged = called_by(DistributedDataParallel)
    if sparse_gradient and averaged:
        raise TypeError(
            f"sparse_gradient must be False for {name} inside DistributedDataParallel, which takes no sparse "
            "gradient from it, got True. Leave it out, or use pml_center.distributed.prepare(model, loss)."
        )
    return averaged
