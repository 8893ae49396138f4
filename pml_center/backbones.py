"""Networks that turn images into embeddings: any timm model, or a small one of our own, behind one interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from pml_center.checks import unknown_name

__all__ = ["ConvNet", "Embedder", "create_embedder"]


def create_embedder(
    name: str,
    embedding_size: int | None = None,
    neck: str = "linear",
    pretrained: bool = False,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    **timm_kwargs: Any,
) -> "Embedder":
    """An image model by name, ready to embed.

    ``"convnet"`` is the small network of this package (``ConvNet``) for digits and characters: 1 channel, 32 × 32
    pixels, no pretrained weights. Every other name is timm's: ``resnet50``, ``resnet50.a1_in1k`` (with the tag of its
    weights), ``hf-hub:owner/model`` or ``local-dir:path``.

    Args:
        name: ``"convnet"`` or a timm model; ``timm.list_models("*resn*")`` lists timm's.
        embedding_size: D; None keeps the width of the model's features.
        neck: what stands between the features and the embedding; see ``Embedder``.
        pretrained: load the weights that timm names, from the Hugging Face cache or the network.
        image_size: pixels. The side of the input, or (height, width); None is the model's own. Models with a fixed
            input size, such as ViTs, are built for it; convolutional ones take any size and only record it.
        weights: a safetensors or PyTorch file with every weight of the model, instead of ``pretrained``. The file's
            classifier is left out, half precision is cast up, an RGB stem is adapted to ``in_chans``.
        timm_kwargs: passed to ``timm.create_model`` (``in_chans=1``, ``drop_path_rate=0.1``, ...), or to ``ConvNet``.

    Returns:
        An embedder in training mode.

    Raises:
        ValueError: unknown name or neck, an embedding size that the neck cannot give, a file that does not hold this
            model, ``pretrained`` where there is nothing to load.
        OSError: pretrained weights that are not in the cache while there is no network.

    Example:
        >>> embedder = create_embedder("convnet", embedding_size=16)
        >>> embedder(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 16])
        >>> create_embedder("test_vit", 16, image_size=64, in_chans=1)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 16])
    """
    if pretrained and weights is not None:
        raise ValueError(
            f"weights must be None because pretrained=True, got {str(weights)!r}. Pass one source of weights."
        )
    if name == "convnet":
        if pretrained:
            raise ValueError(
                "pretrained must be False because 'convnet' has no pretrained weights, got True. "
                "Train it from scratch, or pass weights=FILE."
            )
        trunk: nn.Module = ConvNet(**timm_kwargs)
        inputs = _ConvNetInputs.of(trunk)
    else:
        trunk = _timm_trunk(name, pretrained, image_size, timm_kwargs)
    return Embedder(trunk, embedding_size, neck, name=name)
