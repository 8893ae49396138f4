"""NormalizedSoftmaxLoss."""

from torch import Tensor

from pml_center.losses.margin_softmax_loss import Batch, MarginSoftmaxLoss


class NormalizedSoftmaxLoss(MarginSoftmaxLoss):
    """Normalised softmax (NormFace): cross entropy over cosines, divided by a temperature.

    ``ℓ = −log softmax(cos θ / T)_y``: what remains of a margin loss when its margin is 0, and the base line
    to beat.

    Args:
        num_classes: C.
        embedding_size: D.
        temperature: T > 0; the scale of the cosines is 1 / T. Smaller is sharper.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`MarginSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); temperature not positive.

    Example:
        >>> import torch
        >>> loss = NormalizedSoftmaxLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Wang et al., NormFace: L2 hypersphere embedding for face verification, ACM MM 2017,
        arXiv:1704.06369; Zhai and Wu, Classification is a strong baseline for deep metric learning, BMVC
        2019, arXiv:1811.12649.
    """

    def __init__(self, num_classes: int, embedding_size: int, temperature: float = 0.05, **kwargs):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}. Common values are 0.02 to 0.1.")
        super().__init__(num_classes, embedding_size, 1 / temperature, **kwargs)
        self.temperature = temperature
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself: no margin."""
        return batch.cosine
