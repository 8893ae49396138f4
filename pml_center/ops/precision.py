"""In which precision a loss computes, whatever arrives."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

ProductPrecision = Literal["autocast", "float32"]
HALF = (torch.bfloat16, torch.float16)
HALF_ON_CPU: set[torch.dtype] = set()  # in which this CPU multiplies at least as fast as in fp32
if torch.backends.mkldnn.is_available():
    HALF_ON_CPU |= {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    HALF_ON_CPU |= {torch.float16} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else set()
KEEPS_SUMS = "dtype" in torch.ops.aten.mm.overloads() and torch.version.cuda is not None  # on a GPU, since torch 2.8


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest type among floating-point tensors, at least fp32."""
    is_double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """A context without autocast, on the device of a tensor; some devices have none.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision(x):
        ...     (x @ x).dtype
        torch.float32
    """
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def product_dtype(embeddings: Tensor, rows: Tensor | None) -> torch.dtype | None:
    """The half precision that whoever calls asks products of fp32 for, by autocast or by that of embeddings, or None.

    fp64 is no product of fp32; and a CPU without units for a half precision takes longer in it than in fp32.

    Example:
        >>> import torch
        >>> embeddings = torch.ones(2, 3, dtype=torch.bfloat16, device="meta")
        >>> product_dtype(embeddings, None), product_dtype(embeddings, torch.ones(5, 3, dtype=torch.double))
        (torch.bfloat16, None)
    """
    kind = embeddings.device.type
    is_autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    asked = torch.get_autocast_dtype(kind) if is_autocast else embeddings.dtype
    known = HALF_ON_CPU if kind == "cpu" else HALF
    return asked if asked in known and working_dtype(embeddings, rows) == torch.float32 else None


def rounded(factor: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """A factor of products as :func:`product` takes it, in the precision of these, and its unit, 0-d; None is 1.

    For gradients: fp16 ends at 65504, below that of a scaled loss, and at 6e-8, above those of many classes. Its unit
    is therefore the largest of the entries, and what is lost is less than 3e-8 of it.
    """
    if dtype is not torch.float16:
        return (factor if dtype is None else factor.to(dtype)), None
    unit = torch.linalg.vector_norm(factor, math.inf).clamp_min(torch.finfo(factor.dtype).tiny)
    return (factor / unit).to(dtype), unit


def product(
    first: Tensor,
    second: Tensor,
    dtype: torch.dtype | None = None,
    unit: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``first @ second`` of fp32 matrices, where ``dtype`` is a half precision with both rounded to it.

    Sums are fp32, and so is the result, though rounded in between where torch has no other way: on a CPU, before
    torch 2.8 and in its compiler.

    Args:
        first: (M, K).
        second: (K, N).
        dtype: bf16, fp16, or None, which rounds nothing.
        unit: that of ``first``, see :func:`rounded`.
        out: (M, N), for the result.

    Example:
        >>> import torch
        >>> third = torch.full((1, 1), 1 / 3)
        >>> product(third, third), product(third, third, torch.bfloat16)
        (tensor([[0.1111]]), tensor([[0.1113]]))
    """
    if dtype is None:
        return torch.mm(first, second, out=out)
    first, second = first.to(dtype), second.to(dtype)
    if KEEPS_SUMS and first.device.type != "cpu" and not torch.compiler.is_compiling():
        result = torch.mm(first, second, out_dtype=torch.float32)
    else:
        result = torch.mm(first, second)
    result = result.float() if unit is None else result.float() * unit
    return result if out is None else out.copy_(result)
