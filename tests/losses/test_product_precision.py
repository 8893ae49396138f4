"""Products with all classes are made in the half precision that a user asks for, and nothing else is."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pml_center import losses
from pml_center.names import constructor_arguments
from pml_center.ops import precision
from pml_center.ops.precision import HALF, product, product_dtype
from pml_center.training import parse_loss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

B = 32
TOLERANCE = {torch.bfloat16: 0.08, torch.float16: 0.01}  # of the length of a gradient, at a scale of 64
each_loss = pytest.mark.parametrize(
    "case",
    [case for case in CASES if "product_precision" in constructor_arguments(case.loss, stop=torch.nn.Module)],
    ids=str,
)
each_half = pytest.mark.parametrize("dtype", HALF, ids=str)
MATRICES = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


@pytest.fixture(autouse=True)
def _any_cpu(monkeypatch):
    """As on a CPU that has units for both."""
    monkeypatch.setattr(precision, "HALF_ON_CPU", set(HALF))


class Products(TorchDispatchMode):
    """Remembers the types of what is multiplied as matrices."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in MATRICES:
            self.seen.append({each.dtype for each in args if isinstance(each, torch.Tensor)})
        return func(*args, **(kwargs or {}))


@pytest.fixture
def batch(generator):
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator)
    return embeddings, torch.randint(NUM_CLASSES, (B,), generator=generator)


def value_and_gradients(loss, embeddings, labels, dtype=None, factor=1.0):
    """Under autocast, if there is a type for it; gradients of a loss that a scaler has multiplied."""
    embeddings = embeddings.detach().requires_grad_()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        value = loss(embeddings, labels)
    gradients = torch.autograd.grad(factor * value, [embeddings, *loss.parameters()])
    return [value.detach(), *(each / factor for each in gradients)]


def assert_near(found, exact, tolerance):
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= tolerance * other.norm()


@each_loss
@each_half
def test_near_fp64_under_autocast(case, batch, dtype):
    exact = case.build()
    loss = copy.deepcopy(exact).float()
    expected = value_and_gradients(exact, batch[0].double(), batch[1])
    with Products() as products:
        found = value_and_gradients(loss, *batch, dtype, factor=65536.0 if dtype == torch.float16 else 1.0)
    assert_near(found, expected, TOLERANCE[dtype])
    assert len(products.seen) >= 2
    assert all(types == {dtype} for types in products.seen)


@each_loss
def test_float32_switches_it_off(case, batch):
    loss = case.build(product_precision="float32").float()
    expected = value_and_gradients(copy.deepcopy(loss), *batch)
    with Products() as products:
        found = value_and_gradients(loss, *batch, torch.bfloat16)
    assert torch.equal(found[0], expected[0])
    assert all(types == {torch.float32} for types in products.seen)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"sub_centers": 3}, {"sample_rate": 0.5}], ids=str)
@each_half
def test_so_are_those_of_options(batch, options, dtype):
    exact = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, **options).double()
    loss = copy.deepcopy(exact).float()
    expected = value_and_gradients(exact, batch[0].double(), batch[1])
    with Products() as products:
        found = value_and_gradients(loss, *batch, dtype)
    assert_near(found, expected, TOLERANCE[dtype])
    assert set().union(*products.seen) == {dtype}


@pytest.mark.parametrize("factor", [1e-9, 2.0**24])
def test_gradients_beyond_the_range_of_fp16_are_none(batch, factor):
    exact = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE).double()
    loss = copy.deepcopy(exact).float()
    expected = value_and_gradients(exact, batch[0].double(), batch[1])
    assert_near(value_and_gradients(loss, *batch, torch.float16, factor), expected, TOLERANCE[torch.float16])


def test_a_gradient_that_is_not_finite_stays_so_for_the_scaler(batch):
    loss = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE)
    *_, of_weights = value_and_gradients(loss, *batch, torch.float16, torch.inf)
    assert not of_weights.isfinite().any()


def test_embeddings_in_half_precision_ask_for_it_too(batch):
    loss = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE)
    with Products() as products:
        value = loss(batch[0].bfloat16(), batch[1])
    assert products.seen == [{torch.bfloat16}]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value, loss(batch[0].bfloat16().float(), batch[1]))


def test_a_cpu_without_units_multiplies_in_fp32(batch, monkeypatch):
    monkeypatch.setattr(precision, "HALF_ON_CPU", set())
    loss = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE)
    expected = loss(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(*batch), expected)


def test_fp64_stays(batch):
    loss = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE).double()
    expected = loss(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(*batch), expected)


def test_a_gpu_is_asked_by_its_own_type_and_keeps_the_sums():
    with FakeTensorMode():
        embeddings = torch.empty(3, 4, device="cuda", dtype=torch.float16)
        assert product_dtype(embeddings, None) == torch.float16
        assert product(embeddings, embeddings.t(), torch.float16).dtype == torch.float32


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_compiled_equals_plain_and_is_traced_once(batch):
    torch._dynamo.reset()
    loss = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE)
    counts = torch._dynamo.utils.counters["frames"]
    compiled, traced = torch.compile(copy.deepcopy(loss), backend="aot_eager"), []
    for _ in range(3):
        found, expected = (value_and_gradients(each, *batch, torch.bfloat16) for each in (compiled, loss))
        assert_near(found, expected, 1e-3)
        traced.append(counts["total"])
    assert traced[2] == traced[1]
    torch._dynamo.reset()


def test_a_formula_leaves_losses_of_pml_in_fp32(batch):
    formula = parse_loss("CosFaceLoss @ BatchHardMiner + pml.CosFaceLoss", NUM_CLASSES, EMBEDDING_SIZE)
    with torch.autocast("cpu", torch.bfloat16), Products() as products:
        formula(*batch)
    ours, theirs = ({torch.bfloat16}, {torch.float32})
    assert products.seen.count(ours) == 1
    assert products.seen.count(theirs) >= 1


def test_another_precision_is_none():
    with pytest.raises(ValueError, match="product_precision must be a known name, got 'half'"):
        losses.CosFaceLoss(3, 2, product_precision="half")
