"""The ways in which public code uses PML's losses that we have, too: what a user writes, and what comes of it here.

``test_drop_in.py`` runs each with PML's losses and with ours. The tables of ``docs/migrate/pml.md`` are made of these:
``python -m tests.pml.ways`` writes them anew.
"""

import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate" / "pml.md"
MARGIN = ("ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss", "SphereFaceLoss")  # sizes by position, in PML too
ALL = (*MARGIN, "NormalizedSoftmaxLoss", "SubCenterArcFaceLoss")
COSINE = ("ArcFaceLoss", "CosFaceLoss", "SubCenterArcFaceLoss")


@dataclass(frozen=True)
class Way:
    """What a user writes with PML's losses, and what comes of it when only the import is another.

    A code finds ``losses``, PML's or ours; ``Loss``, in turn each of ``kinds``; ``loss``, a ``Loss`` of 5 classes and 8
    columns; a ``model`` for images ``x``, embeddings ``e`` and labels ``y``; and the states of PML's ``Loss`` and its
    optimizer, ``saved`` and ``saved_adam``. What is compared is ``result``, if the code has one, else ``value``, or
    ``loss(e, y)`` if it has none, with all gradients and a step of SGD; and the class weights in any case.

    Args:
        subject: what it is about.
        name: in a few words.
        code: what a user writes.
        outcome: ``"same"`` is what PML's losses do. ``"better"``: ``check`` holds, or an error ``says`` so, and with
            PML's neither. ``"sentence"``: an error ``says`` so. ``"warning"``: a warning does. ``"page"``: something
            else than with PML's, and the page has it.
        kinds: names of losses.
        says: a regular expression.
        here: what happens, for the page; without it the way is not on the page, as PML's losses refuse it likewise.
        instead: what to write here for what the code does with PML's; the same is compared.
        check: code that holds with ours and not with PML's.
        needs: a version that an older one cannot stand for, such as ``"torch>=2.5"``.
    """

    subject: str
    name: str
    code: str
    outcome: Literal["same", "better", "sentence", "warning", "page"] = "same"
    kinds: tuple[str, ...] = ("ArcFaceLoss",)
    says: str = ""
    here: str = ""
    instead: str = ""
    check: str = ""
    needs: str = ""

    def __post_init__(self):
        for name in ("code", "instead", "check"):
            object.__setattr__(self, name, inspect.cleandoc(getattr(self, name)))

    def __str__(self):
        return f"{self.subject}: {self.name}"


def same(subject: str, ways: dict[str, str], kinds: tuple[str, ...] = ("ArcFaceLoss",), needs: str = "") -> list[Way]:
    """Ways that do what they do with PML's."""
    return [Way(subject, name, code, kinds=kinds, needs=needs) for name, code in ways.items()]


SIZES = "num_classes=5, embedding_size=8"
HOOKS = (
    "an error where the class is made, likewise for `modify_cosine_of_target_classes`, `get_cosine` and `init_margin`: "
    "our hooks are [others](../extending.md)"
)
SGD = "torch.optim.SGD(parameters, lr=0.1)"
TIMM = (
    "lamb", "lars", "lion", "adan", "adabelief", "madgrad", "nadamw", "adopt", "lookahead_adam", "adafactor", "laprop",
    "novograd",
)  # fmt: skip
TRAINER = "models, optimizers, 10, loss_funcs, data, iterations_per_epoch=2, dataloader_num_workers=0, data_device=CPU"


def training(optimizer: str, start: str = "", step: str = "optimizer.step()") -> str:
    """Three steps of a loop as everybody writes it."""
    step = inspect.cleandoc(step)
    lines = [
        "parameters = [*model.parameters(), *loss.parameters()]",
        f"optimizer = {optimizer}",
        *([start] if start else []),
        "for _ in range(3):",
        *("    " + line for line in ["optimizer.zero_grad()", "loss(model(x), y).backward()", *step.splitlines()]),
        "result = list(model.parameters())",
    ]
    return "\n".join(lines)


WAYS = [
    *same(
        "arguments",
        {
            "sizes by name": f"loss = Loss({SIZES})",
            "sizes of numpy": "loss = Loss(num_classes=np.int64(5), embedding_size=np.int64(8))",
            "more classes than labels": "loss = Loss(num_classes=50, embedding_size=8)",
            "sizes counted in the data": "loss = Loss(num_classes=len(y.unique()), embedding_size=e.shape[1])",
            "a dictionary": f"""
                arguments = dict({SIZES})
                loss = Loss(**arguments)
                """,
            "functools.partial": """
                make = functools.partial(Loss, embedding_size=8)
                loss = make(num_classes=5)
                """,
            "all parts None": f"loss = Loss({SIZES}, reducer=None, distance=None, weight_regularizer=None)",
        },
        ALL,
    ),
    *same("arguments", {"sizes by position": "loss = Loss(5, 8)"}, (*MARGIN, "NormalizedSoftmaxLoss")),
    *same(
        "arguments",
        {
            "margin and scale of ArcFace by position": "loss = losses.ArcFaceLoss(5, 8, 20, 30)",
            "margin and scale of L-Softmax by position": "loss = losses.LargeMarginSoftmaxLoss(5, 8, 3, 2)",
            "margin and scale of SphereFace by position": "loss = losses.SphereFaceLoss(5, 8, 3, 2)",
            "temperature by position": "loss = losses.NormalizedSoftmaxLoss(5, 8, 0.1)",
            "a name of a loss in a configuration": """
                config = {"name": "CosFaceLoss", "num_classes": 5, "embedding_size": 8, "margin": 0.2}
                loss = getattr(losses, config.pop("name"))(**config)
                """,
            "losses in a dictionary": """
                known = {"arcface": losses.ArcFaceLoss, "cosface": losses.CosFaceLoss}
                loss = known["cosface"](5, 8)
                """,
            "the paper's margin": "loss = losses.ArcFaceLoss(5, 8, margin=np.rad2deg(0.5), scale=np.sqrt(900))",
            "a margin of 0": "loss = losses.ArcFaceLoss(5, 8, margin=0)",
            "a margin beyond 90 degrees": "loss = losses.ArcFaceLoss(5, 8, margin=100)",
            "a margin of CosFace of 0": "loss = losses.CosFaceLoss(5, 8, margin=0.0, scale=1)",
            "a scale for the number of classes": "loss = losses.CosFaceLoss(5, 8, scale=math.sqrt(2) * math.log(4))",
            "a margin of L-Softmax of 1": "loss = losses.LargeMarginSoftmaxLoss(5, 8, margin=1)",
            "a margin of SphereFace of 2": "loss = losses.SphereFaceLoss(5, 8, margin=2, scale=4)",
            "a temperature for a scale": "loss = losses.NormalizedSoftmaxLoss(5, 8, temperature=1 / 16)",
            "one sub-center": f"loss = losses.SubCenterArcFaceLoss({SIZES}, sub_centers=1)",
            "four sub-centers, all by name": (
                f"loss = losses.SubCenterArcFaceLoss({SIZES}, margin=20, scale=30, sub_centers=4)"
            ),
        },
    ),
    Way(
        "arguments",
        "sizes of SubCenterArcFaceLoss by position",
        """
            loss = losses.SubCenterArcFaceLoss(5, 8)
            value = loss(e, y)
            """,
        "better",
        here="taken; PML's takes names alone",
        check="assert value.isfinite()",
    ),
    Way(
        "arguments",
        "margin and scale of CosFace by position",
        """
            loss = losses.CosFaceLoss(5, 8, 0.2, 30)
            value = loss(e, y)
            """,
        "better",
        here="taken; PML's takes both by name alone",
        check="assert (loss.margin, loss.scale) == (0.2, 30)",
    ),
    Way(
        "arguments",
        "a margin in radians",
        "loss = losses.ArcFaceLoss(5, 8, margin=0.5)",
        "warning",
        ("ArcFaceLoss",),
        says=r"0\.5 degrees, almost no margin",
        here="half a degree, as in PML, and a warning that says `margin=28.6`",
    ),
    Way(
        "arguments",
        "a broken margin of L-Softmax",
        "loss = losses.LargeMarginSoftmaxLoss(5, 8, margin=2.5)",
        "sentence",
        says="margin must be an integer of at least 1, got 2.5",
        here="refused, where PML cuts it to 2",
        instead="loss = losses.LargeMarginSoftmaxLoss(5, 8, margin=2)",
    ),
    Way(
        "arguments",
        "a misspelt argument",
        f"loss = losses.ArcFaceLoss({SIZES}, margn=20)",
        "better",
        here="the error says `Did you mean 'margin'?`",
        says="Did you mean 'margin'",
    ),
    *same(
        "the start of the weights",
        {
            "Kaiming": f"loss = Loss({SIZES}, weight_init_func=torch.nn.init.kaiming_uniform_)",
            "Xavier by PML's wrapper": (
                f"loss = Loss({SIZES}, weight_init_func=c_f.TorchInitWrapper(torch.nn.init.xavier_normal_, gain=2.0))"
            ),
            "orthogonal": f"loss = Loss({SIZES}, weight_init_func=torch.nn.init.orthogonal_)",
            "a function of one's own": f"loss = Loss({SIZES}, weight_init_func=lambda W: W.data.uniform_(-1, 1))",
        },
        ALL,
    ),
    *same(
        "reducers",
        {
            kind: f"loss = Loss({SIZES}, reducer=reducers.{kind})"
            for kind in (
                "MeanReducer()",
                "SumReducer()",
                "ThresholdReducer(low=0.5)",
                "ClassWeightedReducer(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))",
                "PerAnchorReducer()",
                'MultipleReducers({"loss": reducers.SumReducer()})',
            )
        },
        ALL,
    ),
    *same(
        "reducers",
        {
            "DoNothingReducer": f"""
                loss = Loss({SIZES}, reducer=reducers.DoNothingReducer())
                result = loss(e, y)['loss']['losses']
                """,
            "a reducer set later": "loss.reducer = reducers.SumReducer()",
        },
        ALL,
    ),
    Way(
        "reducers",
        "AvgNonZeroReducer",
        "loss = losses.ArcFaceLoss(5, 8, reducer=reducers.AvgNonZeroReducer())",
        "page",
        here="a loss below 6e-8, which PML rounds to 0, is kept and counted",
        instead="loss = losses.ArcFaceLoss(5, 8, reducer=reducers.ThresholdReducer(low=6e-8))",
    ),
    *same(
        "distances",
        {"CosineSimilarity": f"loss = Loss({SIZES}, distance=distances.CosineSimilarity())"},
        COSINE,
    ),
    *same(
        "distances",
        {
            "the dot product": f"loss = Loss({SIZES}, distance=distances.DotProductSimilarity())",
            "the dot product of lengths": (
                f"loss = Loss({SIZES}, distance=distances.DotProductSimilarity(normalize_embeddings=False))"
            ),
        },
        ("NormalizedSoftmaxLoss",),
    ),
    Way(
        "distances",
        "a power of the cosine",
        "loss = losses.CosFaceLoss(5, 8, distance=distances.CosineSimilarity(power=2))",
        "sentence",
        says="distance must be",
        here="refused: the margin is one of cosines",
    ),
    Way(
        "distances",
        "another distance",
        f"loss = losses.NormalizedSoftmaxLoss({SIZES}, distance=distances.LpDistance())",
        "sentence",
        says="distance must be CosineSimilarity because NormalizedSoftmaxLoss is defined on it, got LpDistance",
        here="refused: the loss is defined on the cosine",
    ),
    Way(
        "distances",
        "the distance that PML asks for in L-Softmax",
        "loss = losses.LargeMarginSoftmaxLoss(5, 8, distance=distances.CosineSimilarity())",
        "sentence",
        says="distance must be DotProductSimilarity because LargeMarginSoftmaxLoss is defined on it, got CosineSim",
        here="refused: the loss is one of plain products",
        instead="loss = losses.LargeMarginSoftmaxLoss(5, 8)",
    ),
    *same(
        "regularizers",
        {
            "of embeddings": f"loss = Loss({SIZES}, embedding_regularizer=regularizers.LpRegularizer())",
            "of embeddings, weighted": f"""
                mean = regularizers.ZeroMeanRegularizer()
                loss = Loss({SIZES}, embedding_regularizer=mean, embedding_reg_weight=0.3)
                """,
            "of weights": f"loss = Loss({SIZES}, weight_regularizer=regularizers.RegularFaceRegularizer())",
            "of weights, weighted": (
                f"loss = Loss({SIZES}, weight_regularizer=regularizers.CenterInvariantRegularizer(), "
                "weight_reg_weight=0.2)"
            ),
            "of both, with a reducer": (
                f"loss = Loss({SIZES}, weight_regularizer=regularizers.LpRegularizer(power=2), "
                "embedding_regularizer=regularizers.LpRegularizer(), reducer=reducers.SumReducer())"
            ),
            "names of the terms": f"""
                loss = Loss({SIZES}, weight_regularizer=regularizers.LpRegularizer())
                result = sorted(loss.sub_loss_names())
                """,
        },
        ALL,
    ),
    *same(
        "statistics",
        {
            "the mean angle": f"""
                loss = Loss({SIZES}, collect_stats=True)
                result = [loss(e, y), float(loss.avg_angle)]
                """,
        },
        COSINE,
    ),
    *same(
        "the call",
        {
            "by name": "value = loss(embeddings=e, labels=y)",
            "forward": "value = loss.forward(e, y)",
            "one sample": "value = loss(e[:1], y[:1])",
            "every other row": "value = loss(e[::2], y[::2])",
            "a transposed memory": "value = loss(e.t().contiguous().t(), y)",
            "embeddings of length 1": "value = loss(F.normalize(e), y)",
            "double precision": "result = loss(e.double(), y)",
            "a model before": """
                value = loss(model(x), y)
                value.backward()
                result = [value, model.weight.grad]
                """,
            "evaluation": """
                loss.eval()
                value = loss(e, y)
                """,
            "no gradient": """
                with torch.no_grad():
                    result = loss(e, y)
                """,
            "inference mode": """
                with torch.inference_mode():
                    result = loss(e, y).clone()
                """,
            "a weight beside another loss": "value = 0.1 * loss(e, y) + F.cross_entropy(e[:, :5], y)",
            "the same embeddings as references": "value = loss(e, y, ref_emb=e, ref_labels=y)",
            "logits": "result = loss.get_logits(e)",
            "prediction": "result = loss.get_logits(e).argmax(1)",
            "probabilities": "result = loss.get_logits(e).softmax(1)",
            "logits without gradient": """
                loss.eval()
                with torch.no_grad():
                    result = loss.get_logits(e)
                """,
            "a graph that is kept": """
                value = loss(e, y)
                value.backward(retain_graph=True)
                value.backward()
                result = e.grad
                """,
            "the gradient of embeddings": "result = torch.autograd.grad(loss(e, y), e)[0]",
        },
        ALL,
    ),
    Way(
        "the call",
        "no labels",
        "value = loss(e)",
        "sentence",
        says="labels must be",
    ),
    Way(
        "the call",
        "other references",
        "value = loss(e, y, ref_emb=e.detach().clone(), ref_labels=y)",
        "sentence",
        says="ref_emb must be None for ArcFaceLoss",
    ),
    Way(
        "the call",
        "labels as floating point",
        "value = loss(e, y.float())",
        "sentence",
        says="labels must be integers, got dtype torch.float32",
    ),
    Way(
        "the call",
        "labels of 32 bits",
        "value = loss(e, y.int())",
        "better",
        ALL,
        here="integers of any width are labels",
        check="torch.testing.assert_close(value, loss(e, y))",
    ),
    Way(
        "the call",
        "labels of 8 bits",
        "value = loss(e, y.to(torch.uint8))",
        "better",
        (*MARGIN, "SubCenterArcFaceLoss"),
        here="likewise",
        check="torch.testing.assert_close(value, loss(e, y))",
    ),
    Way(
        "the call",
        "a label outside",
        "value = loss(e, y + 1)",
        "better",
        ALL,
        says=r"labels must be in \[0, 5\) because num_classes=5, got 5 at position 4",
        here="the error names the label, its place and what to do",
    ),
    Way(
        "the call",
        "NaN among embeddings",
        "value = loss(torch.full_like(e, torch.nan), y)",
        "better",
        ALL,
        says="embeddings must be finite",
        here="the error names the row, where PML's value is NaN",
    ),
    Way(
        "the call",
        "an empty batch",
        "value = loss(e[:0], y[:0])",
        "better",
        ALL,
        here="0",
        check="assert value == 0",
    ),
    Way(
        "the call",
        "a second derivative",
        """
        (slope,) = torch.autograd.grad(loss(e, y), e, create_graph=True)
        result = torch.autograd.grad(slope.sum(), e)
        """,
        "sentence",
        here="refused: backward passes are written by hand, once",
        says="create_graph must be False",
    ),
    *same(
        "half precision",
        {
            "a GradScaler": """
                scaler = torch.amp.GradScaler('cpu')
                sgd = torch.optim.SGD([e, *loss.parameters()], lr=0.1)
                scaler.scale(loss(e, y)).backward()
                scaler.step(sgd)
                scaler.update()
                result = e
                """,
        },
        ALL,
    ),
    Way(
        "half precision",
        "autocast around the loss",
        """
            with torch.autocast('cpu', torch.bfloat16):
                value = loss(e, y)
            """,
        "better",
        ALL,
        here="all but the products is computed in fp32, where PML's logits have 8 bits",
        check="torch.testing.assert_close(value, loss(e, y))",
    ),
    Way(
        "half precision",
        "embeddings of 16 bits",
        "value = loss(e.half(), y)",
        "better",
        COSINE,
        here="weights and logits stay in fp32, products aside, where PML turns the weights to 16 bits",
        check="""
            torch.testing.assert_close(value, loss(e.half().float(), y))
            assert value.dtype == torch.float32
            """,
    ),
    Way(
        "half precision",
        "embeddings of bfloat16",
        "value = loss(e.bfloat16(), y)",
        "better",
        COSINE,
        here="likewise",
        check="assert next(loss.parameters()).dtype == torch.float32",
    ),
    *same(
        "miners",
        {
            kind: f"value = loss(e, y, miners.{kind}(e, y))"
            for kind in (
                "MultiSimilarityMiner()",
                "TripletMarginMiner(margin=0.2)",
                "BatchHardMiner()",
                "BatchEasyHardMiner()",
                "PairMarginMiner(pos_margin=0.9, neg_margin=0.9)",
                "AngularMiner(angle=20)",
                "HDCMiner()",
            )
        },
        ALL,
    ),
    *same(
        "miners",
        {
            "by name": "value = loss(e, y, indices_tuple=miners.BatchHardMiner()(e, y))",
            "None": "value = loss(e, y, None)",
            "a miner that finds nothing": "value = loss(e, y, miners.TripletMarginMiner(margin=-9)(e, y))",
            "pairs made by hand": "value = loss(e, y, tuple(torch.tensor(i) for i in ([0, 1], [5, 6], [0], [2])))",
        },
        ALL,
    ),
    Way(
        "miners",
        "tuples of two",
        "value = loss(e, y, (torch.tensor([0]), torch.tensor([1])))",
        "sentence",
        says="indices_tuple must be what a PML miner returned",
        here="refused: triplets are three tensors, pairs four",
    ),
    *same(
        "several losses",
        {
            "a list": """
                loss = pml.MultipleLosses([loss, losses.TripletMarginLoss()])
                result = loss(e, y)
                """,
            "a dictionary with miners and weights": """
                loss = pml.MultipleLosses(
                    {"softmax": loss, "triplet": losses.TripletMarginLoss()},
                    {"triplet": miners.BatchHardMiner()},
                    {"softmax": 1, "triplet": 0.5},
                )
                result = loss(e, y)
                """,
            "with a memory of pairs": """
                memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), embedding_size=8, memory_size=40)
                result = [loss(e, y) + memory(e, y) for _ in range(2)]
                """,
            "a memory with enqueue_mask": """
                memory = losses.CrossBatchMemory(losses.NTXentLoss(), embedding_size=8, memory_size=40)
                result = loss(e, y) + memory(e, y, enqueue_mask=torch.arange(20) % 2 == 0)
                """,
            "two optimizers": """
                sgd = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(loss.parameters(), lr=0.5)]
                loss(model(x), y).backward()
                for each in sgd:
                    each.step()
                result = list(model.parameters())
                """,
        },
        ALL,
    ),
    Way(
        "several losses",
        "the other losses of PML, by the same import",
        "result = type(losses.TripletMarginLoss()(e, y))",
        "same",
    ),
    Way(
        "several losses",
        "a memory around the loss",
        "loss = losses.CrossBatchMemory(loss, embedding_size=8)",
        "sentence",
        says="CrossBatchMemory not supported for ArcFaceLoss",
    ),
    Way(
        "several losses",
        "self-supervision around the loss",
        "loss = losses.SelfSupervisedLoss(loss)",
        "sentence",
        says="SelfSupervisedLoss not supported for ArcFaceLoss",
    ),
    *same(
        "optimizers",
        {
            name: training(f"torch.optim.{name}(parameters, {arguments})")
            for name, arguments in {
                "SGD": "lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01",
                "Adam": "lr=0.1",
                "AdamW": "lr=0.1, weight_decay=0.1",
                "NAdam": "lr=0.1",
                "RAdam": "lr=0.1",
                "Adamax": "lr=0.1",
                "RMSprop": "lr=0.01",
                "Adagrad": "lr=0.1",
                "Adadelta": "lr=1",
                "ASGD": "lr=0.1",
                "Rprop": "lr=0.01",
            }.items()
        },
    ),
    *same("optimizers", {"Adafactor": training("torch.optim.Adafactor(parameters, lr=0.1)")}, needs="torch>=2.5"),
    *same(
        "optimizers",
        {f"timm's {name}": training(f"timm.optim.create_optimizer_v2(parameters, {name!r}, lr=0.01)") for name in TIMM},
    ),
    *same(
        "optimizers",
        {
            "LBFGS": """
                optimizer = torch.optim.LBFGS(loss.parameters(), lr=0.01, max_iter=3)

                def closure():
                    optimizer.zero_grad()
                    value = loss(e.detach(), y)
                    value.backward()
                    return value

                result = optimizer.step(closure)
                """,
            "a group for the loss": training(
                'torch.optim.SGD([{"params": model.parameters()}, {"params": loss.parameters(), "lr": 0.5}], lr=0.1)'
            ),
            "a group added later": training(
                "torch.optim.SGD(model.parameters(), lr=0.1)",
                'optimizer.add_param_group({"params": loss.parameters()})',
            ),
            "StepLR": training(
                SGD, "plan = torch.optim.lr_scheduler.StepLR(optimizer, 1)", "optimizer.step(), plan.step()"
            ),
            "OneCycleLR": training(
                SGD, "plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1, 5)", "optimizer.step(), plan.step()"
            ),
            "the norm of all gradients cut": training(
                SGD,
                "",
                """
                    nn.utils.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()
                    """,
            ),
            "the norm of the loss's gradient cut": training(
                SGD,
                "",
                """
                    nn.utils.clip_grad_norm_(loss.parameters(), 0.1)
                    optimizer.step()
                    """,
            ),
            "values of gradients cut": training(
                SGD,
                "",
                """
                    nn.utils.clip_grad_value_(parameters, 0.1)
                    optimizer.step()
                    """,
            ),
            "accumulation": f"""
                parameters = [*model.parameters(), *loss.parameters()]
                optimizer = {SGD}
                for x, y in zip(x.split(5), y.split(5)):
                    (loss(model(x), y) / 4).backward()
                optimizer.step()
                result = list(model.parameters())
                """,
            "gradients set to 0": training(
                SGD,
                "",
                """
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                """,
            ),
            "sharpness-aware minimization": training(
                SGD,
                "",
                """
                    lengths = [p.grad.norm() for p in parameters]
                    step = [0.05 * p.grad / torch.stack(lengths).norm() for p in parameters]
                    with torch.no_grad():
                        torch._foreach_add_(parameters, step)
                    optimizer.zero_grad()
                    loss(model(x), y).backward()
                    with torch.no_grad():
                        torch._foreach_sub_(parameters, step)
                    optimizer.step()
                    """,
            ),
            "resumed": f"""
                parameters = [*model.parameters(), *loss.parameters()]
                optimizer = {SGD[:-1]}, momentum=0.9)
                loss(model(x), y).backward()
                optimizer.step()
                kept = copy.deepcopy((loss.state_dict(), optimizer.state_dict()))
                loss(model(x), y).backward()
                optimizer.step()
                loss.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
                loss(model(x), y).backward()
                optimizer.step()
                result = list(model.parameters())
                """,
            "the learning rate of the loss by its group": training(
                'torch.optim.AdamW([{"params": model.parameters()}, {"params": loss.parameters(), "weight_decay": 0}])',
                "optimizer.param_groups[1]['lr'] = 0.3",
            ),
        },
    ),
    *[
        Way(
            "optimizers",
            f"timm's {name}",
            training(f"timm.optim.create_optimizer_v2(parameters, {name!r}, lr=0.01)"),
            "page",
            here="it looks at rows, which are classes here and columns of embeddings in PML",
        )
        for name in ("adamp", "sgdp")
    ],
    Way(
        "optimizers",
        "a group by the name of the weights",
        """
            groups = [{"params": list(model.parameters())}]
            groups += [{"params": [p for n, p in loss.named_parameters() if n.endswith("W")], "lr": 0.5}]
            sgd = torch.optim.SGD(groups, lr=0.1)
            loss(model(x), y).backward()
            sgd.step()
            result = list(model.parameters())
            """,
        "page",
        here="the weights are `class_weights.weight`, so that this group is empty; a warning comes after 20 batches",
        instead="""
            sgd = torch.optim.SGD(pml_center.param_groups(model, loss, lr=0.1, loss_lr=0.5))
            loss(model(x), y).backward()
            sgd.step()
            result = list(model.parameters())
            """,
    ),
    Way(
        "optimizers",
        "timm's list of names without decay",
        """
            both = nn.ModuleDict({"model": model, "loss": loss})
            groups = timm.optim.param_groups_weight_decay(both, 0.5, no_weight_decay_list=["loss.W"])
            sgd = torch.optim.SGD(groups, lr=0.1)
            loss(model(x), y).backward()
            sgd.step()
            result = list(model.parameters())
            """,
        "page",
        here="the name matches nothing, so that the weights decay",
        instead="""
            both = nn.ModuleDict({"model": model, "loss": loss})
            groups = timm.optim.param_groups_weight_decay(both, 0.5, no_weight_decay_list=["loss.class_weights.weight"])
            sgd = torch.optim.SGD(groups, lr=0.1)
            loss(model(x), y).backward()
            sgd.step()
            result = list(model.parameters())
            """,
    ),
    *same(
        "copies and wrappers",
        {
            "deepcopy": "loss = copy.deepcopy(loss)",
            "pickle": "loss = pickle.loads(pickle.dumps(loss))",
            "torch.save of the module": """
                file = io.BytesIO()
                torch.save(loss, file)
                file.seek(0)
                loss = torch.load(file, weights_only=False)
                """,
            "torch.save of the state": """
                file = io.BytesIO()
                torch.save(loss.state_dict(), file)
                file.seek(0)
                loss.load_state_dict(torch.load(file))
                """,
            "in a ModuleDict": """
                both = nn.ModuleDict({"loss": loss})
                value = both["loss"](e, y)
                """,
            "an attribute of the model": """
                model.criterion = loss
                sgd = torch.optim.SGD(model.parameters(), lr=0.1)
                model.criterion(model(x), y).backward()
                sgd.step()
                result = [model.weight, model.bias]
                """,
            "double": """
                loss = loss.double()
                result = loss(e.double(), y)
                """,
            "to a device": 'loss = loss.to("cpu")',
            "a start for linear layers alone": """
                def init(module):
                    if isinstance(module, nn.Linear):
                        nn.init.ones_(module.weight)

                loss.apply(init)
                """,
            "a start for all that has a weight": """
                def init(module):
                    if getattr(module, "weight", None) is not None:
                        nn.init.ones_(module.weight)

                loss.apply(init)
                """,
            "the count of parameters": "result = sum(p.numel() for p in loss.parameters() if p.requires_grad)",
            "the device of parameters": "result = str(next(loss.parameters()).device)",
            "AveragedModel": """
                average = torch.optim.swa_utils.AveragedModel(loss)
                average.update_parameters(loss)
                loss = average.module
                """,
            "timm's average": """
                average = timm.utils.ModelEmaV3(loss, decay=0.5)
                average.update(loss)
                loss = average.module
                """,
            "a hook of forward": """
                seen = []
                loss.register_forward_hook(lambda loss, args, value: seen.append(value))
                loss(e, y)
                result = seen
                """,
            "training and evaluation": """
                loss.eval()
                loss(e, y)
                loss.train()
                """,
        },
        ALL,
    ),
    Way(
        "copies and wrappers",
        "compiled in one graph",
        'value = torch.compile(loss, backend="eager", fullgraph=True)(e, y)',
        "page",
        here="torch's `UserError`: values are looked at, which needs a break of the graph",
        instead='value = torch.compile(loss, backend="eager")(e, y)',
        needs="torch>=2.6",  # for PML's
    ),
    *same(
        "state",
        {
            "PML's, strictly": "loss.load_state_dict(saved)",
            "PML's, not strictly": "loss.load_state_dict(saved, strict=False)",
            "PML's, assigned": "loss.load_state_dict({k: v.clone() for k, v in saved.items()}, assign=True)",
            "PML's, in a checkpoint of all": """
                both = nn.ModuleDict({"model": model, "loss": loss})
                both.load_state_dict({"loss." + k: v for k, v in saved.items()}, strict=False)
                """,
            "PML's, in MultipleLosses": """
                several = pml.MultipleLosses([loss])
                several.load_state_dict({"losses.0." + k: v for k, v in saved.items()})
                """,
            "PML's, of 16 bits": "loss.load_state_dict({k: v.half() for k, v in saved.items()})",
        },
        ALL,
    ),
    Way(
        "state",
        "PML's, of another width",
        'loss.load_state_dict({"W": torch.zeros(9, 5)})',
        "sentence",
        says="size mismatch for class_weights.weight",
    ),
    Way(
        "state",
        "PML's, filtered by the names of a new loss",
        """
            own = loss.state_dict()
            own.update({k: v for k, v in saved.items() if k in own})
            loss.load_state_dict(own)
            """,
        "warning",
        ALL,
        says="was given the very class weights that it has, so that none are loaded",
        here="`W` is no name of ours, and is filtered out: a warning",
        instead="loss.load_state_dict(saved)",
    ),
    Way(
        "state",
        "PML's, parameter by parameter",
        """
            for name, parameter in loss.named_parameters():
                if name in saved:
                    parameter.data.copy_(saved[name])
            """,
        "page",
        ALL,
        here="no name is in it, and the weights stay",
        instead="loss.load_state_dict(saved)",
    ),
    Way(
        "state",
        "the weights by their name",
        'result = loss.state_dict()["W"]',
        "page",
        ALL,
        here="`KeyError`: the name is `class_weights.weight`, and it is the transpose",
        instead="result = loss.W.detach()",
    ),
    Way(
        "state",
        "ours, into PML's loss",
        """
            theirs = pml.ArcFaceLoss(5, 8)
            theirs.load_state_dict(loss.state_dict())
            result = theirs(e, y)
            """,
        "page",
        here='`Missing key(s) in state_dict: "W"`',
        instead="""
            theirs = loss.to_pml()
            result = theirs(e, y)
            """,
    ),
    Way(
        "state",
        "the optimizer's, saved with PML's loss",
        """
            loss.load_state_dict(saved)
            adam = torch.optim.Adam(loss.parameters())
            adam.load_state_dict(saved_adam)
            loss(e, y).backward()
            adam.step()
            result = e.grad
            """,
        "sentence",
        ALL,
        says="optimizer must be new, or have moments of our class weights",
        here="refused at the first step: its moments are those of the transpose",
        instead="""
            loss.load_state_dict(saved)
            adam = torch.optim.Adam(loss.parameters())
            pml_state.load_optimizer_state(adam, saved_adam, loss)
            loss(e, y).backward()
            adam.step()
            result = e.grad
            """,
    ),
    *same(
        "freezing",
        {
            "each parameter": """
                for parameter in loss.parameters():
                    parameter.requires_grad = False
                result = torch.autograd.grad(loss(e, y), e)
                """,
            "requires_grad_": """
                loss.requires_grad_(False)
                result = torch.autograd.grad(loss(e, y), e)
                """,
            "and thawing": """
                loss.requires_grad_(False)
                loss(e, y)
                loss.requires_grad_(True)
                """,
            "W": """
                loss.W.requires_grad_(False)
                result = torch.autograd.grad(loss(e, y), e)
                """,
            "W, as an attribute": """
                loss.W.requires_grad = False
                result = torch.autograd.grad(loss(e, y), e)
                """,
            "W, without gradient": """
                with torch.no_grad():
                    loss.W.requires_grad_(False)
                result = torch.autograd.grad(loss(e, y), e)
                """,
            "no gradient in the optimizer": """
                sgd = torch.optim.SGD(model.parameters(), lr=0.1)
                value = loss(e, y)
                """,
        },
        ALL,
    ),
    *same(
        "W",
        {
            "its shape": "result = [tuple(loss.W.shape), loss.W.size(1), loss.W.numel(), loss.W.ndim]",
            "its kind": "result = [str(loss.W.dtype), str(loss.W.device), isinstance(loss.W, nn.Parameter)]",
            "its length": "result = loss.W.norm(dim=0)",
            "its directions": "result = F.normalize(loss.W, dim=0).detach()",
            "prototypes": "result = loss.W.detach().t().cpu().numpy().tolist()",
            "one class": "result = loss.W[:, 3].tolist()",
            "cosines by hand": "result = F.normalize(e) @ F.normalize(loss.W, dim=0)",
            "a penalty on it": "value = loss(e, y) + 0.1 * loss.W.square().sum()",
            "written by copy_": "loss.W.data.copy_(torch.linspace(-1, 1, loss.W.numel()).view_as(loss.W))",
            "written without gradient": """
                with torch.no_grad():
                    loss.W.copy_(torch.linspace(-1, 1, loss.W.numel()).view_as(loss.W))
                    loss.W[:, 1] = 2
                """,
            "a column": "loss.W.data[:, 0] = 1",
            "scaled": "loss.W.data.mul_(0.1)",
            "a start of torch": "nn.init.eye_(loss.W)",
            "started again": "loss.weight_init_func(loss.W)",
            "other numbers": "loss.W.data = torch.arange(40.0).view(8, 5).repeat(1, loss.W.shape[1] // 5)",
            "normalised after each step": training(
                SGD,
                "",
                """
                    optimizer.step()
                    loss.W.data = F.normalize(loss.W.data, dim=0)
                    """,
            ),
            "its gradient": """
                loss(e, y).backward()
                result = loss.W.grad
                """,
            "its gradient cut": """
                loss(e, y).backward()
                nn.utils.clip_grad_norm_([loss.W], 0.1)
                result = loss.W.grad
                """,
            "a hook of its gradient": "loss.W.register_hook(lambda grad: grad * 0.5)",
            "a copy": "result = copy.deepcopy(loss.W).detach()",
        },
        ALL,
    ),
    Way(
        "W",
        "more classes by cat",
        """
            loss.W.data = torch.cat([loss.W.data, torch.ones(8, 2)], 1)
            loss.num_classes = 7
            value = loss(e, torch.arange(20) % 7)
            """,
        "sentence",
        says=r"W\.data must have shape",
        here="refused: the shape is that of the classes",
        instead="""
            loss.resize_classes(7)
            loss.W.data[:, 5:] = 1
            value = loss(e, torch.arange(20) % 7)
            """,
    ),
    Way(
        "W",
        "other memory by set_",
        """
            with torch.no_grad():
                loss.W.set_(torch.ones(8, 5))
            """,
        "sentence",
        says="W.set_ must not be called",
        here="refused: `W` is a view of the weights",
        instead="loss.W.data = torch.ones(8, 5)",
    ),
    Way(
        "W",
        "alone in an optimizer",
        """
            sgd = torch.optim.SGD([loss.W], lr=0.1)
            loss(e, y).backward()
            sgd.step()
            result = e.grad
            """,
        "sentence",
        says="W must not be given to an optimizer|can't optimize a non-leaf Tensor",
        here="refused: `W` is a view of the weights",
        instead="""
            sgd = torch.optim.SGD(loss.parameters(), lr=0.1)
            loss(e, y).backward()
            sgd.step()
            result = e.grad
            """,
    ),
    Way(
        "W",
        "another parameter",
        "loss.W = nn.Parameter(torch.ones(8, 5))",
        "sentence",
        says="W must",
        here="refused: `W` is a view of the weights",
        instead="loss.W.data = torch.ones(8, 5)",
    ),
    Way(
        "W",
        "as one row by view",
        "result = loss.W.view(-1).detach()",
        "page",
        ALL,
        here="torch's error of a view that is no block of memory",
        instead="result = loss.W.reshape(-1).detach()",
    ),
    Way(
        "W",
        "as the first of the parameters",
        "result = next(loss.parameters()).detach()",
        "page",
        ALL,
        here="(C, D), which no error can tell where C = D",
        instead="result = loss.W.detach()",
    ),
    Way(
        "W",
        "parametrized",
        'nn.utils.parametrize.register_parametrization(loss, "W", nn.Identity())',
        "page",
        here='torch\'s error: the weights are `"weight"` of `loss.class_weights`',
    ),
    Way(
        "W",
        "its gradient by autograd",
        "result = torch.autograd.grad(loss(e, y), loss.W)[0]",
        "page",
        ALL,
        here="`One of the differentiated Tensors appears to not have been used`: a view made after the fact",
        instead="result = torch.autograd.grad(loss(e, y), loss.class_weights.weight)[0].t()",
    ),
    *same(
        "attributes",
        {
            "the scale, set": "loss.scale = 16",
            "the weight of a regularizer, set": f"""
                loss = Loss({SIZES}, weight_regularizer=regularizers.LpRegularizer())
                loss.weight_reg_weight = 0.1
                """,
        },
        (*MARGIN, "SubCenterArcFaceLoss"),
    ),
    *same(
        "attributes",
        {
            "the number of classes": "result = [loss.num_classes, loss.scale]",
        },
        (*MARGIN, "SubCenterArcFaceLoss"),
    ),
    *same(
        "attributes",
        {
            "the margin of CosFace": """
                loss = losses.CosFaceLoss(5, 8)
                result = loss.margin
                """,
            "the margin of CosFace, set": """
                loss = losses.CosFaceLoss(5, 8)
                loss.margin = 0.1
                """,
            "a margin warmed up": """
                loss = losses.CosFaceLoss(5, 8)
                result = []
                for epoch in range(3):
                    loss.margin = 0.1 * epoch
                    result.append(loss(e, y))
                """,
            "sub-centers": f"""
                loss = losses.SubCenterArcFaceLoss({SIZES})
                result = [loss.sub_centers, loss.num_classes]
                """,
            "the temperature": """
                loss = losses.NormalizedSoftmaxLoss(5, 8)
                result = loss.temperature
                """,
            "the temperature, set": """
                loss = losses.NormalizedSoftmaxLoss(5, 8)
                loss.temperature = 0.5
                """,
            "the temperature of logits": """
                loss = losses.NormalizedSoftmaxLoss(5, 8)
                loss.temperature = 0.5
                result = loss.get_logits(e)
                """,
            "names that are recorded": 'result = {"num_classes", "margin", "scale"} <= set(loss._record_these)',
            "SubCenter is an ArcFace": f"result = isinstance(losses.SubCenterArcFaceLoss({SIZES}), losses.ArcFaceLoss)",
            "a margin loss is an L-Softmax": """
                kinds = (losses.ArcFaceLoss, losses.CosFaceLoss, losses.SphereFaceLoss)
                result = [issubclass(kind, losses.LargeMarginSoftmaxLoss) for kind in kinds]
                """,
            "is a loss of PML": "result = isinstance(loss, pml.BaseMetricLossFunction)",
            "the name of the class": "result = type(loss).__name__",
        },
    ),
    Way(
        "attributes",
        "the sizes of NormalizedSoftmaxLoss",
        """
            loss = losses.NormalizedSoftmaxLoss(5, 8)
            result = [loss.num_classes, loss.embedding_size]
            """,
        "better",
        here="5 and 8; both are 0 in PML",
        check="assert result == [5, 8]",
    ),
    Way(
        "attributes",
        "the margin of ArcFace, read",
        "result = float(loss.margin)",
        "page",
        ("ArcFaceLoss", "SubCenterArcFaceLoss"),
        here="degrees, as it was given; PML keeps radians",
        instead="result = math.radians(loss.margin)",
    ),
    Way(
        "attributes",
        "the margin of ArcFace, set",
        "loss.margin = np.radians(20)",
        "warning",
        ("ArcFaceLoss", "SubCenterArcFaceLoss"),
        says="degrees, almost no margin",
        here="degrees here: a warning",
        instead="loss.margin = 20",
    ),
    Way(
        "attributes",
        "a cross entropy of one's own",
        'loss.cross_entropy = nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")',
        "sentence",
        ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss"),
        says="label_smoothing.*loss_weights",
        here="refused: there is none, classes are computed in blocks",
        instead=f"loss = Loss({SIZES}, label_smoothing=0.1)",
    ),
    Way(
        "attributes",
        "steps of PML's computation",
        "result = loss.get_cosine(e)",
        "sentence",
        says="get_logits",
        here="an error that names `get_logits`",
        instead="result = F.normalize(e) @ F.normalize(loss.W, dim=0)",
    ),
    Way(
        "attributes",
        "the mask of targets",
        "result = loss.get_target_mask(e, y)",
        "sentence",
        says="get_logits",
        here="likewise",
        instead="result = F.one_hot(y, 5).float()",
    ),
    Way(
        "attributes",
        "init_margin",
        """
            loss.margin = 20
            loss.init_margin()
            """,
        "sentence",
        says="init_margin",
        here="likewise: the attribute is in degrees",
        instead="loss.margin = 20",
    ),
    *same(
        "subclasses",
        {
            "arguments passed on": """
                class Mine(Loss):
                    def __init__(self, classes, **kwargs):
                        super().__init__(num_classes=classes, embedding_size=8, **kwargs)

                loss = Mine(5)
                """,
            "a reducer of one's own": """
                class Mine(Loss):
                    def __init__(self, n, d):
                        super().__init__(num_classes=n, embedding_size=d, reducer=reducers.SumReducer())

                loss = Mine(5, 8)
                """,
            "a distance and statistics": f"""
                class Mine(Loss):
                    def __init__(self):
                        super().__init__({SIZES}, collect_stats=True, distance=None)

                loss = Mine()
                """,
            "forward": f"""
                class Mine(Loss):
                    def forward(self, embeddings, labels, indices_tuple=None):
                        return 2 * super().forward(F.normalize(embeddings), labels)

                loss = Mine({SIZES})
                """,
            "a start of one's own": f"""
                def rising(W, most):
                    with torch.no_grad():
                        W.copy_(torch.linspace(-most, most, W.numel()).view_as(W))

                class Mine(Loss):
                    def get_default_weight_init_func(self):
                        return c_f.TorchInitWrapper(rising, most=0.3)

                loss = Mine({SIZES})
                """,
            "a reducer by default": f"""
                class Mine(Loss):
                    def get_default_reducer(self):
                        return reducers.SumReducer()

                loss = Mine({SIZES})
                """,
            "attributes of its own": f"""
                class Mine(Loss):
                    def __init__(self, **kwargs):
                        super().__init__(**kwargs)
                        self.step, self.lamb, self.centers = 0, 0.1, None

                loss = Mine({SIZES})
                """,
            "a method named step": f"""
                class Mine(Loss):
                    def step(self):
                        return 1

                loss = Mine({SIZES})
                loss.step()
                """,
            "beside another base": f"""
                class Named:
                    name = 'mine'

                class Mine(Named, Loss):
                    pass

                loss = Mine({SIZES})
                """,
        },
        ALL,
    ),
    Way(
        "subclasses",
        "an attribute named as a hook of ours",
        f"""
        class Mine(losses.ArcFaceLoss):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.prototypes = torch.ones(5)

        loss = Mine({SIZES})
        """,
        "sentence",
        says="prototypes must stay a method",
        here="refused, as for `penalty`, `observe` and `combine`: ours call methods of these names",
        instead=f"""
        class Mine(losses.ArcFaceLoss):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.my_prototypes = torch.ones(5)

        loss = Mine({SIZES})
        """,
    ),
    Way(
        "subclasses",
        "weights of the classes in an attribute",
        f"""
        class Mine(losses.ArcFaceLoss):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.class_weights = torch.ones(5)

        loss = Mine({SIZES})
        """,
        "sentence",
        says="class_weights must stay",
        here="refused: it is where `W` lives",
        instead=f"""
        class Mine(losses.ArcFaceLoss):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.my_weights = torch.ones(5)

        loss = Mine({SIZES})
        """,
    ),
    *[
        Way(
            "subclasses",
            f"{hook} overridden",
            f"""
                class Mine(losses.ArcFaceLoss):
                    def {hook}(self, *args):
                        return super().{hook}(*args)

                loss = Mine(5, 8)
                """,
            "sentence",
            says=hook,
            here=HOOKS if hook == "scale_logits" else "",
        )
        for hook in ("scale_logits", "modify_cosine_of_target_classes", "get_cosine", "init_margin")
    ],
    *same(
        "trainers and testers",
        {
            "MetricLossOnly": f"""
                trainer = trainers.MetricLossOnly({TRAINER})
                trainer.train()
                result = list(model.parameters())
                """,
            "MetricLossOnly with a miner": f"""
                trainer = trainers.MetricLossOnly({TRAINER},
                    mining_funcs={{'tuple_miner': miners.MultiSimilarityMiner()}})
                trainer.train()
                result = list(model.parameters())
                """,
            "MetricLossOnly with clipping and schedules": f"""
                plan = torch.optim.lr_scheduler.StepLR(optimizers['metric_loss_optimizer'], 1)
                trainer = trainers.MetricLossOnly(
                    {TRAINER},
                    lr_schedulers={{'metric_loss_scheduler_by_iteration': plan}},
                    gradient_clippers={{
                        'metric_loss_grad_clipper': lambda: nn.utils.clip_grad_norm_(loss.parameters(), 0.1)
                    }},
                )
                trainer.train()
                result = list(model.parameters())
                """,
            "MetricLossOnly that freezes the loss": f"""
                trainer = trainers.MetricLossOnly({TRAINER}, freeze_these=['metric_loss'])
                trainer.train()
                result = list(model.parameters())
                """,
        },
        ALL,
    ),
    *same(
        "trainers and testers",
        {
            "TrainWithClassifier": f"""
                models['classifier'] = nn.Linear(8, 5)
                optimizers['classifier_optimizer'] = torch.optim.SGD(models['classifier'].parameters(), lr=0.1)
                loss_funcs['classifier_loss'] = nn.CrossEntropyLoss()
                trainer = trainers.TrainWithClassifier({TRAINER})
                trainer.train()
                result = list(model.parameters())
                """,
            "the classifier's loss": f"""
                models['classifier'] = nn.Identity()
                loss_funcs['classifier_loss'] = loss
                loss_funcs['metric_loss'] = losses.TripletMarginLoss()
                optimizers['classifier_loss_optimizer'] = optimizers.pop('metric_loss_optimizer')
                trainer = trainers.TrainWithClassifier({TRAINER})
                trainer.train()
                result = list(model.parameters())
                """,
            "CascadedEmbeddings": f"""
                models['trunk'] = nn.Sequential(model, Twice())
                loss_funcs = {{'metric_loss_0': loss, 'metric_loss_1': losses.TripletMarginLoss()}}
                optimizers['metric_loss_0_optimizer'] = optimizers.pop('metric_loss_optimizer')
                trainer = trainers.CascadedEmbeddings([8, 8], {TRAINER})
                trainer.train()
                result = list(model.parameters())
                """,
            "DeepAdversarialMetricLearning": f"""
                models['generator'] = nn.Linear(24, 8)
                optimizers['generator_optimizer'] = torch.optim.SGD(models['generator'].parameters(), lr=0.1)
                loss_funcs |= {{'synth_loss': loss, 'g_adv_loss': losses.TripletMarginLoss()}}
                trainer = trainers.DeepAdversarialMetricLearning(0, 0, 2, {TRAINER})
                trainer.train()
                result = list(model.parameters())
                """,
            "GlobalEmbeddingSpaceTester": """
                sgd = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
                loss(model(x), y).backward()
                sgd.step()
                tester = testers.GlobalEmbeddingSpaceTester(
                    dataloader_num_workers=0,
                    data_device=CPU,
                    accuracy_calculator=AccuracyCalculator(include=("precision_at_1",), k=1, device=CPU),
                )
                result = tester.test({"val": TensorDataset(x, y)}, 1, model)["val"]["precision_at_1_level0"]
                """,
        },
    ),
    Way(
        "trainers and testers",
        "TwoStreamMetricLoss",
        "value = loss(e[:10], y[:10], miners.BatchHardMiner()(e[:10], y[:10], e[10:], y[10:]), e[10:], y[10:])",
        "sentence",
        says="ref_emb must be None for ArcFaceLoss",
    ),
    *same(
        "sub-centers",
        {
            "outliers": f"""
                loss = losses.SubCenterArcFaceLoss({SIZES})
                rows, centers = loss.get_outliers(e.detach(), y, threshold=60)
                result = [sorted(rows.tolist()), centers]
                """,
        },
    ),
    Way(
        "sub-centers",
        "outliers without the centers",
        f"""
            loss = losses.SubCenterArcFaceLoss({SIZES})
            result = loss.get_outliers(e.detach(), y, threshold=60, return_dominant_centers=False)
            """,
        "better",
        here="the rows of the outliers alone; PML returns the centers, too",
        check="assert isinstance(result, torch.Tensor)",
    ),
    Way(
        "P2SGrad",
        "by PML's names",
        """
            loss = losses.P2SGradLoss(descriptors_dim=8, num_classes=5)
            loss.load_state_dict(saved)
            value = loss(e, y)
            result = [value, torch.autograd.grad(value, e)]
            """,
        "page",
        ("P2SGradLoss",),
        here="of `P2SGradLoss`: PML's names and state are taken, the value is the paper's, C / 2 of PML's",
        instead="""
            loss = losses.P2SGradLoss(descriptors_dim=8, num_classes=5)
            loss.load_state_dict(saved)
            value = 2 / 5 * loss(e, y)
            result = [value, torch.autograd.grad(value, e)]
            """,
    ),
    Way(
        "P2SGrad",
        "sizes by position",
        """
            loss = losses.P2SGradLoss(8, 5)
            loss.load_state_dict(saved)
            value = loss(e, y)
            result = [value, torch.autograd.grad(value, e)]
            """,
        "page",
        ("P2SGradLoss",),
        here="the order is that of all other losses: classes come first",
        instead="""
            loss = losses.P2SGradLoss(5, 8)
            loss.load_state_dict(saved)
            value = 2 / 5 * loss(e, y)
            result = [value, torch.autograd.grad(value, e)]
            """,
    ),
    Way(
        "P2SGrad",
        "its weights",
        """
            loss.load_state_dict(saved)
            result = loss.weight.detach()
            """,
        "page",
        ("P2SGradLoss",),
        here="`AttributeError` in `P2SGradLoss`: its weights are `W`, too",
        instead="""
            loss.load_state_dict(saved)
            result = loss.W.detach()
            """,
    ),
    Way(
        "torch.func",
        "a gradient",
        "result = torch.func.grad(lambda rows: loss(rows, y))(e.detach())",
        "page",
        here="torch's `setup_context` error: our backward passes are of the older form",
        instead="result = torch.autograd.grad(loss(e, y), e)[0]",
    ),
]


def written(page: str) -> str:
    """The page with the tables of these ways between the marks of each."""
    parts = {"what stays": staying(), "what is better": better(), "what to write": instead()}
    for name, text in parts.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page, flags=re.S
        )
    return page


def staying() -> str:
    """One sentence."""
    found = [way for way in WAYS if way.outcome == "same"]
    counts = {way.subject: sum(other.subject == way.subject for other in found) for way in found}
    subjects = ", ".join(f"{subject} ({count})" for subject, count in counts.items())
    cases = sum(len(way.kinds) for way in found)
    text = f"{len(found)} ways to use these losses, {cases} with each loss that they are for: {subjects}."
    return "\n".join(textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False))


def better() -> str:
    """What works here, or is more exact, or is said more clearly."""
    rows = [(code(way, way.code), way.here) for way in WAYS if way.outcome == "better"]
    return table("you write", "here", rows=rows)


def instead() -> str:
    """What does something else here, is refused or warned of, and what to write for it."""
    rows = []
    for way in WAYS:
        if way.outcome in ("page", "sentence", "warning") and way.here:
            rows.append((code(way, way.code, way.instead), way.here, code(way, way.instead, way.code)))
    return table("you write", "here", "write instead", rows=rows)


def table(*head: str, rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def code(way: Way, text: str, other: str = "") -> str:
    """A code in a cell, line by line: what it has beside the other one, without what only the tests ask for."""
    lines = textwrap.dedent("\n".join(line for line in shown(way, text) if line not in shown(way, other))).splitlines()
    return "<br>".join("`" + re.sub(r"^ +", lambda m: "\u00a0" * len(m[0]), line) + "`" for line in lines)


def shown(way: Way, text: str) -> list[str]:
    """Lines of a code without names for what is compared."""
    lines = [re.sub(r"^(result|value) = ", "", line) for line in text.splitlines() if line]
    lines = [line for line in lines if line.strip() not in LEFT_OUT] or lines
    return [re.sub(r"\bLoss\b", f"losses.{way.kinds[0]}", line) for line in lines]


# The loop around what a row is about, and what a code returns to be compared.
LEFT_OUT = (
    "parameters = [*model.parameters(), *loss.parameters()]",
    "for _ in range(3):",
    "optimizer.zero_grad()",
    "loss(model(x), y).backward()",
    "optimizer.step()",
    "list(model.parameters())",
    "e.grad",
    "[value, torch.autograd.grad(value, e)]",
)

if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
