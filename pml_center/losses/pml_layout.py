"""Columns: PML's W, as which the class weights can be read and written."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def class_columns(loss: Any) -> Tensor:
    """W of a loss of the softmax family."""
    return Columns.of(loss.class_weights.weight)


def keep_columns(loss: Any, columns: Any) -> None:
    """W is written, as by ``loss.W *= 2``, never replaced.

    Raises:
        TypeError: anything but W itself.
    """
    if isinstance(columns, Columns) and columns.rows is loss.class_weights.weight:
        return
    raise TypeError(
        f"W must be written in place, because it is a view of the class weights, got a {type(columns).__name__} for "
        f"{type(loss).__name__}. Write loss.W.data = columns, or loss.class_weights.weight = nn.Parameter(rows)."
    )


class Columns(Tensor):
    """The class weights in PML's layout, (D, C · sub_centers): a view that does to them what is done to it.

    Values are read and written in place, as through any view. What else a parameter has, ``data``, ``grad``,
    ``requires_grad`` and hooks, is that of the weights, transposed: so ``loss.W.data = columns``,
    ``clip_grad_norm_([loss.W], 1)`` and ``loss.W.register_hook(...)`` do what they do in PML. An optimizer takes
    ``loss.parameters()``, and a graph of autograd has ``loss.class_weights.weight`` in it.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain
    _is_param = True  # isinstance says that it is a parameter, as PML's is
    rows: nn.Parameter

    @staticmethod
    def of(rows: nn.Parameter) -> Tensor:
        """The columns of (C · sub_centers, D) rows."""
        if torch.compiler.is_compiling():
            return rows.t()
        columns = rows.t().as_subclass(Columns)
        columns.rows = rows
        return columns

    @property
    def data(self) -> Tensor:
        """The numbers alone; others of the same shape may be assigned, of any type and device."""
        return self.rows.data.t()

    @data.setter
    def data(self, columns: Tensor) -> None:
        if columns.shape != self.shape:
            raise ValueError(
                f"W.data must have shape {tuple(self.shape)}, (embedding_size, classes), got shape "
                f"{tuple(columns.shape)}. Add or drop classes with loss.resize_classes(num_classes)."
            )
        self.rows.data = columns.detach().t().contiguous()

    @property
    def grad(self) -> Tensor | None:
        """The gradient of the weights."""
        return None if self.rows.grad is None else self.rows.grad.t()

    @grad.setter
    def grad(self, columns: Tensor | None) -> None:
        self.rows.grad = None if columns is None else columns.t()

    @property
    def requires_grad(self) -> bool:
        """Whether the weights learn."""
        return self.rows.requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self.rows.requires_grad = requires_grad

    @property
    def retains_grad(self) -> bool:  # type: ignore[override]
        """Asked by optimizers, of what is no parameter."""
        raise ValueError(
            "W must not be given to an optimizer, because it is a view of the class weights, got it among the "
            "parameters. Give loss.parameters(), or loss.class_weights.weight alone."
        )

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Whether the weights learn from now on."""
        self.rows.requires_grad_(requires_grad)
        return Columns.of(self.rows)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call a function with each gradient that arrives at the weights, (D, C · sub_centers)."""

        def transposed(grad: Tensor) -> Tensor | None:
            columns = hook(grad.t())
            return None if columns is None else columns.t()

        return self.rows.register_hook(transposed)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call a function with the columns, once their gradient is there."""
        return self.rows.register_post_accumulate_grad_hook(lambda rows: hook(Columns.of(rows)))

    def retain_grad(self) -> None:
        """The weights keep their gradient anyway."""

    def set_(self, *source: Any) -> Tensor:
        """Not possible: other memory would no longer be that of the weights."""
        raise TypeError(
            "W.set_ must not be called, because W is a view of the class weights, got other memory for it. "
            "Write the numbers: loss.W.data = columns."
        )

    def __deepcopy__(self, memo: dict) -> nn.Parameter:
        return nn.Parameter(self.detach().clone(), self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__deepcopy__({}).__reduce_ex__(protocol)  # a file holds a parameter, as that of PML's W
