"""What holds for every regularizer, run over ``tests/regularizer_cases.py``."""

import copy
import io
import pickle

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers

from pml_center import losses
from tests.cases import each_reducer
from tests.regularizer_cases import REGULARIZER_CASES

each = pytest.mark.parametrize("case", REGULARIZER_CASES, ids=str)
N, D = 9, 5


@pytest.fixture
def rows(generator):
    return torch.randn(N, D, generator=generator, dtype=torch.double).requires_grad_()


def per_row(regularizer, rows):
    regularizer.set_reducer(reducers.DoNothingReducer())
    return regularizer(rows)["loss"]["losses"]


@each
def test_value_and_gradient_equal_the_formula(case, rows):
    terms, expected = per_row(case.build(), rows), case.formula(rows)
    torch.testing.assert_close(terms, expected)
    weights = torch.rand_like(expected)
    found, dense = (torch.autograd.grad((of * weights).sum(), rows)[0] for of in (terms, expected))
    torch.testing.assert_close(found, dense)


@each
def test_gradcheck(case, rows):
    regularizer = case.build()
    regularizer(rows)  # a radius that is found
    if case.arguments.get("kind") != "auto":  # whose mean is a constant to the gradient
        assert torch.autograd.gradcheck(regularizer, rows)


@each
@each_reducer(N)
def test_every_reducer_reduces_it(case, rows, reducer):
    terms = per_row(case.build(), rows)
    expected = {
        "SumReducer": terms.sum(),
        "ThresholdReducer": terms[terms > 0.1].mean(),
        "ClassWeightedReducer": (terms * torch.arange(1, N + 1)).mean() if terms.ndim else terms,
    }.get(type(reducer).__name__, terms.mean())
    torch.testing.assert_close(case.build(reducer=reducer)(rows), expected)


@each
@pytest.mark.parametrize("kind", [losses.SoftmaxLoss, losses.MarginalLoss, pml_losses.TripletMarginLoss])
def test_it_regularizes_embeddings_in_our_losses_and_in_those_of_pml(case, rows, kind):
    sizes = {"num_classes": 3, "embedding_size": D} if kind is losses.SoftmaxLoss else {}
    plain = kind(**sizes).double()
    loss = copy.deepcopy(plain)
    with_term = kind(**sizes, embedding_regularizer=case.build(), embedding_reg_weight=0.3).double()
    with_term.load_state_dict(loss.state_dict(), strict=False)
    labels = torch.arange(N) % 3
    torch.testing.assert_close(with_term(rows, labels), plain(rows, labels) + 0.3 * case.build()(rows))


@each
@pytest.mark.parametrize("kind", [losses.CosFaceLoss, losses.CenterLoss, pml_losses.CosFaceLoss])
def test_it_regularizes_class_rows_in_our_losses_and_in_those_of_pml(case, rows, kind):
    plain = kind(num_classes=3, embedding_size=D, weight_init_func=torch.nn.init.normal_).double()
    with_term = kind(num_classes=3, embedding_size=D, weight_regularizer=case.build(), weight_reg_weight=0.3).double()
    with_term.load_state_dict(plain.state_dict(), strict=False)
    weights = (plain.W.t() if kind is pml_losses.CosFaceLoss else plain.class_rows()).detach().clone()
    labels = torch.arange(N) % 3  # all of them
    torch.testing.assert_close(with_term(rows, labels), plain(rows, labels) + 0.3 * case.build()(weights))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_rows_have_finite_terms_and_gradients(case, dtype):
    rows = [[1, 0, 0], [-1, 0, 0], [0, 0, 0], [1e4, 0, 0], [0, 1e-7, 0], [1, 0, 0], [-1e4, 1e4, 0]]
    rows = torch.tensor(rows, dtype=dtype, requires_grad=True)
    value = case.build().to(dtype)(rows)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()
    assert not rows.grad[2].any()  # nothing pulls a point without a direction anywhere


@each
def test_a_single_row_has_a_finite_term(case):
    rows = torch.tensor([[3.0, 4.0]], requires_grad=True)
    value = case.build()(rows)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_fp32(case, rows, dtype, autocast):
    half = rows.detach().to(dtype)
    regularizer = case.build().float()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = regularizer(half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, case.build().float()(half.float()))


@each
def test_state_survives_saving_copying_and_pickling(case, rows):
    regularizer = case.build()
    regularizer(rows)
    saved = io.BytesIO()
    torch.save(regularizer.state_dict(), saved)
    saved.seek(0)
    fresh = case.build()
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    value = regularizer(2 * rows)
    for again in (fresh, copy.deepcopy(regularizer), pickle.loads(pickle.dumps(regularizer))):
        assert torch.equal(again(2 * rows), value)


@each
@pytest.mark.parametrize("collect_stats", [True, False])
def test_what_it_records_is_an_attribute(case, rows, collect_stats):
    regularizer = case.build(collect_stats=collect_stats)
    regularizer(rows)
    assert all(hasattr(regularizer, name) for name in getattr(regularizer, "_record_these", []))


@each
def test_an_unknown_argument_is_refused(case):
    with pytest.raises(TypeError, match="unexpected keyword argument 'distance'"):
        case.build(distance=None)


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@each
def test_it_runs_in_a_compiled_loss(case, rows):
    torch._dynamo.reset()
    plain = losses.SoftmaxLoss(3, D, embedding_regularizer=case.build()).double()
    compiled = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    labels = torch.arange(N) % 3
    for _ in range(2):  # the second batch has a radius
        value, expected = compiled(rows, labels), plain(rows, labels)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, rows), torch.autograd.grad(expected, rows))
    torch._dynamo.reset()
