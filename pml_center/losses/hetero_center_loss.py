"""HeteroCenterLoss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.ops.centers import class_sums


class HeteroCenterLoss(BaseElementLoss):
    """Hetero-center loss: a class has the same center in two modalities, such as visible and infrared images.

    ``L = Σ_c max(0, ‖c_1 − c_2‖² − m)`` over the classes that both modalities have in the batch, where c_1 is the mean
    of a class's embeddings and c_2 that of its references. The second modality comes as PML's references:
    ``loss(visible, labels, ref_emb=infrared, ref_labels=infrared_labels)``, as many samples as you like. Both learn.
    Add it to a softmax loss.

    Args:
        margin: m, at least 0, a squared distance; the paper has none.
        kwargs: ``ignore_index``, ``miner_weighting`` and PML's arguments, see
            :class:`~pml_center.losses.base_element_loss.BaseElementLoss`. A sample with the label ``ignore_index``
            takes no part in either modality. An ``embedding_regularizer`` sees the first.

    Shape: embeddings (B, D), labels (B,) any integers, references (R, D) and (R,) -> loss per embedding (B,), reduced
        by ``reducer``. An embedding of a class of n carries B / n of the term of its class, so that the mean is L;
        where its class has no references it has 0.

    Raises:
        ValueError: no references, or of another width; a negative margin.

    Example:
        >>> import torch
        >>> loss = HeteroCenterLoss()
        >>> visible, infrared = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[4.0], [7.0]])
        >>> loss(visible, torch.tensor([0, 0, 1]), ref_emb=infrared, ref_labels=torch.tensor([0, 1]))  # 3² + 2²
        tensor(13.)

    Source: Zhu et al., Hetero-center loss for cross-modality person re-identification, Neurocomputing 2020,
        arXiv:1910.09830. Its weight beside the softmax loss is 0.5.

    Differs: the authors' code has the margin, 0 by default in their program, and asks for as many samples of each class
        in both modalities, in the same order. Its other distances, cosine and L1, are left out.
    """

    takes_any_distance = False
    takes_references = True

    def __init__(self, margin: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        check_between("finite and at least 0", "The paper has none, which is 0.", margin=margin)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def reference_losses(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Tensor:
        """Each embedding's share of ``L``, (B,)."""
        if not len(ref_labels):
            return 0 * embeddings.sum(1)
        centers, counts, _ = _means(embeddings, labels, labels)
        others, _, is_there = _means(ref_emb, ref_labels, labels)
        terms = F.relu((centers - others).square().sum(1) - self.margin)
        return torch.where(is_there, terms * len(labels) / counts, 0.0)


def _means(rows: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the rows of each of these classes, how many there are, and whether there are any."""
    present, sums, counts = class_sums(rows, labels)
    place = torch.searchsorted(present, classes).clamp_max(len(present) - 1)
    count = counts.index_select(0, place).clamp_min(1)
    return sums.index_select(0, place) / count.unsqueeze(1), count, present.index_select(0, place) == classes
