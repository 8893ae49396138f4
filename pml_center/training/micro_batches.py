"""InParts: a network that takes a batch part by part, for batches whose activations do not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class InParts(nn.Module):
    """The same network, of which one part of a batch at a time lies in memory.

    Forward keeps the embeddings of all parts, and of each no more than what was drawn for it. Once the loss of the
    whole batch has its gradient by embedding, backward takes the parts through the network a second time, one after the
    other, with the same draws, and each gives way to the next. So every loss and every miner sees the whole batch, and
    gradients are those of the whole batch: GradCache (Gao et al., Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup, RepL4NLP 2021, arXiv:2101.06983), which here is ``torch.utils.checkpoint`` of the parts.

    A step takes one more forward pass. BatchNorm normalises each part by itself, and its statistics move once per part.

    Args:
        network: images (B, ...) -> embeddings (B, D).
        most: images in a part; parts differ by one image at most.

    Shape: as the network's.

    Example:
        >>> network, images = nn.Linear(3, 2), torch.randn(10, 3)
        >>> torch.equal(InParts(network, 4)(images), torch.cat([network(part) for part in images.split([4, 3, 3])]))
        True
    """

    def __init__(self, network: nn.Module, most: int):
        super().__init__()
        self.network, self.most = network, most

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, ...)."""
        parts = images.tensor_split(max(-(-len(images) // self.most), 1))
        if len(parts) == 1:
            return self.network(images)
        contexts = lambda: (nullcontext(), _buffers_held(self.network))  # noqa: E731 (of the first pass and the second)
        return torch.cat([checkpoint(self._embed, part, use_reentrant=False, context_fn=contexts) for part in parts])

    def _embed(self, part: Tensor) -> Tensor:
        torch.clear_autocast_cache()  # weights cast once for all parts would add up their gradients in half precision
        return self.network(part)


@contextmanager
def _buffers_held(network: nn.Module) -> Iterator[None]:
    """What a forward pass moves, such as BatchNorm's statistics, is where it was in the end."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
