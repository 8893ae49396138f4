"""A walk over constructors and batches with wrong types, sizes and values: all that is raised is a sentence."""

import math
import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pml_center import losses, regularizers
from pml_center.losses import schedules
from pml_center.names import constructor_parameters
from tests.cases import CASES, references

SENTENCE = re.compile(r"^.+ must .+, got .+\. .+\.$", re.DOTALL)  # rule, value and remedy
SIZES = {"num_classes": 3, "embedding_size": 4, "class_counts": 2, "queue_size": 5}
B = 6
walk = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

numbers = [0, 1, 2, 3, -1, 90.0, 0.5, 2.5, 1e-320, 1e30, 1e300, math.inf, -math.inf, math.nan, 2**31, 2**63, -(2**70)]
odd_numbers = [True, np.int64(2), np.float32(0.5), np.bool_(True), np.nan, Fraction(1, 2), Decimal("0.5"), 1j, 10**400]
odd_numbers += [torch.tensor(value) for value in (0.5, 2, True, 1j, [1.0])] + [nn.Parameter(torch.ones(()))]
texts = ["", "x", "3", "paper", "cosine", b"x"]
lists = [[], [1.0], (1, 2), {}, {"a": 1}, set(), range(3), ["a", "b", "c"], [1, 2, 3], [1, 1, 0], [math.nan] * 3]
lists += [[2**70] * 3, [[1, 2, 3]], [None] * 3, [True] * 3, np.ones(2), np.array("x"), np.array([object()])]
lists += [torch.ones(2), torch.zeros(0), torch.ones(3, device="meta"), torch.ones(3).to_sparse()]
objects = [None, ..., slice(3), object(), NotImplemented, torch.float32]
functions = [lambda step: step, lambda step: "x", lambda step: None]
anything = st.sampled_from([*numbers, *odd_numbers, *texts, *lists, *objects, *functions])


def public():
    """Every class of the two packages that is built by a user, and the schedules."""
    classes = [vars(package)[name] for package in (losses, regularizers) for name in package.__all__]
    built = [each for each in classes if isinstance(each, type) and not each.__name__.startswith("Base")]
    return [*built, schedules.Annealing, schedules.LinearWarmup]


ARGUMENTS = [(kind, name) for kind in public() for name in constructor_parameters(kind, stop=nn.Module)]


def is_answered(call):
    """Whether it works, or raises a sentence of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            if not SENTENCE.match(str(error)):
                raise
    return True


def used(built):
    """What was built does its work, or says why not."""
    embeddings, labels = torch.randn(B, 4, requires_grad=True), torch.arange(B) % 3
    if isinstance(built, schedules.Annealing | schedules.LinearWarmup):
        return built(1), built(10**6)
    if type(built).__module__.startswith("pml_center.regularizers"):
        return built(embeddings)
    pair = dict(zip(("ref_emb", "ref_labels"), references(embeddings), strict=True)) if built.takes_references else {}
    value = built(embeddings, labels, **pair)
    if isinstance(value, torch.Tensor):
        value.sum().backward()
    return built.get_logits(embeddings) if hasattr(built, "get_logits") else value


def fills_nothing(name, value):
    """A function that a user hands in raises what it likes."""
    return name == "weight_init_func" and callable(value)


@pytest.mark.parametrize("value", ["x", 2**70], ids=repr)
def test_each_argument_of_each_class_takes_a_value_or_says_why_not(value):
    for kind, name in ARGUMENTS:
        sizes = {size: number for size, number in SIZES.items() if size in constructor_parameters(kind, stop=nn.Module)}
        assert is_answered(lambda: kind(**{**sizes, name: value})), (kind, name)  # noqa: B023


def is_number(kind, name):
    default = constructor_parameters(kind, stop=nn.Module)[name][1].default
    return (isinstance(default, int | float) and not isinstance(default, bool)) or name in NUMBERS_OR_NONE


NUMBERS_OR_NONE = {"margin", "std", "scale", "filter_threshold", "radius", "chunk_size", "accumulation_steps"}
NUMERIC = [argument for argument in ARGUMENTS if is_number(*argument)]


@pytest.mark.parametrize("value", [math.inf, math.nan, True])
def test_each_number_must_be_one(value):
    assert len(NUMERIC) > 200
    for kind, name in NUMERIC:
        sizes = {size: number for size, number in SIZES.items() if size in constructor_parameters(kind, stop=nn.Module)}
        with pytest.raises(ValueError, match=f"^{name} must be .*, got {value}"):
            kind(**{**sizes, name: value})


@walk
@given(st.sampled_from(ARGUMENTS), anything)
def test_what_was_built_with_a_strange_value_works_or_says_why_not(argument, value):
    kind, name = argument
    sizes = {size: number for size, number in SIZES.items() if size in constructor_parameters(kind, stop=nn.Module)}
    if not fills_nothing(name, value):
        assert is_answered(lambda: used(kind(**{**sizes, name: value})))


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.int32]
DTYPES += [torch.int16, torch.uint8, torch.uint64, torch.bool]
LAYOUTS = [
    lambda x: x.to("meta"),
    lambda x: x.to_sparse(),
    lambda x: x.tolist(),
    lambda x: x.numpy(),
    lambda x: x[..., None],
]
LAYOUTS += [
    lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged),
]


def tensors(right, shapes, fills):
    """The right tensor, often; or one of another shape, with other values, of another type or layout; or anything."""
    wrong = [torch.full(shape, fill, dtype=right.dtype) for shape in shapes for fill in fills]
    wrong += [right.to(dtype) for dtype in DTYPES] + [layout(right) for layout in LAYOUTS]
    return st.just(right) | st.sampled_from(wrong) | anything


embeddings = tensors(
    torch.randn(B, 4), [(B, 4), (0, 4), (1, 4), (B,), (B, 3), ()], [0.0, 1e4, 1e25, math.nan, math.inf]
)
labels = tensors(torch.arange(B) % 3, [(B,), (0,), (1,), (5,), (B, 1), (B, 3), ()], [0, 2, 3, -1, 300])
indices = tensors(torch.tensor([0, 1]), [(2,), (3,), (0,), (1, 2)], [0, B, -1])
tuples = st.none() | anything | st.lists(indices, min_size=2, max_size=5).map(tuple)
built = {str(case): case.make(3, 4, ignore_index=2) for case in CASES if not case.takes_references}


@walk
@given(st.sampled_from(sorted(built)), embeddings, labels, tuples, st.none() | embeddings)
def test_each_loss_takes_a_batch_or_says_why_not(name, embeddings, labels, mined, reference):
    loss = built[name]
    assert is_answered(lambda: loss(embeddings, labels, mined, reference))
    if hasattr(loss, "get_outliers"):
        assert is_answered(lambda: loss.get_logits(embeddings, labels))
        assert is_answered(lambda: loss.get_outliers(embeddings, labels))


@walk
@given(embeddings, labels, embeddings, labels)
def test_a_loss_of_two_sets_takes_both_or_says_why_not(embeddings, labels, ref_emb, ref_labels):
    loss = losses.HeteroCenterLoss()
    assert is_answered(lambda: loss(embeddings, labels, None, ref_emb, ref_labels))


@settings(walk, max_examples=100)
@given(st.sampled_from(regularizers.__all__), embeddings)
def test_each_regularizer_takes_rows_or_says_why_not(name, rows):
    assert is_answered(lambda: getattr(regularizers, name)()(rows))


def test_a_number_of_classes_that_changes_later_is_checked_likewise():
    for case in (case for case in CASES if case.is_softmax):
        for size in ("x", None, 0, 2.5, 2**70, np.int64(4)):
            assert is_answered(lambda: case.make(3, 4).resize_classes(size)), (case, size)  # noqa: B023
