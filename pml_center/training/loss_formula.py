"""Loss formulas: 'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'.

A formula is read with Python's own grammar and never executed.
"""

import ast
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_metric_learning.distances
import pytorch_metric_learning.losses
import pytorch_metric_learning.miners
import pytorch_metric_learning.reducers
import pytorch_metric_learning.regularizers
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn

from pml_center import losses, regularizers
from pml_center.losses import BaseCenterLoss
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.watch import CenterShare
from pml_center.names import constructor_arguments, unknown_name

GRAMMAR = "Write a sum such as 'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'."

# Around other losses: not a term by itself.
WRAPPERS = {
    "MultipleLosses": "which a formula is already",
    "CrossBatchMemory": "which goes around a loss of pairs, with a queue of its own size",
    "SelfSupervisedLoss": "which compares two views of each image, and training has one",
}
NOT_FINAL = {"BaseSoftmaxLoss", "GenericPairLoss", *WRAPPERS}  # the first two are abstract


class LossFormula(nn.Module):
    """A weighted sum of losses, each with its miner.

    It warns, once, of a center loss whose weight lets it dwarf all terms that separate classes.

    Shape: embeddings (B, D), labels (B,) -> the total, and the value of each term before its weight.
    """

    def __init__(self, terms: list[tuple[str, float, nn.Module, nn.Module | None]]):
        super().__init__()
        names = [name for name, *_ in terms]
        repeated = {name for name in names if names.count(name) > 1}
        self.names = [f"{name}_{place}" if name in repeated else name for place, name in enumerate(names)]
        self.weights = [weight for _, weight, _, _ in terms]
        self.losses = nn.ModuleList([loss for _, _, loss, _ in terms])
        self.miners = [miner for *_, miner in terms]
        pulling = [isinstance(loss, BaseCenterLoss) and loss.only_pulls for loss in self.losses]
        self._shares = {name: CenterShare(name) for name, pulls in zip(self.names, pulling, strict=True) if pulls}

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part by name, detached."""
        total, parts = embeddings.new_zeros(()), {}
        for name, weight, loss, miner in zip(self.names, self.weights, self.losses, self.miners, strict=True):
            value = loss(embeddings, labels, miner(embeddings, labels) if miner is not None else None)
            total = total + weight * value
            parts[name] = value.detach()
        if self.training:
            self._watch(parts)
        return total, parts

    @property
    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        """Embeddings (B, D) -> labels (B,), by the first loss that has class weights or means; None without one."""
        found: Any = next((loss for loss in self.losses if hasattr(loss, "predict")), None)
        return None if found is None else found.predict

    def _watch(self, parts: dict[str, Tensor]) -> None:
        """Show each pull what separates beside it; alone it is no mistake in a weight."""
        weights = dict(zip(self.names, self.weights, strict=True))
        rest = [weights[name] * value for name, value in parts.items() if name not in self._shares]
        for name, share in self._shares.items() if rest else ():
            share.see(parts[name], sum(rest[1:], rest[0]), weights[name])


def parse_loss(formula: str, num_classes: int, embedding_size: int, accumulation_steps: int = 1) -> LossFormula:
    """Build the losses that a formula names.

    Args:
        formula: terms joined by ``+``. A term is a loss of :mod:`pml_center.losses`, or else of PML, by name; before
            it a weight and ``*``, after it arguments in parentheses, and ``@`` with one of PML's miners. ``pml.Name``
            takes PML's loss where both have the name. Arguments are Python literals, or parts by name: regularizers of
            :mod:`pml_center.regularizers`, or else of PML, and PML's distances and reducers.
        num_classes: given to losses that ask for it.
        embedding_size: given to losses that ask for it.
        accumulation_steps: batches that make one step of the optimizer; given to losses that ask for it.

    Raises:
        ValueError: a formula that cannot be read; an unknown name; an argument that its loss does not have.

    Example:
        >>> formula = parse_loss("SoftmaxLoss + 0.01 * CenterLoss(alpha=0.9)", num_classes=10, embedding_size=2)
        >>> formula.names, formula.weights
        (['SoftmaxLoss', 'CenterLoss'], [1.0, 0.01])
    """
    supplied = {
        "num_classes": num_classes,
        "embedding_size": embedding_size,
        "accumulation_steps": accumulation_steps,
    }
    return LossFormula([_term(node, supplied) for node in summands(formula)])


def known_losses() -> dict[str, type[BaseMetricLossFunction]]:
    """The losses that a formula can name: ours, and PML's by their names and by ``pml.Name``."""
    known = _with_ours(_public(pytorch_metric_learning.losses), _public(losses))
    return {name: loss for name, loss in known.items() if issubclass(loss, BaseMetricLossFunction)}


def summands(formula: str) -> Iterator[ast.expr]:
    """The terms of a formula, as Python's grammar reads them.

    Raises:
        ValueError: a formula that cannot be read.
    """
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"loss must be a formula, got {formula!r} ({error.msg}). {GRAMMAR}") from None
    yield from _added(tree)


def _added(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _added(node.left)
        yield from _added(node.right)
    else:
        yield node


def _term(node: ast.expr, supplied: dict[str, int]) -> tuple[str, float, nn.Module, nn.Module | None]:
    miner = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        miner = _build("miner", node.right, _public(pytorch_metric_learning.miners), {})
        node = node.left
    weight = 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        weight = _literal(node.left)
        node = node.right
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
            raise ValueError(f"the weight of a loss must be a positive number, got {weight!r}. {GRAMMAR}")
    loss = _build("loss", node, known_losses(), supplied)
    if any(isinstance(part, pytorch_metric_learning.reducers.DoNothingReducer) for part in loss.modules()):
        raise ValueError(
            f"reducer must make one number of the losses, got {ast.unparse(node)!r}. Use MeanReducer or leave it out."
        )
    if isinstance(loss, BaseElementLoss) and loss.takes_references:
        raise ValueError(
            f"a term must compare the embeddings of one set of images, got {ast.unparse(node)!r}, which compares two. "
            "Call it in Python, with ref_emb."
        )
    for part in loss.modules():
        _check_stepping(part, ast.unparse(node))
    return type(loss).__name__, float(weight), loss, miner


def _check_stepping(loss: nn.Module, written: str) -> None:
    """Training takes steps of a dense optimizer."""
    if getattr(loss, "sparse_gradient", False):
        raise ValueError(
            "sparse_gradient must be False in training, whose optimizers take no sparse gradient, "
            f"got {written!r}. Leave it out."
        )


def _public(module) -> dict[str, type]:
    """The classes of a module that are final: an abstract one cannot be trained with."""
    classes = inspect.getmembers(module, inspect.isclass)
    return {name: value for name, value in classes if not name.startswith("Base") and name not in NOT_FINAL}


def _with_ours(theirs: dict[str, type], ours: dict[str, type]) -> dict[str, type]:
    """All by name: ours where both have it, and PML's by ``pml.Name``."""
    return theirs | {f"pml.{name}": value for name, value in theirs.items()} | ours


def _build(kind: str, node: ast.expr, known: dict[str, type], supplied: dict[str, int]) -> Any:
    """An object from ``Name`` or ``Name(argument=value)``, with what is supplied if its constructor asks for it."""
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    name = ast.unparse(call.func)
    if not isinstance(call.func, ast.Name | ast.Attribute):
        raise ValueError(f"{kind} must be a name, got {name!r}. {GRAMMAR}")
    if name.removeprefix("pml.") in WRAPPERS:
        reason = WRAPPERS[name.removeprefix("pml.")]
        raise ValueError(f"{kind} must be one by itself, got {name!r}, {reason}. {GRAMMAR}")
    if name not in known:
        raise ValueError(unknown_name(kind, name, list(known), GRAMMAR))
    accepted = [argument for argument in constructor_arguments(known[name], stop=nn.Module) if argument not in supplied]
    if call.args:
        takes = f"It takes {', '.join(accepted)}."
        raise ValueError(f"arguments of {name} must be named, got {ast.unparse(call)!r}. {takes}")
    arguments = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    for argument in arguments:
        if argument in supplied:
            raise ValueError(
                f"{argument} must be left out because training gives it, got {ast.unparse(call)!r}. It follows from "
                "the data and from --embedding-size and --accumulate."
            )
        if argument not in accepted:
            raise ValueError(
                unknown_name(f"argument of {name}", argument, accepted, f"It takes {', '.join(accepted)}.")
            )
    asked = constructor_arguments(known[name], stop=nn.Module)
    try:
        return known[name](**{key: value for key, value in supplied.items() if key in asked}, **arguments)
    except Exception as error:  # PML's constructors raise whatever their parts do
        if isinstance(error, ValueError) and known[name].__module__.startswith("pml_center"):
            raise
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(f"{ast.unparse(call)!r} must be buildable, got {reason}. {GRAMMAR}") from error


def _value(node: ast.expr) -> Any:
    """A literal, or a part by name."""
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name | ast.Attribute):
        theirs = (
            _public(pytorch_metric_learning.distances)
            | _public(pytorch_metric_learning.reducers)
            | _public(pytorch_metric_learning.regularizers)
        )
        return _build("part", node, _with_ours(theirs, _public(regularizers)), {})
    return _literal(node)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"a number or literal must stand where {ast.unparse(node)!r} stands. {GRAMMAR}") from None
