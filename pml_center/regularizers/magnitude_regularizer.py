"""MagnitudeRegularizer."""

from torch import Tensor

from pml_center.checks import check_between
from pml_center.ops.lengths import magnitude_penalty
from pml_center.regularizers.base_row_regularizer import BaseRowRegularizer


class MagnitudeRegularizer(BaseRowRegularizer):
    """MagFace's g: the length of an embedding is drawn towards an upper bound.

    ``g(a) = a/u² + 1/a`` with ``a = clip(‖x‖, l, u)``, an ``embedding_regularizer``. In
    :class:`~pml_center.losses.MagFaceLoss` it is built in, beside a margin that holds the lengths of hard samples back;
    with another loss it is the same pull on all. Beyond the bounds there is no gradient: watch ``clipped_share``.

    Args:
        lower_norm: l > 0.
        upper_norm: u > l.
        kwargs: PML's ``reducer`` and ``collect_stats``.

    Shape: embeddings (B, D), not normalised -> term per embedding (B,), reduced by ``reducer``.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> MagnitudeRegularizer(lower_norm=1, upper_norm=2)(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
        tensor(1.1250)

    Source: Meng et al., MagFace, CVPR 2021, arXiv:2103.06627 (section 3.2). Its bounds are 10 and 110, its weight 35.
    """

    def __init__(self, lower_norm: float = 10, upper_norm: float = 110, **kwargs):
        super().__init__(**kwargs)
        check_between("positive", "The paper has 10 and 110.", upper_norm=upper_norm)
        check_between(f"positive and below upper_norm={upper_norm}", "The paper has 10 and 110.", lower_norm=lower_norm)
        self.lower_norm, self.upper_norm = lower_norm, upper_norm
        self.add_to_recordable_attributes(list_of_names=["lower_norm", "upper_norm"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=["clipped_share"], is_stat=True)

    def terms(self, rows: Tensor) -> Tensor:
        """``g`` of each embedding, (B, D) to (B,)."""
        lengths = rows.norm(dim=1)
        clipped = lengths.clamp(self.lower_norm, self.upper_norm)
        if self.collect_stats:
            self.clipped_share = (clipped != lengths).double().mean().item()
        return magnitude_penalty(clipped, self.upper_norm)
