"""Loss formulas: what they build, and what they answer to mistakes."""

import pytest
import torch
from pytorch_metric_learning import distances, miners
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import regularizers as pml_regularizers

from pml_center import losses, regularizers
from pml_center.training import parse_loss


def build(formula):
    return parse_loss(formula, num_classes=4, embedding_size=3)


def test_a_joint_loss_is_the_weighted_sum_of_its_parts(generator):
    embeddings, labels = torch.randn(8, 3, generator=generator), torch.arange(8) % 4
    formula = build("CosFaceLoss(margin=0.2) + 0.01*CenterLoss(alpha=1) + 2 * TripletMarginLoss @ TripletMarginMiner")
    cosface, center, triplet = formula.losses
    assert isinstance(cosface, losses.CosFaceLoss)
    assert cosface.margin == 0.2
    assert center.alpha == 1
    assert isinstance(triplet, pml_losses.TripletMarginLoss)
    mined = miners.TripletMarginMiner()(embeddings, labels)
    expected = cosface(embeddings, labels) + 2 * triplet(embeddings, labels, mined)
    expected = expected + 0.01 * embeddings.square().sum(1).mean() / 2
    total, parts = formula(embeddings, labels)
    torch.testing.assert_close(total, expected)
    assert list(parts) == ["CosFaceLoss", "CenterLoss", "TripletMarginLoss"]
    assert not any(value.requires_grad for value in parts.values())


def test_a_formula_sees_the_first_numbers_of_embeddings_too(generator):
    embeddings, labels = torch.randn(8, 6, generator=generator), torch.arange(8) % 4
    text = "2 * CosFaceLoss + CenterLoss + TripletMarginLoss @ TripletMarginMiner"
    formula = parse_loss(text, num_classes=4, embedding_size=6, widths=(2, 4, 6))
    expected = 0
    for width, own in {2: formula.shorter["2"], 4: formula.shorter["4"], 6: formula}.items():
        alone = parse_loss(text, num_classes=4, embedding_size=width)
        alone.losses.load_state_dict(own.losses.state_dict())
        expected = expected + alone(embeddings[:, :width], labels)[0]
    total, parts = formula(embeddings, labels)
    torch.testing.assert_close(total, expected)
    assert [name for name in parts if name.startswith("CenterLoss")] == ["CenterLoss", "CenterLoss:2", "CenterLoss:4"]
    assert formula.classifier(embeddings).equal(formula.losses[0].predict(embeddings))
    for widths in ((4, 2), (2, 2), (2, 7), (0, 2)):
        with pytest.raises(ValueError, match=r"widths must ascend from 1 to the embedding_size of 6 at most, got"):
            parse_loss(text, num_classes=4, embedding_size=6, widths=widths)


def test_counts_are_given_to_a_loss_that_cannot_do_without():
    counts = [3, 5, 1, 4]
    formula = "CosFaceLoss(prior_weight=1) + LDAMLoss + KappaFaceLoss(class_counts=7) + ArcFaceLoss"
    prior, ldam, written, plain = parse_loss(formula, 4, 3, class_counts=counts).losses
    assert prior.class_counts.tolist() == ldam.class_counts.tolist() == counts
    assert written.class_counts.tolist() == [7] * 4
    assert plain.class_counts is None
    with pytest.raises(ValueError, match="class_counts must be given with a prior_weight"):
        build("CosFaceLoss(prior_weight=1)")
    with pytest.raises(ValueError, match="class_counts"):
        build("LDAMLoss")


def test_ours_comes_first_and_pml_s_can_be_named():
    assert isinstance(build("ArcFaceLoss").losses[0], losses.ArcFaceLoss)
    assert isinstance(build("pml.ArcFaceLoss(margin=20)").losses[0], pml_losses.ArcFaceLoss)
    assert isinstance(build("ProxyAnchorLoss").losses[0], pml_losses.ProxyAnchorLoss)


def test_parts_of_pml_are_arguments():
    loss = build("TripletMarginLoss(margin=0.1, distance=LpDistance(power=2), reducer=AvgNonZeroReducer)").losses[0]
    assert isinstance(loss.distance, distances.LpDistance)
    assert loss.distance.power == 2


def test_regularizers_are_arguments_of_ours_and_of_pml_s_losses():
    for name in ("SoftmaxLoss", "pml.TripletMarginLoss"):
        loss = build(f"{name}(embedding_regularizer=RingRegularizer(kind='l1'), embedding_reg_weight=0.01)").losses[0]
        assert isinstance(loss.embedding_regularizer, regularizers.RingRegularizer)
        assert loss.embedding_regularizer.kind == "l1"
        assert loss.embedding_reg_weight == 0.01


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("CenterInvariantRegularizer", regularizers.CenterInvariantRegularizer),
        ("pml.CenterInvariantRegularizer()", pml_regularizers.CenterInvariantRegularizer),
        ("RegularFaceRegularizer", pml_regularizers.RegularFaceRegularizer),
    ],
)
def test_a_regularizer_is_ours_where_both_have_the_name(written, kind):
    assert type(build(f"SoftmaxLoss(weight_regularizer={written})").losses[0].weight_regularizer) is kind


def test_the_same_loss_twice_keeps_both_names():
    assert build("CenterLoss + 0.1 * CenterLoss(update='gradient')").names == ["CenterLoss_0", "CenterLoss_1"]


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("ArcFaseLoss", r"loss must be a known name, got 'ArcFaseLoss'. Did you mean '(pml\.)?ArcFaceLoss'"),
        ("BaseSoftmaxLoss", r"loss must be a known name, got 'BaseSoftmaxLoss'"),
        (
            "TripletMarginLoss @ MultiSimilarityMinor",
            r"miner must be a known .*Did you mean 'MultiSimilarityMiner'",
        ),
        ("CrossBatchMemory", r"loss must be one by itself, got 'CrossBatchMemory', which goes around a loss of pairs"),
        ("CrossBatchMemory(loss=ContrastiveLoss)", r"loss must be one by itself, got 'CrossBatchMemory', which goes"),
        ("0.1 * pml.SelfSupervisedLoss", r"one by itself, got 'pml.SelfSupervisedLoss', which compares two views"),
        (
            "MultipleLosses + CenterLoss",
            r"loss must be one by itself, got 'MultipleLosses', which a formula is already",
        ),
        ("CosFaceLoss(margn=1)", r"argument of CosFaceLoss must be a known name, got 'margn'. Did you mean 'margin'"),
        ("CosFaceLoss(0.3)", r"arguments of CosFaceLoss must be named, got 'CosFaceLoss\(0.3\)'"),
        ("0 * CenterLoss", r"weight of a loss must be a positive number, got 0"),
        ("1e999 * CenterLoss", r"weight of a loss must be a positive number, got inf"),
        ("SoftmaxLoss(reducer=DoNothingReducer)", r"reducer must make one number of the losses, got 'SoftmaxLoss\("),
        ("TripletMarginLoss(reducer=DoNothingReducer, embedding_regularizer=LpRegularizer)", r"reducer must make one"),
        ("SoftmaxLoss(embedding_regularizer=3)", r"embedding_regularizer must be an object like PML's, got 3"),
        ("CenterLoss * 0.1", r"a number or literal must stand where 'CenterLoss' stands"),
        ("CenterLoss - SoftmaxLoss", r"loss must be a name, got 'CenterLoss - SoftmaxLoss'"),
        ("CenterLoss +", r"loss must be a formula, got 'CenterLoss \+'"),
        ("CenterLoss(alpha=__import__('os'))", r"part must be a known name, got '__import__'"),
        ("CenterLoss(alpha=5)", r"alpha must be in \(0, 1\], got 5"),
        ("CenterLoss(accumulation_steps=None)", r"accumulation_steps must be left out because training gives it, got"),
        ("SoftmaxLoss(num_classes=4)", r"num_classes must be left out because training gives it, got 'SoftmaxLoss\("),
        ("CenterLoss(update='gradient', sparse_gradient=True)", r"sparse_gradient must be False in training"),
        ("HeteroCenterLoss(margin=1)", r"one set of images, got 'HeteroCenterLoss\(margin=1\)', which compares two"),
        (
            "SoftmaxLoss(embedding_regularizer=RingRegulariser())",
            r"part must be a known name, got 'RingRegulariser'. Did you mean 'RingRegularizer'",
        ),
        ("SoftmaxLoss(embedding_regularizer=RingRegularizer(radius=-1))", "radius must be positive and finite, got -1"),
        (
            "ArcFaceLoss(margin=10, margin=60)",
            r"each argument must be given once, got 'ArcFaceLoss\(margin=10, margin=60",
        ),
        ("ArcFaceLoss(**{'margin': 10})", r"each argument must be named, got .ArcFaceLoss\("),
        ("ArcFaceLoss(margin={[]: 1})", r"a number or literal must stand where '\{\[\]: 1\}' stands"),
        ("ArcFaceLoss(scale=1e999)", r"scale must be positive, got inf"),
        ("NCALoss(softmax_scale=x)", r"part must be a known name, got 'x'"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_name(formula, message):
    with pytest.raises(ValueError, match=message):
        build(formula)


LONG = {
    "101 terms": (" + ".join(["CenterLoss"] * 101), "101 in"),
    "3000 terms": (" + ".join(["CenterLoss"] * 3000), "something nested deeper in 38997"),
    "500 signs": (f"CenterLoss(alpha={'-' * 500}1)", "something nested deeper"),
    "100,000 signs": (f"CenterLoss(alpha={'-' * 100_000}1)", "something nested deeper"),
}


@pytest.mark.parametrize(("formula", "got"), LONG.values(), ids=LONG)
def test_a_formula_has_an_end(formula, got):
    with pytest.raises(ValueError, match=f"loss must have at most 100 terms, got {got}"):
        build(formula)


def test_a_formula_is_a_text():
    with pytest.raises(TypeError, match="loss must be a formula, a text, got NoneType"):
        build(None)
