"""What holds for every loss, run over ``tests/cases.py``."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers, regularizers
from torch.utils._python_dispatch import TorchDispatchMode

from pml_center.losses import BaseSoftmaxLoss, CACLoss
from pml_center.losses.watch import BATCHES_AT_REST
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES, Case, each_reducer

each_loss = pytest.mark.parametrize("case", CASES, ids=str)
each_differentiable = pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=str)
each_with_classes = pytest.mark.parametrize("case", [case for case in CASES if case.has_classes], ids=str)
each_softmax = pytest.mark.parametrize("case", [case for case in CASES if case.is_softmax], ids=str)
B = 12


@pytest.fixture
def batch(generator):
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double)
    labels = torch.randint(NUM_CLASSES - 1, (B,), generator=generator)  # the last class is absent
    return embeddings.requires_grad_(), labels


def gradients(value, loss, embeddings):
    """Of the embeddings and of every parameter."""
    return torch.autograd.grad(value, [embeddings, *loss.parameters()])


def per_sample(loss, *batch):
    """The loss of each sample, through the public call."""
    loss.set_reducer(reducers.DoNothingReducer())
    return loss(*batch)["loss"]["losses"]


@each_loss
def test_value_and_gradients_equal_the_dense_formula(case, batch):
    loss = case.build()
    weights = torch.rand(B, dtype=torch.double)  # each sample has a gradient of its own
    dense = case.formula(loss, *batch)
    expected = gradients(dense @ weights, loss, batch[0])
    losses = per_sample(loss, *batch)
    torch.testing.assert_close(losses, dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(losses @ weights, loss, batch[0]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [case for case in CASES if case.chunks(1)], ids=str)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, NUM_CLASSES, 100])
def test_the_chunk_size_does_not_change_the_result(case, batch, chunk_size):
    whole, chunked = case.build(), case.build(chunk_size=chunk_size)
    value, other = whole(*batch), chunked(*batch)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradients(other, chunked, batch[0]), gradients(value, whole, batch[0]), rtol=1e-10, atol=1e-12
    )


@each_differentiable
def test_gradcheck(case, batch):
    loss = case.build(**case.chunks(3)).eval()
    few = batch[0][:5].detach().requires_grad_()  # two calls for each number
    assert torch.autograd.gradcheck(lambda embeddings: loss(embeddings, batch[1][:5]), few)


@each_loss
def test_a_second_forward_leaves_the_first_backward_alone(case, batch):
    loss = case.build(**case.chunks(3))
    twin = copy.deepcopy(loss)
    alone = gradients(twin(*batch), twin, batch[0])
    first = loss(*batch)
    loss(-3 * batch[0], batch[1])
    torch.testing.assert_close(gradients(first, loss, batch[0]), alone)


@each_loss
def test_a_second_derivative_is_right_or_refused(case, batch):
    labels = torch.arange(B) % 4  # a class of one sample is at distance 0 from its mean, where lengths have no slope

    def slope(embeddings):
        (gradient,) = torch.autograd.grad(loss(embeddings, labels), embeddings, create_graph=True)
        return gradient.square().sum()

    loss = case.build().eval()
    try:
        (found,) = torch.autograd.grad(slope(batch[0]), batch[0])
    except RuntimeError as error:
        if "create_graph must be False" not in str(error):
            raise
        return
    direction, step = torch.ones_like(batch[0]), 1e-5
    ahead, behind = (slope((batch[0] + sign * step * direction).detach().requires_grad_()) for sign in (1, -1))
    torch.testing.assert_close((found * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@each_loss
def test_never_makes_a_tensor_of_batch_by_classes(case):
    is_narrow = case.loss is CACLoss  # has at most as many classes as an embedding has numbers
    classes = 4 if is_narrow else 1000
    loss = case.make(classes, 4, **case.chunks(100))
    embeddings, labels = torch.randn(50, 4, requires_grad=True), torch.randint(classes, (50,))
    with LargestTensor() as seen:
        loss(embeddings, labels).backward()
    assert 50 * 4 <= seen.numel < 50 * (5 if is_narrow else classes)  # at least the embeddings were seen


@each_loss
@each_reducer(NUM_CLASSES)
def test_every_reducer_reduces_it(case, batch, reducer):
    losses = per_sample(case.build(), *batch)
    value = case.build(reducer=reducer)(*batch)
    expected = {
        "SumReducer": losses.sum(),
        "AvgNonZeroReducer": losses[losses > 0].mean(),
        "ThresholdReducer": losses[losses > 0.1].mean(),
        "ClassWeightedReducer": (losses * (batch[1] + 1)).mean(),
        "PerAnchorReducer": losses.mean(),
    }.get(type(reducer).__name__, losses.mean())
    torch.testing.assert_close(value, expected)


@each_loss
def test_both_regularizers_add_their_terms(case, batch):
    plain = case.build()(*batch)
    arguments = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 2}
    expected = plain + 2 * batch[0].norm(dim=1).mean()
    names = {"loss", "embedding_reg_loss"}
    if case.has_classes:
        arguments |= {"weight_regularizer": regularizers.LpRegularizer(), "weight_reg_weight": 3}
        expected = expected + 3 * case.build().class_rows().detach().norm(dim=1).mean()
        names.add("weight_reg_loss")
    loss = case.build(**arguments)
    assert set(loss.sub_loss_names()) == names
    torch.testing.assert_close(loss(*batch), expected)


@each_loss
def test_a_miner_weights_the_samples(case, batch):
    anchors, positives, negatives = torch.tensor([0, 0, 1]), torch.tensor([2, 3, 2]), torch.tensor([4, 4, 4])
    counts = torch.zeros(B, dtype=torch.double)
    for index in [*anchors, *positives, *negatives]:
        counts[index] += 1
    losses = per_sample(case.build(), *batch)
    torch.testing.assert_close(per_sample(case.build(), *batch, (anchors, positives, negatives)), losses * counts / 3)
    nothing = (torch.zeros(0, dtype=torch.long),) * 3
    torch.testing.assert_close(per_sample(case.build(), *batch, nothing), losses)


@each_loss
def test_joins_a_triplet_loss_with_a_miner(case, batch):
    triplet, miner = pml_losses.TripletMarginLoss(), miners.MultiSimilarityMiner()
    both = pml_losses.MultipleLosses(
        {"ours": case.build(), "triplet": triplet}, miners={"triplet": miner}, weights={"ours": 0.3, "triplet": 2.0}
    )
    expected = 0.3 * case.build()(*batch) + 2 * triplet(*batch, miner(*batch))
    torch.testing.assert_close(both(*batch), expected)


@each_loss
def test_state_survives_saving_copying_and_pickling(case, batch):
    loss = case.build()
    loss(*batch)  # moves centers and statistics
    saved = io.BytesIO()
    torch.save(loss.state_dict(), saved)
    saved.seek(0)
    fresh = case.make().double()
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    value = copy.deepcopy(loss)(*batch)
    assert torch.equal(fresh(*batch), value)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(*batch), value)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_leaves_the_class_rows_in_fp32(case, batch, dtype, autocast):
    loss = case.make()
    embeddings = batch[0].detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = loss(embeddings, batch[1])
    assert value.dtype == torch.float32
    value.backward()
    assert embeddings.grad.dtype == dtype
    state = [tensor for tensor in [*loss.parameters(), *loss.buffers()] if tensor.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in state)
    if list(loss.parameters()):
        torch.optim.Adam(loss.parameters()).step()
    exact = case.make()
    loss = copy.deepcopy(exact)
    torch.testing.assert_close(loss(embeddings, batch[1]), exact(embeddings.float(), batch[1]), rtol=1e-6, atol=0)


@each_loss
def test_the_wider_type_wins_and_nothing_is_cast_in_place(case, batch):
    loss = case.make()
    assert loss(*batch).dtype == torch.float64
    if case.has_classes:
        assert loss.class_rows().dtype == torch.float32
        assert case.build()(batch[0].float(), batch[1]).dtype == torch.float64


@each_loss
@pytest.mark.parametrize("num_classes", [1, 2])
def test_few_classes_and_a_batch_of_one(case, num_classes):
    loss = case.build(num_classes)
    embeddings = torch.randn(1, EMBEDDING_SIZE, dtype=torch.double, requires_grad=True)
    value = loss(embeddings, torch.tensor([num_classes - 1]))
    value.backward()
    assert value.isfinite()
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())
    if num_classes == 1 and case.is_cross_entropy:
        assert value == 0


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_embeddings_have_finite_losses_and_gradients(case, dtype):
    loss = case.build(3, 3).to(dtype)
    if case.has_classes:
        with torch.no_grad():
            rows = loss.class_rows()
            rows.copy_(torch.eye(3).repeat_interleave(len(rows) // 3, dim=0))
    rows = [[1, 0, 0], [-1, 0, 0], [0, 0, 0], [1e4, 0, 0], [0, 1e-7, 0], [-1e4, 1e4, 0]]  # cosine exactly ±1 and 0
    embeddings = torch.tensor(rows, dtype=dtype, requires_grad=True)
    value = loss(embeddings, torch.zeros(len(rows), dtype=torch.long))
    value.backward()
    assert value.isfinite()
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@each_loss
def test_an_empty_batch_costs_nothing(case):
    loss = case.build(embedding_regularizer=regularizers.LpRegularizer())
    before = copy.deepcopy(loss.state_dict())
    embeddings = torch.zeros(0, EMBEDDING_SIZE, dtype=torch.double, requires_grad=True)
    value = loss(embeddings, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0
    assert all(torch.equal(loss.state_dict()[key], before[key]) for key in before)


@each_loss
def test_labels_of_any_integer_type_are_taken(case, batch):
    value = case.build()(*batch)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(case.build()(batch[0], batch[1].to(dtype)), value)


WRONG = {
    "above": (
        lambda x, y: (x, y.clone().index_fill_(0, torch.tensor([3]), 7)),
        ValueError,
        r"\[0, 7\).* got 7 at po.* 3",
    ),
    "negative": (lambda x, y: (x, y - 100), ValueError, r"labels must be in \[0, 7\) because num_classes=7, got -"),
    "float labels": (lambda x, y: (x, y.float()), TypeError, r"labels must be integers, got dtype torch.float32"),
    "bool labels": (lambda x, y: (x, y > 2), TypeError, r"labels must be integers, got dtype torch.bool"),
    "no labels": (lambda x, y: (x, None), ValueError, r"labels must be a tensor of integers, got NoneType"),
    "column": (
        lambda x, y: (x, y.unsqueeze(1)),
        ValueError,
        r"shape \(12,\).*got shape \(12, 1\). Use labels.flatten\(\).$",
    ),
    "one-hot": (
        lambda x, y: (x, torch.nn.functional.one_hot(y)),
        ValueError,
        r"labels must have shape \(12,\).*Use labels.argmax\(1\) if they are one-hot.$",
    ),
    "sparse": (
        lambda x, y: (x.to_sparse(), y),
        TypeError,
        r"embeddings must be a dense tensor, got one that is torch.sp",
    ),
    "8 bits": (
        lambda x, y: (x.to(torch.float8_e4m3fn), y),
        TypeError,
        r"must be floating point, got dtype torch.float8",
    ),
    "overflow": (lambda x, y: (1e25 * x.float(), y), ValueError, r"have lengths whose square float32 can hold, got \d"),
    "too few": (lambda x, y: (x, y[:5]), ValueError, r"labels must have shape \(12,\).*got shape \(5,\)"),
    "width": (lambda x, y: (x[:, :3], y), ValueError, r"must have 8 columns.*got shape \(12, 3\).*embedding_size=3"),
    "integers": (lambda x, y: (x.long(), y), TypeError, r"embeddings must be floating point, got dtype torch.int64"),
    "one row": (lambda x, y: (x[0], y), ValueError, r"embeddings must have shape \(batch, embedding_size\), got"),
    "nan": (lambda x, y: (x.where(x < 1.5, torch.nan), y), ValueError, r"embeddings must be finite, got nan in row"),
    "inf": (lambda x, y: (x.where(x < 1.5, torch.inf), y), ValueError, r"embeddings must be finite, got inf in row"),
    "references": (lambda x, y: (x, y, None, x + 1, y), ValueError, r"ref_emb must be None for \w+"),
}

OF_CLASSES = ("above", "negative", "width")  # mistakes only beside a row for each class


@each_loss
@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_answered_with_rule_value_and_remedy(case, batch, mistake):
    if mistake in OF_CLASSES and not case.has_classes:
        pytest.skip("any integers are labels, any width will do")
    if mistake == "references" and case.takes_references:
        pytest.skip("other references are what it asks for")
    spoil, error, message = WRONG[mistake]
    loss = case.build()
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(error, match=message):
        loss(*spoil(*batch))
    assert all(torch.equal(loss.state_dict()[key], before[key]) for key in before)


@each_with_classes
@pytest.mark.parametrize("name", ["num_classes", "embedding_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3"])
def test_sizes_must_be_positive_integers(case, name, value):
    sizes = {"num_classes": 3, "embedding_size": 4, name: value}
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least 1, got {value!r}"):
        case.loss(**sizes, **case.arguments)


@each_loss
def test_its_own_embeddings_are_allowed_as_references(case, batch):
    if case.takes_references:
        assert case.build()(*batch, None, *batch) == 0  # no distance to itself
        return
    assert torch.equal(case.build()(*batch, None, *batch), case.build()(*batch))


@each_with_classes
def test_weight_init_func_fills_the_rows_in_the_layout_of_pml(case):
    shapes = []

    def fill(tensor):
        shapes.append(tuple(tensor.shape))
        torch.nn.init.constant_(tensor, 3)

    if case.loss is CACLoss:  # its anchors are what it is
        with pytest.raises(ValueError, match="init must be None with weight_init_func"):
            case.make(weight_init_func=fill)
        return
    loss = case.make(weight_init_func=fill)
    assert shapes == [loss.class_rows().shape[::-1]]
    assert (loss.class_rows() == 3).all()


@each_loss
@pytest.mark.parametrize("collect_stats", [True, False])
def test_what_it_records_is_an_attribute_with_its_true_value(case, batch, collect_stats):
    loss = case.build(collect_stats=collect_stats)
    loss(*batch)
    if case.has_classes:
        assert {"num_classes", "embedding_size"} <= set(loss._record_these)
        assert loss.num_classes == NUM_CLASSES
        assert loss.embedding_size == EMBEDDING_SIZE
    assert all(hasattr(loss, name) for name in loss._record_these)


@each_loss
def test_parameters_that_no_optimizer_moves_are_reported_once(case, batch):
    loss = case.build()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(BATCHES_AT_REST + 5):
            loss(*batch).backward()
    expected = int(bool(list(loss.parameters())))
    assert sum("no optimizer has moved" in str(warning.message) for warning in caught) == expected


@each_loss
def test_nothing_is_reported_while_an_optimizer_moves_the_parameters(case, batch):
    loss = case.build()
    optimizer = torch.optim.AdamW([*loss.parameters(), batch[0]], fused=True)  # fused: raises no version counter
    for _ in range(BATCHES_AT_REST + 5):
        optimizer.zero_grad()
        loss(*batch).backward()
        optimizer.step()


@each_softmax
def test_logits_are_those_of_training_if_labels_are_given(case, batch):
    loss = case.build().eval()
    if case.is_cross_entropy:
        losses = torch.nn.functional.cross_entropy(
            loss.get_logits(*batch), batch[1], reduction="none", label_smoothing=loss.label_smoothing
        )
        torch.testing.assert_close(losses, per_sample(loss, *batch))
    others = ~torch.nn.functional.one_hot(batch[1], NUM_CLASSES).bool()
    if type(loss).negative_margin is BaseSoftmaxLoss.negative_margin:
        torch.testing.assert_close(loss.get_logits(*batch)[others], loss.get_logits(batch[0])[others])
    assert torch.equal(loss.predict(batch[0]), loss.get_logits(batch[0]).argmax(1))


@each_softmax
def test_labels_of_logits_are_checked_and_converted_as_those_of_training(case, batch):
    loss = case.build().eval()
    for dtype in (torch.uint8, torch.int16):
        assert torch.equal(loss.get_logits(batch[0], batch[1].to(dtype)), loss.get_logits(*batch))
    for labels in (batch[1] - 1, batch[1] + NUM_CLASSES, batch[1][1:], batch[1].unsqueeze(1)):
        with pytest.raises(ValueError, match=r"labels must (be in|have shape)"):
            loss.get_logits(batch[0], labels)


@each_softmax
def test_w_is_a_view_in_the_layout_of_pml(case):
    loss = case.build()
    assert loss.W.shape == (EMBEDDING_SIZE, NUM_CLASSES * loss.sub_centers)
    assert loss.W.data_ptr() == loss.class_weights.weight.data_ptr()


def test_every_case_is_a_case():
    assert len(CASES) >= 9
    assert all(isinstance(case, Case) for case in CASES)
