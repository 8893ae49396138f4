"""Which of our losses follows which implementation, and how: one entry per (loss, implementation)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from pml_center import losses
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


def arcface(**fixed) -> Callable[[Golden], nn.Module]:
    """ArcFace from ``s`` and ``m`` in radians."""

    def build(golden: Golden) -> nn.Module:
        scale = golden.meta["hyperparameters"]["s"]
        loss = losses.ArcFaceLoss(
            golden.meta["num_classes"], golden.meta["embedding_size"], degrees(golden), scale, **fixed
        )
        return loss.double()

    return build


ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("arcface", "pml"): Adapter(named(losses.ArcFaceLoss)),
    ("arcface", "huangyg"): Adapter(arcface()),
    ("arcface", "ronghuaiyang"): Adapter(
        lambda golden: arcface(beyond_pi="easy" if golden.meta["hyperparameters"]["easy_margin"] else "linear")(golden)
    ),
    ("arcface", "insightface_ArcFace"): Adapter(arcface(gradient="detached", beyond_pi="rotate")),
    ("arcface", "elasticface_repo"): Adapter(arcface(beyond_pi="rotate")),
    ("cosface", "pml"): Adapter(named(losses.CosFaceLoss)),
    ("cosface", "insightface_CosFace"): Adapter(named(losses.CosFaceLoss, {"s": "scale", "m": "margin"})),
    ("cosface", "facex_zoo"): Adapter(named(losses.CosFaceLoss)),
    ("cosface", "fast_reid"): Adapter(named(losses.CosFaceLoss)),
    ("normalized_softmax", "pml"): Adapter(named(losses.NormalizedSoftmaxLoss)),
}
