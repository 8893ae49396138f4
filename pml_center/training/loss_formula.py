"""Loss formulas: 'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'.

A formula is read with Python's own grammar and never executed.
"""

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from pml_center.names import constructor_parameters, unknown_name
from pml_center.ops.precision import full_precision

GRAMMAR = "Write a sum such as 'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'."

# Around other losses: not a term by itself.
WRAPPERS = {
    "MultipleLosses": "which a formula is already",
    "CrossBatchMemory": "which goes around a loss of pairs, with a queue of its own size",
    "SelfSupervisedLoss": "which compares two views of each image, and training has one",
}
MOST_TERMS = 100  # a longer sum is a mistake, and Python reads no more than about a thousand
DEEPEST = MOST_TERMS + 50  # nesting, of which each term of a sum is a level
NOT_FINAL = {"GenericPairLoss", *WRAPPERS}  # the first is abstract


@dataclass(frozen=True)
class Term:
    """A term of a formula as it is written, ``weight * loss @ miner``: nothing is looked up yet.

    Args:
        weight: None where none is written.
        loss: a name and its arguments, as Python's grammar reads them.
        miner: likewise.
    """

    weight: float | None
    loss: ast.Call
    miner: ast.Call | None = None

    @property
    def name(self) -> str:
        """Of the loss."""
        return ast.unparse(self.loss.func)

    @property
    def arguments(self) -> dict[str, ast.expr]:
        """Of the loss, by name."""
        return _arguments(self.loss)

    def changed(self, weight: float | None, arguments: Mapping[str, float]) -> "Term":
        """The same loss with another weight and with other values of some arguments."""
        values = self.arguments | {name: ast.Constant(value) for name, value in arguments.items()}
        keywords = [ast.keyword(name, value) for name, value in values.items()]
        return replace(self, weight=weight, loss=ast.Call(self.loss.func, [], keywords))

    def __str__(self) -> str:
        weight = "" if self.weight is None else f"{self.weight} * "
        miner = "" if self.miner is None else f" @ {_written(self.miner)}"
        return f"{weight}{_written(self.loss)}{miner}"


class LossFormula(nn.Module):
    """A weighted sum of losses, each with its miner.

    Under autocast it computes in fp32 all the same, but for the products of ours that have a ``product_precision``. It
    warns, once, of a center loss whose weight lets it dwarf all terms that separate classes.

    Args:
        terms: name, weight, loss and miner of each.
        shorter: formulas that are added, by how many of an embedding's first numbers they see (Kusupati et al.,
            Matryoshka Representation Learning, NeurIPS 2022, arXiv:2205.13147).

    Shape: embeddings (B, D), labels (B,) -> the total, and the value of each term before its weight.
    """

    def __init__(
        self,
        terms: list[tuple[str, float, nn.Module, nn.Module | None]],
        shorter: Mapping[int, "LossFormula"] | None = None,
    ):
        super().__init__()
        self.shorter = nn.ModuleDict({str(width): formula for width, formula in (shorter or {}).items()})
        names = [name for name, *_ in terms]
        repeated = {name for name in names if names.count(name) > 1}
        self.names = [f"{name}_{place}" if name in repeated else name for place, name in enumerate(names)]
        self.weights = [weight for _, weight, _, _ in terms]
        self.losses = nn.ModuleList([loss for _, _, loss, _ in terms])
        self.miners = [miner for *_, miner in terms]
        pulling = [isinstance(loss, BaseCenterLoss) and loss.only_pulls for loss in self.losses]
        self._shares = {name: CenterShare(name) for name, pulls in zip(self.names, pulling, strict=True) if pulls}

    def forward(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor | None = None, share: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part by name, detached; behind the name of one that is cut stands its width.

        Args:
            embeddings: (B, D).
            labels: (B,).
            other_labels: (B,) of samples that are of two classes, see :meth:`check_mixable`.
            share: (B,) of the first.
        """
        mixture = {} if other_labels is None else {"other_labels": other_labels, "share": share}
        if mixture:
            self.check_mixable()
        total, parts = embeddings.new_zeros(()), {}
        for name, weight, loss, miner in zip(self.names, self.weights, self.losses, self.miners, strict=True):
            with full_precision(embeddings):
                mined = miner(embeddings, labels) if miner is not None else None
            with nullcontext() if isinstance(loss, BaseElementLoss) else full_precision(embeddings):
                value = loss(embeddings, labels, mined, **mixture)
            total = total + weight * value
            parts[name] = value.detach()
        if self.training:
            self._watch(parts)
        for width, formula in self.shorter.items():
            value, of_prefix = formula(embeddings[:, : int(width)], labels, **mixture)
            total = total + value
            parts |= {f"{name}:{width}": part for name, part in of_prefix.items()}
        return total, parts

    @property
    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        """Embeddings (B, D) -> labels (B,), by the first loss that has class weights or means; None without one."""
        found: Any = next((loss for loss in self.losses if hasattr(loss, "predict")), None)
        return None if found is None else found.predict

    def check_mixable(self) -> None:
        """Whether all terms take samples of two classes, as mixup and cutmix make them.

        Raises:
            ValueError: a loss that compares samples with each other, or a miner.
        """
        for name, loss, miner in zip(self.names, self.losses, self.miners, strict=True):
            both = getattr(type(loss), "losses_of_both", BaseElementLoss.losses_of_both)
            if both is BaseElementLoss.losses_of_both or miner is not None:
                part = f"{name} @ {type(miner).__name__}" if miner is not None else name
                raise ValueError(
                    f"mixup and cutmix must be 0 with {part}, which knows samples of one class alone. "
                    "Leave them out, or take other losses, with a row for each class."
                )

    def _watch(self, parts: dict[str, Tensor]) -> None:
        """Show each pull what separates beside it; alone it is no mistake in a weight."""
        weights = dict(zip(self.names, self.weights, strict=True))
        rest = [weights[name] * value for name, value in parts.items() if name not in self._shares]
        for name, share in self._shares.items() if rest else ():
            share.see(parts[name], sum(rest[1:], rest[0]), weights[name])


def parse_loss(
    formula: str,
    num_classes: int,
    embedding_size: int,
    accumulation_steps: int = 1,
    class_counts: Sequence[int] | int | None = None,
    widths: Sequence[int] = (),
) -> LossFormula:
    """Build the losses that a formula names.

    Args:
        formula: terms joined by ``+``. A term is a loss of :mod:`pml_center.losses`, or else of PML, by name; before
            it a weight and ``*``, after it arguments in parentheses, and ``@`` with one of PML's miners. ``pml.Name``
            takes PML's loss where both have the name. Arguments are Python literals, or parts by name: regularizers of
            :mod:`pml_center.regularizers`, or else of PML, and PML's distances and reducers.
        num_classes: given to losses that ask for it.
        embedding_size: given to losses that ask for it.
        accumulation_steps: batches that make one step of the optimizer; given to losses that ask for it.
        class_counts: samples of each class, or one number for all; given to losses that cannot do without and are
            written without, such as those with a ``prior_weight``.
        widths: in ascending order, to how many of its first numbers an embedding may be cut: losses of the same formula
            are built for each, too, with class weights and centers of their own, and added.

    Raises:
        ValueError: a formula that cannot be read; an unknown name; an argument that its loss does not have; widths in
            another order, or above the ``embedding_size``.

    Example:
        >>> formula = parse_loss("SoftmaxLoss + 0.01 * CenterLoss(alpha=0.9)", num_classes=10, embedding_size=2)
        >>> formula.names, formula.weights
        (['SoftmaxLoss', 'CenterLoss'], [1.0, 0.01])
        >>> short = parse_loss("SoftmaxLoss", num_classes=10, embedding_size=8, widths=(2, 8))
        >>> short.losses[0].embedding_size, short.shorter["2"].losses[0].embedding_size
        (8, 2)
    """
    if list(widths) != sorted({width for width in widths if 0 < width <= embedding_size}):
        raise ValueError(
            f"widths must ascend from 1 to the embedding_size of {embedding_size} at most, got "
            f"{', '.join(map(str, widths))}. Leave the others out, or use a larger --embedding-size."
        )
    supplied: dict[str, Any] = {"num_classes": num_classes, "accumulation_steps": accumulation_steps}
    if class_counts is not None:
        supplied["class_counts"] = class_counts
    terms = parse_terms(formula)
    of_width = {
        width: [_built(term, supplied | {"embedding_size": width}) for term in terms]
        for width in dict.fromkeys((embedding_size, *widths))
    }
    whole = of_width.pop(embedding_size)
    return LossFormula(whole, {width: LossFormula(built) for width, built in of_width.items()})


def known_losses() -> dict[str, type[BaseMetricLossFunction]]:
    """The losses that a formula can name: ours, and PML's by their names and by ``pml.Name``."""
    known = _with_ours(_public(pytorch_metric_learning.losses), _public(losses))
    return {name: loss for name, loss in known.items() if issubclass(loss, BaseMetricLossFunction)}


def parse_terms(formula: str) -> list[Term]:
    """The terms of a formula, without a look at what they name.

    Raises:
        ValueError: a formula that cannot be read.

    Example:
        >>> [(term.weight, term.name, list(term.arguments)) for term in parse_terms("SoftmaxLoss + 2 * GitLoss(lr=1)")]
        [(None, 'SoftmaxLoss', []), (2, 'GitLoss', ['lr'])]
    """
    if not isinstance(formula, str):
        raise TypeError(f"loss must be a formula, a text, got {type(formula).__name__}. {GRAMMAR}")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
        summands = _summands(tree) if _depth(tree) <= DEEPEST else []
    except SyntaxError as error:
        raise ValueError(f"loss must be a formula, got {formula!r} ({error.msg}). {GRAMMAR}") from None
    except (RecursionError, MemoryError):  # of Python's parser
        summands = []
    if not 0 < len(summands) <= MOST_TERMS:
        got = f"{len(summands) or 'something nested deeper'} in {len(formula)} characters"
        raise ValueError(f"loss must have at most {MOST_TERMS} terms, got {got}. Leave some out.")
    return [_term(node) for node in summands]


def _depth(tree: ast.AST) -> int:
    level, depth = [tree], 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
    return depth


def _summands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left, ast.Add(), right):
            return [*_summands(left), *_summands(right)]
    return [node]


def _term(node: ast.expr) -> Term:
    weight = miner = None
    match node:
        case ast.BinOp(node, ast.MatMult(), right):
            miner = _call(right)
    match node:
        case ast.BinOp(left, ast.Mult(), node):
            weight = _literal(left)
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of a loss must be a positive number, got {weight!r}. {GRAMMAR}")
    return Term(weight, _call(node), miner)


def _call(node: ast.expr) -> ast.Call:
    """A name alone is a call without arguments."""
    return node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])


def _written(call: ast.Call) -> str:
    return ast.unparse(call if call.args or call.keywords else call.func)


def _built(term: Term, supplied: dict[str, Any]) -> tuple[str, float, nn.Module, nn.Module | None]:
    miners = _public(pytorch_metric_learning.miners)
    miner = None if term.miner is None else _build("miner", term.miner, miners, {})
    loss, got = _build("loss", term.loss, known_losses(), supplied), f"got {_written(term.loss)!r}"
    parts = list(loss.modules())
    if any(isinstance(part, pytorch_metric_learning.reducers.DoNothingReducer) for part in parts):
        raise ValueError(f"reducer must make one number of the losses, {got}. Use MeanReducer or leave it out.")
    if isinstance(loss, BaseElementLoss) and loss.takes_references:
        raise ValueError(
            f"a term must compare the embeddings of one set of images, {got}, which compares two. "
            "Call it in Python, with ref_emb."
        )
    if any(getattr(part, "sparse_gradient", False) for part in parts):
        raise ValueError(
            f"sparse_gradient must be False in training, whose optimizers take no sparse gradient, {got}. Leave it out."
        )
    return type(loss).__name__, float(term.weight or 1), loss, miner


def _public(module) -> dict[str, type]:
    """The classes of a module that are final: an abstract one cannot be trained with."""
    classes = inspect.getmembers(module, inspect.isclass)
    return {name: value for name, value in classes if not name.startswith("Base") and name not in NOT_FINAL}


def _with_ours(theirs: dict[str, type], ours: dict[str, type]) -> dict[str, type]:
    """All by name: ours where both have it, and PML's by ``pml.Name``."""
    return theirs | {f"pml.{name}": value for name, value in theirs.items()} | ours


def _build(kind: str, call: ast.Call, known: dict[str, type], supplied: dict[str, Any]) -> Any:
    """An object from ``Name(argument=value)``, with what is supplied if its constructor asks for it."""
    name, written = ast.unparse(call.func), ast.unparse(call)
    if not isinstance(call.func, ast.Name | ast.Attribute):
        raise ValueError(f"{kind} must be a name, got {name!r}. {GRAMMAR}")
    if name.removeprefix("pml.") in WRAPPERS:
        reason = WRAPPERS[name.removeprefix("pml.")]
        raise ValueError(f"{kind} must be one by itself, got {name!r}, {reason}. {GRAMMAR}")
    if name not in known:
        raise ValueError(unknown_name(kind, name, list(known), GRAMMAR))
    asked = constructor_parameters(known[name], stop=nn.Module)
    fixed = supplied.keys() - {"class_counts"}  # which may be written
    accepted = [argument for argument in asked if argument not in fixed]
    takes = f"It takes {', '.join(accepted)}."
    if call.args:
        raise ValueError(f"arguments of {name} must be named, got {written!r}. {takes}")
    arguments = {argument: _value(node) for argument, node in _arguments(call).items()}
    for argument in arguments:
        if argument in fixed:
            raise ValueError(
                f"{argument} must be left out because training gives it, got {written!r}. It follows from "
                "the data and from --embedding-size and --accumulate."
            )
        if argument not in accepted:
            raise ValueError(unknown_name(f"argument of {name}", argument, accepted, takes))
    given = {argument: value for argument, value in supplied.items() if argument in asked}
    if "class_counts" in arguments or not (arguments.get("prior_weight") or _is_required("class_counts", asked)):
        given.pop("class_counts", None)
    try:
        return known[name](**given, **arguments)
    except Exception as error:  # PML's constructors raise whatever their parts do
        if isinstance(error, ValueError) and known[name].__module__.startswith("pml_center"):
            raise
        reason = f"{type(error).__name__}: {error}".removesuffix(": ").removesuffix(".")
        raise ValueError(f"{written!r} must be buildable, got {reason}. {GRAMMAR}") from error


def _is_required(name: str, parameters: Mapping[str, tuple[type, inspect.Parameter]]) -> bool:
    return name in parameters and parameters[name][1].default is inspect.Parameter.empty


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in found:
            rule = "named" if keyword.arg is None else "given once"
            raise ValueError(f"each argument must be {rule}, got {ast.unparse(call)!r}. {GRAMMAR}")
        found[keyword.arg] = keyword.value
    return found


def _value(node: ast.expr) -> Any:
    """A literal, or a part by name."""
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name | ast.Attribute):
        theirs = (
            _public(pytorch_metric_learning.distances)
            | _public(pytorch_metric_learning.reducers)
            | _public(pytorch_metric_learning.regularizers)
        )
        return _build("part", _call(node), _with_ours(theirs, _public(regularizers)), {})
    return _literal(node)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # the latter for a key of a dictionary that cannot be one
        raise ValueError(f"a number or literal must stand where {ast.unparse(node)!r} stands. {GRAMMAR}") from None
