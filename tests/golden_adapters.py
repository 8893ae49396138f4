"""Which of our losses follows which implementation, and how: one entry per (loss, implementation)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from pml_center import losses
from pml_center.losses.schedules import Annealing
from tests.golden_io import Golden


@dataclass(frozen=True)
class Adapter:
    """How a golden file is compared.

    Args:
        build: (golden) to our loss, with the hyperparameters of the file; None leaves a case out.
        parameters: golden name to attribute path.
        states: golden name to attribute path of a buffer.
        inputs: (loss, step) before each step, for recorded inputs such as drawn margins.
        leave_out: keys that are not compared, because the official code departs there; the reason stands in ``why``.
        why: of ``leave_out``, and of cases for which ``build`` returns None.
    """

    build: Callable[[Golden], nn.Module | None]
    parameters: dict[str, str] = field(default_factory=lambda: {"weight": "class_weights.weight"})
    states: dict[str, str] = field(default_factory=dict)
    inputs: Callable[[nn.Module, dict], None] | None = None
    leave_out: tuple[str, ...] = ()
    why: str = ""


def named(loss: type, renamed: dict[str, str] | None = None, **fixed) -> Callable[[Golden], nn.Module]:
    """Build from the official hyperparameters: by the same name, by another, or (None) not at all."""

    def build(golden: Golden) -> nn.Module:
        names = renamed or {}
        arguments = {names.get(key, key): value for key, value in golden.meta["hyperparameters"].items()}
        arguments.pop(None, None)
        return loss(golden.meta["num_classes"], golden.meta["embedding_size"], **arguments, **fixed).double()

    return build


def degrees(golden: Golden, key: str = "m") -> float:
    """A margin in radians among the official hyperparameters, in degrees."""
    return math.degrees(golden.meta["hyperparameters"][key])


def arcface(margin: str = "m", scale: str = "s", **fixed) -> Callable[[Golden], nn.Module]:
    """ArcFace from a scale and a margin in radians, by their official names."""

    def build(golden: Golden) -> nn.Module:
        sizes = golden.meta["num_classes"], golden.meta["embedding_size"]
        official = golden.meta["hyperparameters"][scale]
        return losses.ArcFaceLoss(*sizes, degrees(golden, margin), official, **fixed).double()

    return build


def annealed(
    loss: type, annealing: Callable[[Golden], Callable[[int], float]], **fixed
) -> Callable[[Golden], nn.Module]:
    """L-Softmax or SphereFace from ``m``, with the share of the margin at a step."""

    def build(golden: Golden) -> nn.Module:
        official = golden.meta["hyperparameters"]
        arguments = {"margin": official.get("m", official.get("margin")), "margin_schedule": annealing(golden), **fixed}
        return loss(golden.meta["num_classes"], golden.meta["embedding_size"], **arguments).double()

    return build


def after(annealing: Callable[[int], float], steps: int) -> Callable[[int], float]:
    """A schedule that has already run for some steps."""
    return lambda step: annealing(steps + step)


def caffe_annealing(golden: Golden) -> Callable[[int], float]:
    """That of wy1iu's layers, as their prototxt says it."""
    official = golden.meta["hyperparameters"]
    annealing = Annealing(official["base"], official["gamma"], official["power"], official["lambda_min"])
    return after(annealing, official["iteration0"])


def without(*cases: str) -> Callable[[Callable], Callable]:
    """Leaves out cases by the end of their name."""
    return lambda build: lambda golden: None if golden.name.endswith(cases) else build(golden)


def sphereface_r(golden: Golden) -> nn.Module:
    """SphereFace-R, version 2."""
    official = golden.meta["hyperparameters"]
    sizes = golden.meta["num_classes"], golden.meta["embedding_size"]
    return losses.SphereFaceLoss(*sizes, official["m"], official["s"], version="r").double()


def uniface(**fixed) -> Callable[[Golden], nn.Module | None]:
    """UniFace, where nothing is clamped."""

    def build(golden: Golden) -> nn.Module | None:
        if golden.name.endswith(("edge", "exact", "norms", "steps3")):
            return None
        return named(losses.UniFaceLoss, {"m": "margin", "s": "scale", "l": "negative_weight", "r": None}, **fixed)(
            golden
        )

    return build


def insightface_combined(golden: Golden) -> nn.Module:
    """Only m3 where it is positive, else only m2."""
    official = golden.meta["hyperparameters"]
    loss = losses.CombinedMarginLoss(
        golden.meta["num_classes"],
        golden.meta["embedding_size"],
        m2=0 if official["m3"] else official["m2"],
        m3=official["m3"],
        scale=official["s"],
        gradient="detached",
        beyond_pi="rotate",
        filter_threshold=official["interclass_filtering_threshold"] or None,
    )
    return loss.double()


def multi_margin(golden: Golden) -> nn.Module:
    """m1 is added to the angle, m2 is subtracted from the cosine."""
    official = golden.meta["hyperparameters"]
    loss = losses.CombinedMarginLoss(
        golden.meta["num_classes"],
        golden.meta["embedding_size"],
        m2=official["m1"],
        m3=official["m2"],
        scale=official["s"],
        beyond_pi="easy" if official["easy_margin"] else "linear",
    )
    return loss.double()


MAGFACE = {
    "s": "scale",
    "l_a": "lower_norm",
    "u_a": "upper_norm",
    "l_margin": "lower_margin",
    "u_margin": "upper_margin",
    "lambda_g": "regularizer_weight",
}
ELASTIC = {"s": "scale", "m": "margin"}


def magface(**fixed) -> Callable[[Golden], nn.Module]:
    """MagFace from the symbols of the paper."""
    return named(losses.MagFaceLoss, MAGFACE, **fixed)


def margins_as_drawn(loss, step) -> None:
    """The margins that the official code drew, in place of a draw."""
    loss.margin, loss.std = torch.from_numpy(step["in/sampled_margins"]).flatten(), 0


def margins_as_clamped(loss, step) -> None:
    """The margins after the official code has written them back into [0, 1]."""
    loss.margins.data = torch.from_numpy(step["out/adam_after_forward"]).flatten()


def shares_as_given(loss, step) -> None:
    """KappaFace's shares of the margin, which belong to an epoch."""
    loss.margin_shares = torch.from_numpy(step["in/class_weights"]).flatten()


def inter_top_k(golden: Golden) -> nn.Module:
    """Wespeaker's, which moves the nearest other classes by its mp in proportion to the margin."""
    official = golden.meta["hyperparameters"]
    return losses.SubCenterArcFaceLoss(
        golden.meta["num_classes"],
        golden.meta["embedding_size"],
        margin=degrees(golden, "margin"),
        scale=official["scale"],
        sub_centers=official["K"],
        hard_negatives=official["k_top"],
        hard_negative_margin=math.degrees(official["mp"] * official["margin"] / 0.2),
    ).double()


def drawn_classes(loss: nn.Module, step: dict) -> None:
    """The classes that the official code drew."""
    loss.class_weights._sample = lambda labels: torch.from_numpy(step["out/weight_index"])


def range_loss(**names: str) -> Callable[[Golden], nn.Module]:
    """Range loss by the official names of k and its weights."""

    def build(golden: Golden) -> nn.Module:
        official = golden.meta["hyperparameters"]
        arguments = {ours: official[theirs] for ours, theirs in names.items()}
        return losses.RangeLoss(margin=official["margin"], squared="choose_k" in official, **arguments).double()

    return build


S_AND_M = {"s": "scale", "m": "margin"}
PARTIAL_FC = {**S_AND_M, "sample_rate": "sample_rate"}
CLAMPED = "the official code clamps the cosine, or the angle with its margin, and so has another value at the ends"
PROJECTED = "the official gradient is with respect to the normalised weights: it lacks the projection"
SATURATED = "the official value stops at −log 1e-30 for each sample, its gradient does not"

ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("arcface", "pml"): Adapter(named(losses.ArcFaceLoss)),
    ("arcface", "huangyg"): Adapter(arcface()),
    ("arcface", "ronghuaiyang"): Adapter(
        lambda golden: arcface(beyond_pi="easy" if golden.meta["hyperparameters"]["easy_margin"] else "linear")(golden)
    ),
    ("arcface", "insightface_ArcFace"): Adapter(arcface(gradient="detached", beyond_pi="rotate")),
    ("arcface", "elasticface_repo"): Adapter(arcface(beyond_pi="rotate")),
    ("arcface", "fast_reid"): Adapter(arcface("margin", "scale", beyond_pi="rotate")),
    ("arcface", "4uiiurz1"): Adapter(without("edge", "exact")(arcface(beyond_pi="rotate")), why=CLAMPED),
    ("arcface", "adaface_repo"): Adapter(without("edge", "exact")(arcface(beyond_pi="rotate")), why=CLAMPED),
    ("arcface", "opensphere"): Adapter(
        without("edge", "exact")(arcface(gradient="detached", beyond_pi="rotate")),
        leave_out=("grad/weight",),
        why=f"{CLAMPED}; {PROJECTED}",
    ),
    ("subcenter_arcface", "wespeaker_intertopk"): Adapter(
        without("edge", "exact")(inter_top_k), why="it continues beyond π by cos θ − 1 + cos m, and lets θ_j − m' turn"
    ),
    ("partial_fc", "insightface_v2_arc"): Adapter(
        arcface(gradient="detached", beyond_pi="rotate"), leave_out=("loss",), why=SATURATED
    ),
    ("partial_fc", "insightface_v2_cos"): Adapter(
        named(losses.CosFaceLoss, PARTIAL_FC), leave_out=("loss",), why=SATURATED
    ),
    ("partial_fc", "insightface_v2_cos_sampled"): Adapter(
        named(losses.CosFaceLoss, PARTIAL_FC, sample_correction=False),
        inputs=drawn_classes,
        leave_out=("loss",),
        why=SATURATED,
    ),
    ("cosface", "mugglewang"): Adapter(named(losses.CosFaceLoss, S_AND_M)),
    ("cosface", "yirongmao_lmcl"): Adapter(named(losses.CosFaceLoss, S_AND_M)),
    ("cosface", "adaface_repo"): Adapter(without("edge", "exact")(named(losses.CosFaceLoss, S_AND_M)), why=CLAMPED),
    ("cosface", "opensphere"): Adapter(named(losses.CosFaceLoss, S_AND_M), leave_out=("grad/weight",), why=PROJECTED),
    ("cosface", "uniface_normalized_softmax"): Adapter(named(losses.CosFaceLoss, {**S_AND_M, "r": None})),
    ("cosface", "pml"): Adapter(named(losses.CosFaceLoss)),
    ("cosface", "insightface_CosFace"): Adapter(named(losses.CosFaceLoss, {"s": "scale", "m": "margin"})),
    ("cosface", "facex_zoo"): Adapter(named(losses.CosFaceLoss)),
    ("cosface", "fast_reid"): Adapter(named(losses.CosFaceLoss)),
    ("large_margin_softmax", "pml"): Adapter(named(losses.LargeMarginSoftmaxLoss)),
    ("large_margin_softmax", "amirhfarzaneh"): Adapter(
        without("norms")(
            annealed(
                losses.LargeMarginSoftmaxLoss,
                lambda golden: lambda step: 1 / (1 + golden.meta["hyperparameters"]["beta0"] * 0.99 ** (step - 1)),
            )
        ),
        why="adds 1e-10 to the product of the lengths",
    ),
    ("large_margin_softmax", "wy1iu_caffe"): Adapter(
        without("edge")(annealed(losses.LargeMarginSoftmaxLoss, caffe_annealing)),
        why="adds 1e-9 to the product of the lengths",
    ),
    ("sphereface", "pml"): Adapter(named(losses.SphereFaceLoss)),
    ("sphereface", "mugglewang"): Adapter(
        annealed(losses.SphereFaceLoss, lambda golden: after(Annealing(), int(golden.arrays["init/state/iter"])))
    ),
    ("sphereface", "clcarwin"): Adapter(
        lambda golden: (
            None
            if golden.meta["hyperparameters"]["gamma"]
            else annealed(
                losses.SphereFaceLoss,
                lambda golden: after(Annealing(1500, 0.1), int(golden.arrays["init/state/it"])),
            )(golden)
        ),
        why="gamma > 0 makes it a focal loss",
    ),
    ("sphereface", "sv_x_softmax"): Adapter(
        lambda golden: annealed(
            losses.SphereFaceLoss,
            lambda golden: after(Annealing(1000, 0.0001, 2), int(golden.arrays["init/state/iter"])),
            scale=golden.meta["hyperparameters"]["scale"],
            scale_by_norm=False,
        )(golden)
    ),
    ("sphereface", "wy1iu_caffe"): Adapter(
        annealed(losses.SphereFaceLoss, caffe_annealing),
        leave_out=("grad/embeddings", "grad/weight"),
        why="its backward pass is no derivative of its forward pass",
    ),
    ("sphereface_r", "opensphere"): Adapter(
        without("edge", "exact")(sphereface_r),
        leave_out=("grad/weight",),
        why="the cosine is clamped to ±(1 − 1e-5), and the gradient of the weights is not tangent to the sphere",
    ),
    ("sphereface_plain", "4uiiurz1"): Adapter(
        without("edge", "exact")(
            named(losses.CombinedMarginLoss, {"m": "m1", "s": "scale"}, m2=0, m3=0, beyond_pi="rotate")
        ),
        why="the cosine is clamped to ±(1 − 1e-7)",
    ),
    ("combined_margin", "insightface_CombinedMarginLoss"): Adapter(insightface_combined),
    ("combined_margin", "insightface_CombinedMarginLoss_m3"): Adapter(insightface_combined),
    ("combined_margin", "wujiyang_MultiMargin"): Adapter(multi_margin),
    ("subcenter_arcface", "pml"): Adapter(named(losses.SubCenterArcFaceLoss)),
    ("li_arcface", "public"): Adapter(
        without("edge")(named(losses.LiArcFaceLoss, {"s": "scale", "m": "margin"})),
        why="the slope of acos loses digits at angles of 1e-6, where 1 − cos² is rounded",
    ),
    ("adacos", "4uiiurz1"): Adapter(
        without("exact")(named(losses.AdaCosLoss)),
        states={"s": "running_scale"},
        why="the cosine is clamped to ±(1 − 1e-7)",
    ),
    ("adacos", "facex_zoo"): Adapter(
        without("exact")(named(losses.AdaCosLoss)),
        states={"s": "running_scale"},
        why="the cosine is clamped to ±(1 − 1e-7)",
    ),
    ("coco", "opensphere"): Adapter(
        named(losses.COCOLoss, {"s": "scale"}),
        leave_out=("grad/weight",),
        why="the gradient of the weights is not tangent to the sphere",
    ),
    ("coco", "yirongmao"): Adapter(
        named(losses.COCOLoss, {"alpha": "scale"}), parameters={"centers": "class_weights.weight"}
    ),
    ("normalized_softmax", "pml"): Adapter(named(losses.NormalizedSoftmaxLoss)),
    ("circle_cls", "facex_zoo"): Adapter(named(losses.CircleSoftmaxLoss, {"gamma": "scale"})),
    ("circle_cls", "tinyzeamays"): Adapter(named(losses.CircleSoftmaxLoss, {"gamma": "scale", "m": "margin"})),
    ("circle_cls", "fast_reid"): Adapter(named(losses.CircleSoftmaxLoss)),
    ("uniface_uce", "official"): Adapter(
        uniface(),
        {"weight": "class_weights.weight", "bias": "threshold"},
        why="it clamps exponents to ±s, which these cases pass, and takes lengths to be at least 1e-5",
    ),
    ("uniface_bce", "official"): Adapter(
        uniface(thresholds="separate"),
        {"weight": "class_weights.weight", "bias": "class_weights.bias"},
        inputs=lambda loss, step: loss.class_weights.bias.data.neg_(),
        leave_out=("grad/bias",),
        why="our bias is the negative of the official one; and as uniface_uce",
    ),
    ("sphereface2", "opensphere"): Adapter(
        named(
            losses.SphereFace2Loss,
            {"alpha": "positive_weight", "lw": "factor", "m": "margin", "r": "scale", "t": "exponent"},
        ),
        {"weight": "class_weights.weight", "b": "threshold"},
        leave_out=("grad/weight",),
        why="it normalises the weights in place, and does not project their gradient",
    ),
    ("sphereface2", "wespeaker_C"): Adapter(
        lambda golden: named(
            losses.SphereFace2Loss,
            {"lanbuda": "positive_weight", "t": "exponent"},
            gradient="full",
            factor=golden.meta["hyperparameters"]["scale"],
        )(golden),
        {"weight": "class_weights.weight", "b": "threshold"},
    ),
    ("sphereface2", "wespeaker_A"): Adapter(
        lambda golden: named(
            losses.SphereFace2Loss,
            {"lanbuda": "positive_weight", "t": "exponent"},
            gradient="full",
            variant="angular_both",
            factor=golden.meta["hyperparameters"]["scale"],
        )(golden),
        {"weight": "class_weights.weight", "b": "threshold"},
    ),
    ("sface", "official"): Adapter(
        named(losses.SFaceLoss, {"s": "scale", "k": "slope", "a": "pull_until", "b": "push_until"})
    ),
    ("arcnegface", "facex_zoo"): Adapter(named(losses.ArcNegFaceLoss)),
    ("npcface", "facex_zoo"): Adapter(named(losses.NPCFaceLoss)),
    ("curricularface", "huangyg"): Adapter(
        named(losses.CurricularFaceLoss, {"s": "scale", "m": "margin", "t0": None}), states={"t": "difficulty"}
    ),
    ("curricularface", "facex_zoo"): Adapter(
        named(losses.CurricularFaceLoss, {"s": "scale", "m": "margin"}), states={"t": "difficulty"}
    ),
    ("mv_softmax_am", "sv_x_softmax"): Adapter(named(losses.MVSoftmaxLoss, {"t": "hardness"})),
    ("mv_softmax_arc", "sv_x_softmax"): Adapter(named(losses.MVSoftmaxLoss, {"t": "hardness"}, variant="angular")),
    ("mv_softmax_arc", "facex_zoo"): Adapter(
        lambda golden: named(
            losses.MVSoftmaxLoss,
            {"mv_weight": None},
            variant="angular",
            easy_margin=True,
            hardness=golden.meta["hyperparameters"]["mv_weight"] - 1,
        )(golden)
    ),
    ("cosface", "sv_x_softmax"): Adapter(named(losses.MVSoftmaxLoss, {"t": None}, hardness=0)),
    ("arcface", "sv_x_softmax"): Adapter(named(losses.MVSoftmaxLoss, {"t": None}, variant="angular", hardness=0)),
    ("adaface", "official"): Adapter(
        without("edge", "exact", "b1")(
            named(losses.AdaFaceLoss, {"m": "margin", "s": "scale", "h": "concentration", "t_alpha": "momentum"})
        ),
        states={"batch_mean": "batch_mean", "batch_std": "batch_std"},
        why="it clamps cosines to ±(1 − 1e-3), where edge and exact are; and a batch of one is NaN",
    ),
    ("magface", "official_easy"): Adapter(magface(beyond_pi="easy")),
    ("magface", "official_hard"): Adapter(magface()),
    ("elastic_arcface", "official"): Adapter(
        named(losses.ElasticFaceLoss, ELASTIC, beyond_pi="rotate"), inputs=margins_as_drawn
    ),
    ("elastic_cosface", "official"): Adapter(
        named(losses.ElasticFaceLoss, ELASTIC, variant="cosine"), inputs=margins_as_drawn
    ),
    ("adam_softmax", "facex_zoo"): Adapter(
        named(losses.AdaptiveFaceLoss, {"lamda": "margin_weight"}),
        {"weight": "class_weights.weight", "adam": "margins"},
        inputs=margins_as_clamped,
    ),
    ("kappaface", "official_head"): Adapter(
        lambda golden: named(
            losses.KappaFaceLoss, {"s": "scale", "m": "margin"}, class_counts=10**6, beyond_pi="rotate"
        )(golden),
        inputs=shares_as_given,
    ),
    ("lgm", "official_tf"): Adapter(
        named(losses.LGMLoss, {"alpha": "margin", "lambda": "likelihood_weight"}, covariance="identity"),
        {"centers": "centers"},
    ),
    ("lgm", "yirongmao_identity"): Adapter(
        named(losses.LGMLoss, {"alpha": "margin", "loss_weight": "likelihood_weight"}, covariance="identity"),
        {"centers": "centers"},
    ),
    ("range", "charrin_caffe"): Adapter(
        range_loss(k="choose_k", intra_weight="intra_weight", inter_weight="inter_weight"), parameters={}
    ),
    ("range", "chen94yue"): Adapter(
        without("small_class")(range_loss(k="k", intra_weight="alpha", inter_weight="beta")),
        parameters={},
        why="it counts the distance of a sample to itself where a class has fewer than k pairs, see test_range_loss.py",
    ),
}
