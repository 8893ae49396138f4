"""The replaced import line: what code does with PML's losses does the same with ours, or is answered by a sentence."""

import copy
import io
import itertools
import warnings

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml
from torch import nn
from torch.nn import functional as F

from pml_center import losses

C, D = 5, 8
OF_BOTH = ["ArcFaceLoss", "CosFaceLoss", "SphereFaceLoss", "LargeMarginSoftmaxLoss", "SubCenterArcFaceLoss"]
OF_BOTH += ["NormalizedSoftmaxLoss"]
each_of_both = pytest.mark.parametrize("name", OF_BOTH)
DERIVED = {"alternating", "cos_powers", "margin_choose_n", "max_n", "n_range"}  # of the margin, in PML


@pytest.fixture
def batch(generator):
    return torch.randn(12, D, generator=generator), torch.arange(12) % C


@pytest.fixture
def both(generator):
    """PML's loss and ours, with the same weights."""

    def build(name="ArcFaceLoss", **arguments):
        theirs, ours = (getattr(module, name)(num_classes=C, embedding_size=D, **arguments) for module in (pml, losses))
        ours.W.data = theirs.W.data
        return theirs, ours

    return build


def assert_same(step, both, *arguments):
    """A step gives the same with both, to rounding."""
    theirs, ours = both(*arguments)
    torch.testing.assert_close(torch.as_tensor(step(ours)), torch.as_tensor(step(theirs)), rtol=1e-4, atol=1e-5)


def after(loss, batch):
    """The value, the columns and their gradient, once a step has been taken."""
    value = loss(*batch)
    value.backward()
    return torch.cat([value.detach().reshape(1), loss.W.detach().flatten(), loss.W.grad.flatten()])


@pytest.mark.parametrize("name", ["ArcFaceLoss", "SubCenterArcFaceLoss", "NormalizedSoftmaxLoss"])
@pytest.mark.parametrize("normalized", [False, True])
def test_columns_are_replaced_by_data(name, normalized, both, batch, generator):
    shape = both(name)[0].W.shape
    columns = F.normalize(torch.randn(shape, generator=generator), dim=0)

    def step(loss):
        loss.W.data = columns
        loss(*batch)  # another batch is none of it
        if normalized:
            loss.W.data = F.normalize(3 * loss.W.data, dim=0)
        return after(loss, batch)

    assert_same(step, both, name)


def mask(gradient):
    return gradient * (torch.arange(gradient.shape[1]) != 2)


def hooked(loss, batch):
    loss.W.register_hook(mask)
    return after(loss, batch)


def accumulated(loss, batch):
    def double(columns):
        columns.grad.mul_(2)

    loss.W.register_post_accumulate_grad_hook(double)
    return after(loss, batch)


def clipped(loss, batch):
    after(loss, batch)
    nn.utils.clip_grad_norm_([loss.W], 0.01)
    return loss.W.grad


def clipped_by_value(loss, batch):
    after(loss, batch)
    nn.utils.clip_grad_value_([loss.W], 1e-3)
    return loss.W.grad


def written_in_place(loss, batch):
    with torch.no_grad():
        loss.W *= 2
        loss.W.data += 1
        loss.W[:, 3] = 4
    return after(loss, batch)


def frozen(loss, batch):
    with torch.no_grad():
        loss.W.requires_grad_(False)
    return torch.tensor([loss(*batch).requires_grad, loss.W.requires_grad])


def frozen_by_flag(loss, batch):
    loss.W.requires_grad = False
    return torch.tensor([loss(*batch).requires_grad, loss.W.requires_grad])


def without_gradient(loss, batch):
    after(loss, batch)
    loss.W.grad = None
    loss.W.grad = torch.ones(loss.W.shape)
    loss.W.grad *= 3
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    optimizer.step()
    return loss.W.detach()


@pytest.mark.parametrize(
    "step", [written_in_place, hooked, accumulated, clipped, clipped_by_value, frozen, frozen_by_flag, without_gradient]
)
def test_what_is_done_to_w_is_done_to_the_weights(step, both, batch):
    assert_same(lambda loss: step(loss, batch), both)


def test_w_is_a_parameter_that_is_copied_and_saved_as_one(batch):
    loss, file = losses.ArcFaceLoss(C, D), io.BytesIO()
    assert isinstance(loss.W, nn.Parameter)
    torch.save({"W": loss.W}, file)
    file.seek(0)
    for copied in (torch.load(file)["W"], copy.deepcopy(loss.W)):
        assert type(copied) is nn.Parameter
        assert torch.equal(copied, loss.W)
        assert copied.data_ptr() != loss.W.data_ptr()
    assert type(loss.W + 1) is type(loss.W.data) is torch.Tensor


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (
            lambda loss: setattr(loss.W, "data", torch.ones(D, C + 2)),
            r"W.data must have shape \(8, 5\).*resize_classes",
        ),
        (lambda loss: loss.W.set_(torch.ones(D, C)), "W.set_ must not be called"),
        (lambda loss: setattr(loss, "W", nn.Parameter(torch.ones(D, C))), "W must be written in place.*W.data ="),
        (lambda loss: torch.optim.SGD([loss.W], lr=1), r"W must not be given to an optimizer.*loss.parameters\(\)"),
        (lambda loss: setattr(loss, "num_classes", C + 2), "num_classes must stay 5.*got 7.*resize_classes"),
        (lambda loss: setattr(loss, "sub_centers", 3), "sub_centers must stay 1"),
        (lambda loss: setattr(loss, "loss_weights", torch.ones(C)), "loss_weights must be given when ArcFaceLoss is"),
        (lambda loss: setattr(loss, "class_weights", torch.ones(C)), "class_weights must stay.*loss_weights=..."),
        (lambda loss: setattr(loss, "prototypes", nn.Parameter(torch.ones(3))), "prototypes must stay a method"),
        (lambda loss: setattr(loss, "penalty", 0.1), "penalty must stay a method of ArcFaceLoss"),
        (lambda loss: setattr(loss, "penalty", nn.MSELoss()), "penalty must stay a method of ArcFaceLoss"),
        (lambda loss: setattr(loss, "margin", nn.Parameter(torch.ones(()))), r"margin must be in \[0, 180\] degrees"),
        (lambda loss: setattr(loss, "cross_entropy", nn.CrossEntropyLoss()), "label_smoothing=.*loss_weights="),
        (lambda loss: setattr(loss.cross_entropy, "label_smoothing", 0.1), "given another label_smoothing"),
        (lambda loss: loss.init_margin(), "init_margin must not be called"),
        (lambda loss: loss.get_target_mask(None, None), r"get_logits\(embeddings, labels\)"),
        (lambda loss: setattr(loss, "distance", distances.CosineSimilarity(power=2)), "distance must be CosineSimil"),
    ],
)
def test_what_would_be_ignored_is_refused(misuse, says):
    loss = losses.ArcFaceLoss(C, D)
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises((TypeError, ValueError), match=says):
        misuse(loss)
    torch.testing.assert_close(loss.state_dict(), before)


def test_weights_of_classes_may_be_assigned_where_there_are_some(batch):
    loss = losses.ArcFaceLoss(C, D, loss_weights=[1.0] * C)
    plain = loss(*batch)
    loss.loss_weights = torch.arange(1, C + 1)
    assert loss.state_dict()["loss_weights"].tolist() == [1, 2, 3, 4, 5]
    assert not torch.equal(loss(*batch), plain)
    with pytest.raises(ValueError, match="loss_weights must be 5 positive numbers"):
        loss.loss_weights = torch.ones(C + 1)


@each_of_both
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PML about numpy
def test_every_name_of_pml_is_there_or_says_what_to_write(name):
    theirs = getattr(pml, name)(num_classes=C, embedding_size=D)
    names = {each for each in {*dir(theirs), *vars(theirs)} - {*dir(nn.Module())} if not each.startswith("_")}
    ours = getattr(losses, name)(C, D)
    assert not {each for each in names if not hasattr(ours, each)} - DERIVED
    assert len(names) > 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("scale_logits", r"Override logit_scale\(batch\)"),
        ("modify_cosine_of_target_classes", r"Override target_cosine\(batch\)"),
        ("get_cosine", r"get_logits\(embeddings\)"),
        ("init_margin", "loss.margin is read in every batch"),
        ("compute_loss", "by element_losses"),
        ("weight_regularization_loss", "weight_regularizer="),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_hook_of_pml_is_refused_when_the_class_is_made(name, says, mixed):
    body = {name: lambda self, *args: None}
    bases = (type("Mixin", (), body), losses.CosFaceLoss) if mixed else (losses.CosFaceLoss,)
    with pytest.raises(TypeError, match=rf"{name} must not be overridden in Own, because.*{says}"):
        type("Own", bases, {} if mixed else body)


def test_a_hook_of_pml_that_is_assigned_to_a_class_is_refused_when_it_is_built(monkeypatch):
    monkeypatch.setattr(losses.CosFaceLoss, "scale_logits", lambda self, logits, *_: logits)
    with pytest.raises(TypeError, match="scale_logits must not be overridden in CosFaceLoss"):
        losses.CosFaceLoss(C, D)


def test_the_logits_of_pml_are_a_hook_where_pml_trains_by_them():
    body = {"get_logits": lambda self, embeddings: None}
    type("Own", (losses.ArcFaceLoss,), body)
    with pytest.raises(TypeError, match="get_logits must not be overridden in Own, because training does not call it"):
        type("Own", (losses.NormalizedSoftmaxLoss,), body)


@pytest.mark.parametrize("base", [losses.CenterLoss, losses.RangeLoss, losses.SoftmaxCenterLoss])
def test_no_loss_calls_compute_loss(base):
    with pytest.raises(TypeError, match="compute_loss must not be overridden in Own"):
        type("Own", (base,), {"compute_loss": lambda self, *args: None})


@pytest.mark.parametrize(
    ("base", "name", "given"),
    [
        (losses.ArcFaceLoss, "penalty", lambda self, embeddings, labels: 0),
        (losses.ArcFaceLoss, "prototypes", property(lambda self: 0)),
        (losses.ArcFaceLoss, "class_rows", 3),
        (losses.CenterLoss, "step", lambda self: 0),
    ],
)
def test_a_name_that_ours_call_is_not_taken_by_something_else(base, name, given):
    with pytest.raises(TypeError, match=rf"{name} must .*in Own. Choose another name for your own"):
        type("Own", (base,), {name: given})


def test_a_subclass_may_use_all_other_names(batch):
    class Own(losses.ArcFaceLoss):
        def __init__(self, *args, **kwargs):
            self.number = kwargs.pop("number")
            super().__init__(*args, **kwargs)
            self.own = nn.Linear(2, 2)

        def step(self):
            return self.number

        def target_cosine(self, batch, share=1):
            return super().target_cosine(batch) * share

    loss = Own(C, D, number=3, margin_schedule=lambda step: 1)
    loss(*batch)
    assert loss.step() == 3
    assert loss.state_dict()["step"] == 1
    resumed = Own(C, D, number=3, margin_schedule=lambda step: 1)
    resumed.load_state_dict(loss.state_dict())
    assert resumed._step == 1


@pytest.mark.parametrize("name", ["ArcFaceLoss", "SubCenterArcFaceLoss"])
def test_a_margin_in_radians_warns_wherever_it_is_set(name):
    says = rf"{name}\(margin=0.349.*\) is 0.349.* degrees, almost no margin.*write margin=20.0"
    loss = getattr(losses, name)(C, D)
    with pytest.warns(UserWarning, match=says) as caught:
        loss.margin = np.radians(20)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=says) as caught:
        getattr(losses, name)(C, D, margin=np.radians(20))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.margin = 20
        loss.margin = 0


def test_temperature_and_scale_are_one(both, batch):
    def step(loss):
        loss.temperature = 0.5
        return torch.cat([loss(*batch).reshape(1), loss.get_logits(batch[0]).flatten()])

    assert_same(step, both, "NormalizedSoftmaxLoss")
    loss = losses.NormalizedSoftmaxLoss(C, D)
    loss.scale = 4
    assert loss.temperature == 0.25
    learned = losses.NormalizedSoftmaxLoss(C, D, learn_scale=True)
    learned.temperature = 0.5
    assert learned.log_scale.exp().item() == pytest.approx(2)
    with pytest.raises(ValueError, match=r"(?s)temperature must be positive.*learn_scale=True"):
        loss.temperature = nn.Parameter(torch.tensor(0.5))


class Doubled(distances.CosineSimilarity):
    def compute_mat(self, query_emb, ref_emb):
        return 2 * super().compute_mat(query_emb, ref_emb)


@pytest.mark.parametrize(
    "distance", [distances.CosineSimilarity(power=2), distances.CosineSimilarity(p=1), Doubled()], ids=str
)
def test_a_distance_that_would_not_be_called_is_refused(distance):
    with pytest.raises(TypeError, match="distance must be CosineSimilarity because CosFaceLoss is defined on it, got"):
        losses.CosFaceLoss(C, D, distance=distance)


def test_classes_are_those_of_pml():
    for name, others in itertools.product(OF_BOTH, OF_BOTH):
        ours, theirs = (issubclass(getattr(m, name), getattr(m, others)) for m in (losses, pml))
        assert ours == theirs, f"{name}, {others}"
    assert isinstance(losses.SubCenterArcFaceLoss(C, D), losses.ArcFaceLoss)
    assert not isinstance(losses.MagFaceLoss(C, D), losses.LargeMarginSoftmaxLoss)


def test_what_starts_the_weights_of_layers_leaves_those_of_classes(batch):
    loss = losses.ArcFaceLoss(C, D)
    before = loss.W.clone()
    model = nn.ModuleDict({"trunk": nn.Linear(D, D), "loss": loss})
    model.apply(lambda module: nn.init.ones_(module.weight) if hasattr(module, "weight") else None)
    assert model["trunk"].weight.eq(1).all()
    assert torch.equal(loss.W, before)


@pytest.mark.parametrize("kind", [losses.CenterLoss, losses.IslandLoss, losses.SoftmaxCenterLoss])
@pytest.mark.parametrize("init", ["zeros", "first_batch"])
def test_a_center_loss_that_is_frozen_stands_still(kind, init, batch):
    loss = kind(C, D, init=init).requires_grad_(False)
    before = copy.deepcopy(loss.state_dict())
    loss(*batch)
    torch.testing.assert_close(loss.state_dict(), before)
    loss.requires_grad_(True)
    loss(*batch)
    assert not torch.equal(loss.state_dict()[[*before][-3]], before[[*before][-3]])


def test_the_class_that_received_an_argument_is_the_one_that_is_asked(batch):
    class Own(losses.ArcFaceLoss):
        def __init__(self, classes, width, **unknown):
            super().__init__(classes, width, reducer=reducers.MeanReducer(), collect_stats=True, **unknown)

    class Narrow(Own):
        def __init__(self, classes):
            super().__init__(classes, D, weight_regularizer=None, redcer=3)

    Own(C, D)(*batch)
    with pytest.raises(TypeError, match=r"argument of Own must be.*got 'redcer'. Did you mean 'reducer'"):
        Narrow(C)


@pytest.mark.parametrize(
    ("kind", "arguments", "name", "meant"),
    [
        (losses.CenterLoss, {"num_classes": C, "feat_dim": D, "use_gpu": True}, "feat_dim", "embedding_size"),
        (losses.SoftmaxLoss, {"out_features": C, "in_features": D}, "out_features", "num_classes"),
        (losses.ArcFaceLoss, {"num_classes": C, "embedding_size": D, "m": 0.5}, "m", "margin"),
    ],
)
def test_an_argument_with_another_name_is_named(kind, arguments, name, meant):
    with pytest.raises(TypeError, match=f"argument of {kind.__name__} must.*got '{name}'. Did you mean '{meant}'"):
        kind(**arguments)


@pytest.mark.parametrize("kind", [losses.CenterLoss, losses.ArcFaceLoss])
def test_embeddings_come_first(kind, batch):
    with pytest.raises(TypeError, match=r"embeddings must come first and labels second, got torch.int64 of shape"):
        kind(C, D)(batch[1], batch[0])


def test_centers_that_step_by_themselves_need_no_optimizer():
    loss, layer = losses.CenterLoss(C, D), nn.Linear(2, 2)
    says = r"parameters\(\) of CenterLoss must not be given to an optimizer, because its centers step by themselves"
    with pytest.raises(ValueError, match=says):
        torch.optim.SGD(loss.parameters(), lr=0.5)
    with pytest.warns(UserWarning, match=says):
        torch.optim.SGD([{"params": layer.parameters()}, {"params": loss.parameters(), "lr": 0.5}], lr=0.1)
    torch.optim.SGD(itertools.chain(layer.parameters(), loss.parameters()), lr=0.1)
    torch.optim.SGD(losses.CenterLoss(C, D, update="gradient").parameters(), lr=0.5)


@pytest.mark.parametrize("kind", [losses.ArcFaceLoss, losses.CenterLoss, losses.SoftmaxCenterLoss])
def test_a_loss_on_another_device_says_so(kind, batch):
    loss = kind(C, D).to("meta")
    says = rf"{kind.__name__} must be on the device of the embeddings, cpu, got its class rows on meta.*to\('cpu'\)"
    with pytest.raises(ValueError, match=says):
        loss(*batch)
    if kind is losses.ArcFaceLoss:
        with pytest.raises(ValueError, match=says):
            loss.get_logits(batch[0])


def test_a_model_with_logits_can_be_exported(batch):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.loss = nn.Linear(D, D), losses.ArcFaceLoss(C, D)

        def forward(self, images):
            return self.loss.get_logits(self.trunk(images))

    model = Classifier().eval()
    torch.testing.assert_close(torch.export.export(model, batch[:1]).module()(batch[0]), model(batch[0]))


def test_a_state_of_pml_may_be_assigned(both, batch):
    theirs, ours = both("SubCenterArcFaceLoss")
    ours.load_state_dict(theirs.state_dict(), assign=True)
    torch.testing.assert_close(ours(*batch), theirs(*batch))
    ours.get_outliers(*batch)


def test_class_rows_may_lie_in_any_order(batch):
    loss = losses.SubCenterArcFaceLoss(C, D)
    rows = torch.randn(D, 3 * C).t()
    loss.class_weights.weight.data = rows
    value = loss(*batch)
    value.backward()
    loss.class_weights.weight.data = rows.contiguous()
    torch.testing.assert_close(loss(*batch), value)
