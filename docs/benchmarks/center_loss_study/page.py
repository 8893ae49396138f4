"""The page of the study: tables, plots and sentences from results.json."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pml_center.plots import COLOURS, GREY, LINES, MARKERS
from pml_center.training import TrainConfig

MAP = "mean_average_precision_at_r"
SIGNIFICANT = 0.05
# Each metric: what it is called, and what it is measured on.
METRICS = {
    "accuracy": "accuracy of the classifier, known classes",
    MAP: "MAP@R by cosine",
    "euclidean_map_at_r": "MAP@R by distance",
    "verification": "accuracy on LFW's pairs",
}
TICKS = (-0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2)  # of a difference
HELPS, HURTS, NOTHING = "▲", "▼", "·"

Results = dict[str, Any]


def write_page(results: Results, out: Path) -> None:
    """Write ``index.md`` and its plots."""
    for metric in ("accuracy", MAP):
        _differences(results, metric).savefig(out / f"{metric}.png", dpi=150)
    _spreads(results).savefig(out / "spread.png", dpi=150)
    (out / "index.md").write_text(_page(results), encoding="utf-8")


def judgement(cell: dict[str, Any], metric: str) -> str:
    """Whether center loss helps, hurts, or nothing can be said."""
    against = cell["metrics"][metric]["minus_softmax"]
    if against["p_corrected"] >= SIGNIFICANT:
        return NOTHING
    return HELPS if against["difference"] > 0 else HURTS


def judged(results: Results, metric: str) -> list[tuple[str, dict[str, Any], str]]:
    """Task, cell and judgement of every cell with center loss that has a metric."""
    return [
        (name, cell, judgement(cell, metric))
        for name, task in results["tasks"].items()
        for cell in task["cells"]
        if cell["weight"] and metric in cell["metrics"]
    ]


def of_unseen(results: Results, name: str) -> bool:
    """Whether the images searched are of classes that were not trained on."""
    return "unseen" in results["config"]["tasks"][name]


def over_classes(leading: dict[str, Any]) -> bool:
    """Whether leading losses were judged over classes, as unseen ones must be; they were over images before."""
    return "classes" in leading.get("ci_method", "")


def shape(cell: dict[str, Any], key: str) -> float:
    """What form embeddings have, in the mean over seeds."""
    return float(np.mean(cell["shape"][key]))


def _page(results: Results) -> str:
    return "\n\n".join(
        part.strip()
        for part in (
            _head(results),
            _answer(results),
            _signs(results),
            _plots(),
            _why(results),
            _leading(results),
            _how(results),
            _again(results),
            "## All numbers",
            *(_cells(results, name) for name in results["tasks"]),
        )
    ) + "\n"  # fmt: skip


def _weights(results: Results) -> list[float]:
    return [weight for weight in results["config"]["weights"] if weight]


def _signs(results: Results) -> str:
    """A table of signs: a row a task, a column a width."""
    weights = _weights(results)
    widths = results["config"]["widths"]
    text = ["## Where it helps and where it hurts", ""]
    text += [
        f"{HELPS} center loss is really better than softmax alone at the same width, {HURTS} really worse, {NOTHING} "
        f"nothing can be said. The signs stand for the weights {', '.join(map(_number, weights))}, from left to right."
    ]
    for metric in (MAP, "accuracy", "euclidean_map_at_r", "verification"):
        rows = []
        for task in results["tasks"].values():
            if metric not in task["cells"][0]["metrics"]:
                continue
            row = [task["title"]]
            for width in widths:
                cells = {cell["weight"]: cell for cell in task["cells"] if cell["width"] == width}
                signs = [judgement(cells[weight], metric) if weight in cells else " " for weight in weights]
                row.append("\N{NARROW NO-BREAK SPACE}".join(signs) if cells else "")
            rows.append(row)
        if rows:
            text += ["", f"**{METRICS[metric][0].upper()}{METRICS[metric][1:]}**", ""]
            text += _table(["", *(f"width {width}" for width in widths)], rows)
    return "\n".join(text)


def _cells(results: Results, name: str) -> str:
    """All numbers of a task."""
    task = results["tasks"][name]
    metrics = [metric for metric in METRICS if metric in task["cells"][0]["metrics"]]
    rows = []
    for cell in task["cells"]:
        row = [str(cell["width"]), _number(cell["weight"])]
        for metric in metrics:
            found = cell["metrics"][metric]
            low, high = found["interval"]
            row.append(f"{found['value']:.3f} ({low:.3f} … {high:.3f})")
            against = found.get("minus_softmax")
            row.append("" if against is None else f"{against['difference']:+.3f}{_p(against['p_corrected'])}")
        for key in ("spread", "unseen_spread", "length"):
            row.append(f"{_three(shape(cell, key))} ± {_three(float(np.std(cell['shape'][key], ddof=1)))}")
        rows.append(row)
    count = task["counts"]
    searched = "other" if of_unseen(results, name) else "the same"
    heads = [column for metric in metrics for column in (METRICS[metric], "Δ")]
    head = ["width", "weight", *heads, "spread, known", "spread, searched", "length"]
    text = f"""
### {task["title"]}

{count["train"]:,} images of {count["train_classes"]} classes trained on, {count["known"]:,} others of them classified,
{count["searched"]:,} images of {searched} {count["searched_classes"]} classes searched. Raw pixels reach a MAP@R of
{task["pixels"][MAP]:.3f}. A star marks a real difference to softmax alone; ± is the deviation over seeds.
"""
    return "\n".join([text.strip(), "", ":::{dropdown} All numbers", *_table(head, rows), ":::"])


def _p(p_value: float) -> str:
    """A mark for a difference that is real."""
    return " \\*" if p_value < SIGNIFICANT else ""


def _plots() -> str:
    return f"""
```{{image}} {MAP}.png
:alt: Change of MAP@R against the weight of center loss, a panel for each task, a line for each width
```

*MAP@R: what center loss adds to softmax, with 95 % intervals, against its weight. Above 0.05 and below −0.05 the axis
is logarithmic.*

```{{image}} accuracy.png
:alt: Change of accuracy against the weight of center loss, a panel for each task, a line for each width
```

*The same for the accuracy of the classifier on known classes.*
"""


def _differences(results: Results, metric: str) -> Figure:
    """What center loss adds, against its weight: a panel a task, a line a width."""
    tasks = list(results["tasks"].values())
    rows = -(-len(tasks) // 2)
    figure = Figure(figsize=(8, 2.3 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2, sharex=True)).ravel()
    for ax, task in zip(axes, tasks, strict=False):
        ax.axhline(0, color=GREY, linewidth=1)
        for number, width in enumerate(results["config"]["widths"]):
            cells = [cell for cell in task["cells"] if cell["width"] == width and cell["weight"]]
            if not cells:
                continue
            against = [cell["metrics"][metric]["minus_softmax"] for cell in cells]
            x = np.array([cell["weight"] for cell in cells]) * 1.12 ** (number - 1)  # so that none hides another
            y = np.array([each["difference"] for each in against])
            error = np.abs(np.array([each["interval"] for each in against]).T - y)
            style = {"color": COLOURS[(0, 2, 6)[number % 3]], "marker": MARKERS[number], "linestyle": LINES[number]}
            ax.errorbar(x, y, error, capsize=2, markersize=4, linewidth=1.2, label=f"width {width}", **style)
        ax.set_xscale("log")
        weights = _weights(results)
        ax.set_xticks(weights, [_number(weight) for weight in weights], fontsize=8)
        ax.set_yscale("symlog", linthresh=0.05)  # one point and fifty must both be seen
        ax.set_ylim(-0.8, 0.3)
        ax.set_yticks(TICKS, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in TICKS], fontsize=8)
        ax.minorticks_off()
        ax.set_title(task["title"], fontsize=10)
        ax.grid(axis="y", color="0.92")
    for ax in axes[len(tasks) :]:
        ax.set_visible(False)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda found: len(found[0]))
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("weight of center loss", fontsize=10)
    figure.supylabel(f"{METRICS[metric]}: difference to softmax alone", fontsize=10)
    return figure


def _spreads(results: Results) -> Figure:
    """Retrieval against how spread the searched classes are: a panel a task."""
    tasks = list(results["tasks"].values())
    rows = -(-len(tasks) // 2)
    figure = Figure(figsize=(8, 2.3 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 2)).ravel()
    for ax, task in zip(axes, tasks, strict=False):
        for number, width in enumerate(results["config"]["widths"]):
            cells = [cell for cell in task["cells"] if cell["width"] == width]
            if not cells:
                continue
            x = [shape(cell, "unseen_spread") for cell in cells]
            y = [cell["metrics"]["euclidean_map_at_r"]["value"] for cell in cells]
            style = {"color": COLOURS[(0, 2, 6)[number % 3]], "marker": MARKERS[number], "linestyle": LINES[number]}
            ax.plot(x, y, markersize=4, linewidth=1, label=f"width {width}", **style)
            ax.plot(x[:1], y[:1], marker="o", markersize=9, fillstyle="none", color=style["color"])
        ax.set_title(task["title"], fontsize=10)
        ax.grid(color="0.92")
    for ax in axes[len(tasks) :]:
        ax.set_visible(False)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda found: len(found[0]))
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("spread of the classes searched: distance to the class mean / distance between means", fontsize=10)
    figure.supylabel("MAP@R by distance", fontsize=10)
    return figure


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table, in whose cells what belongs together stays on one line."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    whole = [re.sub(r" ([→…]) ", "\u00a0\\1\u00a0", line) for line in lines]
    return [whole[0], "|---" * len(head) + "|", *whole[1:]]


def _number(value: float) -> str:
    return f"{value:g}"


def _three(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _head(results: Results) -> str:
    tasks, config = results["tasks"], results["config"]
    count = sum(len(task["cells"]) for task in tasks.values())
    weights = _weights(results)
    return f"""
# Does center loss help?

A survey of losses once found that center loss helps on MNIST and hurts on CIFAR-10: one run a cell, at a weight of 1,
three hundred times that of [the paper](https://ydwen.github.io/papers/WenECCV16.pdf). Here softmax loss stands alone,
and with center loss beside it at weights from {_number(weights[0])} to {_number(weights[-1])}, for embeddings of
{_listed(config["widths"])} numbers, on {len(tasks)} tasks: {count} cells of {len(config["seeds"])} seeds, with
intervals and paired tests.
"""


def _answer(results: Results) -> str:
    text = ["## In short", "", *_findings(results), "", "How often, over all tasks and widths:", ""]
    return "\n".join(text + _by_weight(results))


def _findings(results: Results) -> list[str]:
    """What the results say. A sentence of single cells stands only where these were trained."""
    small, large = (0.003, 0.03), (0.3, 1)

    def share(metric: str, weights: tuple[float, ...], among: Callable[[str, int], bool]) -> tuple[int, int, int]:
        """How many cells are really better, how many really worse, and how many there are."""
        signs = [
            sign
            for name, cell, sign in judged(results, metric)
            if cell["weight"] in weights and among(name, cell["width"])
        ]
        return signs.count(HELPS), signs.count(HURTS), len(signs)

    def wide(name: str, width: int) -> bool:
        return width > 2

    found = []
    better, worse, cells = share(MAP, small, wide)
    if cells:
        found.append(
            f"**At weights of 0.003 and 0.03**, the paper's and ten times it, MAP@R is really better in {better} of "
            f"{cells} cells wider than 2, and really worse in {worse or 'none'}."
        )
    better, worse, cells = share(MAP, large, wide)
    if cells:
        found.append(
            f"**At weights of 0.3 and 1** it is really better in {better} of {cells} such cells, and really worse in "
            f"{worse}."
        )
    survey = [(name, width) for name in ("mnist-10", "cifar-10") for width in (64, 512)]
    if all(_has(results, *cell, 1) and _sign(results, *cell, 1) == HURTS for cell in survey):
        found.append(
            "**The survey's weight of 1** hurts at widths 64 and 512 on CIFAR-10, as it did there, and on MNIST as "
            "well. At 0.03 MNIST gains, and of CIFAR-10 nothing can be said."
            if _sign(results, "mnist-10", 64, 0.03) == HELPS
            and {_sign(results, "cifar-10", width, 0.03) for width in (64, 512)} <= {NOTHING, HELPS}
            else "**The survey's weight of 1** hurts at widths 64 and 512, on CIFAR-10 and on MNIST."
        )
    if all(_has(results, "omniglot", width, 0.03) for width in (64, 512)):
        words = _judged_as(_cell(results, "omniglot", 64, 0.03), MAP)
        found.append(
            "**Unseen characters of Omniglot**, with 200 to learn from: a weight of 0.03 takes MAP@R from "
            f"{_change(results, 'omniglot', 64, 0.03)} at width 64 ({words}) and from "
            f"{_change(results, 'omniglot', 512, 0.03)} at 512 "
            f"({_judged_as(_cell(results, 'omniglot', 512, 0.03), MAP)})."
        )
    better, worse, cells = share(MAP, small, lambda name, width: name.endswith("-5"))
    if cells:
        found.append(
            f"**Five unseen classes after five known ones**: of {cells} cells with small weights {better or 'none'} "
            f"{'are' if better > 1 else 'is'} really better and {worse or 'none'} really worse. Five classes are few: "
            "small differences could not be seen."
        )
    if _has(results, "faces", 64, 0.03):
        without, less, more = (_cell(results, "faces", 64, weight) for weight in (0, *small))
        value = "verification"
        found.append(
            f"**Of faces, for which it was made**, accuracy on LFW's pairs at width 64 is "
            f"{without['metrics'][value]['value']:.3f} without it, {less['metrics'][value]['value']:.3f} at 0.003 "
            f"({_judged_as(less, value)}) and "
            f"{more['metrics'][value]['value']:.3f} at 0.03 ({_judged_as(more, value)}). Three epochs on "
            f"{results['tasks']['faces']['counts']['train']:,} small images are far from the paper's 0.7 million."
        )
    better, worse, cells = share(MAP, small + large, lambda name, width: width == 2)
    if cells:
        found.append(
            f"**At width 2** it is really better in {better or 'none'} and really worse in {worse} of {cells} cells "
            "from 0.003 on. Seeds differ so much there that a gain like those at width 64 might not show."
        )
    better, worse, cells = share("accuracy", small, wide)
    if cells:
        full = [
            _cell(results, name, cell["width"], 0)["metrics"]["accuracy"]["value"] > 0.975
            for name, cell, _ in judged(results, "accuracy")
            if cell["weight"] in small and cell["width"] > 2
        ]
        found.append(
            f"**The accuracy of a classifier** is at small weights and widths above 2 really better in {better} of "
            f"{cells} cells and really worse in {worse}; in {sum(full)} softmax alone is right on 97.5 % already."
        )
    for name, control in results["control"].items():
        cell = next((each for each in control["cells"] if each["weight"] == 0.03), None)
        if cell is not None:
            width = results["config"]["control"]["width"]
            before, center = (_cell(results, name, width, weight)["metrics"][MAP]["value"] for weight in (0, 0.03))
            against = cell["metrics"][MAP]["minus_center"]
            words = "which may be chance"
            if against["p_corrected"] < SIGNIFICANT:
                words = "which is really better" if against["difference"] > 0 else "which is really worse"
            found.append(
                f"**Without centers**, by a pull on the length of embeddings alone, MAP@R on "
                f"{results['tasks'][name]['title'].split(',')[0]} goes from {before:.3f} to "
                f"{cell['metrics'][MAP]['value']:.3f} at width {width} and a weight of 0.03, where center loss has "
                f"{center:.3f}: {words}."
            )
    found += [_tuned(results, name) for name, leading in results["leading"].items() if leading["rows"]]
    low = {
        task["title"]: max(cell["metrics"][MAP]["value"] for cell in task["cells"])
        for task in results["tasks"].values()
        if task["pixels"][MAP] >= max(cell["metrics"][MAP]["value"] for cell in task["cells"])
    }
    if low:
        names = "; ".join(low)
        found.append(
            f"**Raw pixels do better than any network** on these tasks, which say little of any loss: {names}."
        )
    return [f"- {sentence}" for sentence in found]


def _tuned(results: Results, name: str) -> str:
    """How far the best of the leading losses is before softmax and center loss, all tuned alike."""
    leading, width = results["leading"][name], results["config"]["leading"]["width"]
    rows = {row["loss"]: row for row in leading["rows"] if not row["error"]}
    best = next(iter(rows))
    others = [loss for loss in rows if loss != best and (loss == "SoftmaxLoss" or "CenterLoss" in loss)]
    behind = "; ".join(
        f"`{loss}` {rows[loss]['value']:.3f}, which "
        + ("was not tested" if not over_classes(leading) else "is really behind" if row["is_real"] else "may be chance")
        for loss in others
        if (row := rows[loss]["behind_the_best"])
    )
    text = (
        f"**Tuned alike**, `{best}` reaches a MAP@R of {rows[best]['value']:.3f} on "
        f"{results['tasks'][name]['title'].split(',')[0]}; {behind}."
    )
    center = next((loss for loss in rows if "CenterLoss" in loss), None)
    if center and "SoftmaxLoss" in rows and _has(results, name, width, 0.03):
        one, other = (_cell(results, name, width, weight)["metrics"][MAP]["value"] for weight in (0.03, 0))
        untuned, tuned = one - other, rows[center]["value"] - rows["SoftmaxLoss"]["value"]
        if untuned > 2 * abs(tuned):
            text += (
                f" There center loss is {tuned:.3f} above softmax alone, which was not tested, and was {untuned:.3f} "
                f"above with one setting for all and batches at random. Softmax went from {other:.3f} to "
                f"{rows['SoftmaxLoss']['value']:.3f}, center loss from {one:.3f} to {rows[center]['value']:.3f}: "
                "settings and batches both changed, and which of them did it is not known."
            )
    return text


def _judged_as(cell: dict[str, Any], metric: str) -> str:
    """The judgement of a cell in words."""
    words = {HELPS: "really better", HURTS: "really worse", NOTHING: "which may be chance"}
    return words[judgement(cell, metric)]


def _has(results: Results, name: str, width: int, weight: float) -> bool:
    cells = results["tasks"].get(name, {"cells": []})["cells"]
    return any((cell["width"], cell["weight"]) == (width, weight) for cell in cells)


def _cell(results: Results, name: str, width: int, weight: float) -> dict[str, Any]:
    cells = results["tasks"][name]["cells"]
    return next(cell for cell in cells if (cell["width"], cell["weight"]) == (width, weight))


def _sign(results: Results, name: str, width: int, weight: float) -> str:
    return judgement(_cell(results, name, width, weight), MAP)


def _change(results: Results, name: str, width: int, weight: float) -> str:
    """From softmax alone to a weight."""
    before, after = (_cell(results, name, width, each)["metrics"][MAP]["value"] for each in (0, weight))
    return f"{before:.3f} to {after:.3f}"


def _by_weight(results: Results) -> list[str]:
    """A table of how often each weight helps and hurts, over all tasks and widths."""
    rows = []
    for weight in _weights(results):
        row = [_number(weight)]
        for metric in (MAP, "accuracy"):
            signs = [sign for _, cell, sign in judged(results, metric) if cell["weight"] == weight]
            row += [f"{signs.count(sign)} of {len(signs)}" for sign in (HELPS, HURTS)]
        rows.append(row)
    head = ["weight", "MAP@R really better", "really worse", "accuracy really better", "really worse"]
    return _table(head, rows)


def _why(results: Results) -> str:
    text = """
## Why

Center loss pulls at squared distances. It makes classes tight, and it makes everything short: both are measured.
*Spread* is the mean distance of the known images to the mean of their class, divided by the mean distance between
those means. A class that shrinks as fast as the whole leaves it as it was.

```{image} spread.png
:alt: MAP@R against the spread of the classes searched, a panel for each task, a line for each width
```

*MAP@R by distance against the spread of the classes searched. Each line goes from softmax alone (ringed) through
rising weights.*
"""
    rows = []
    for name, task in results["tasks"].items():
        for width in sorted({cell["width"] for cell in task["cells"]}):
            if not all(_has(results, name, width, weight) for weight in (0, 0.03, 1)):
                continue
            row = [task["title"], str(width)]
            for key in ("spread", "unseen_spread", "length"):
                if key == "unseen_spread" and not of_unseen(results, name):
                    row.append("")
                    continue
                shown = [shape(_cell(results, name, width, weight), key) for weight in (0, 0.03, 1)]
                row.append(" → ".join(_three(value) for value in shown))
            rows.append(row)
    columns = ["", "width", "spread of known classes", "spread of unseen classes", "length of embeddings"]
    parts = [text.strip()]
    if rows:
        parts += ["", "At weights of 0, 0.03 and 1:", "", *_table(columns, rows), "", *_reasons(results)]
    return "\n".join([*parts, "", *_control(results)])


def _reasons(results: Results) -> list[str]:
    """What the table shows, counted over all its rows wider than 2."""
    rows = [
        (name, width)
        for name, task in results["tasks"].items()
        for width in sorted({cell["width"] for cell in task["cells"]})
        if width > 2 and all(_has(results, name, width, weight) for weight in (0, 0.03, 1))
    ]
    if not rows:
        return []

    def falls(key: str, weight: float, among: list[tuple[str, int]]) -> int:
        return sum(
            shape(_cell(results, name, width, weight), key) < shape(_cell(results, name, width, 0), key)
            for name, width in among
        )

    unseen = [row for row in rows if of_unseen(results, row[0])]
    few = [row for row in unseen if row[0].endswith("-5")]
    ratios = [shape(_cell(results, *row, 0), "length") / shape(_cell(results, *row, 1), "length") for row in rows]
    tight = [row for row in rows if falls("spread", 1, [row])]
    worse = [row for row in tight if _sign(results, *row, 1) == HURTS]
    found = [
        f"**Known classes get tighter**, at a weight of 0.03 in {falls('spread', 0.03, rows)} of {len(rows)} rows "
        f"wider than 2. At a weight of 1 they still are in {len(tight)}, in {len(worse)} of which retrieval is really "
        "worse: to be tight is not enough.",
        f"**All gets short.** At a weight of 1 embeddings wider than 2 are {min(ratios):.0f} to {max(ratios):.0f} "
        "times shorter. A softmax takes products with them, and short ones may leave it too little to tell classes "
        "apart.",
    ]
    if few:
        found.append(
            f"**Unseen classes need not follow.** Where five classes are trained on, a weight of 0.03 makes known "
            f"classes tighter in {falls('spread', 0.03, few)} of {len(few)} rows, and the five others in "
            f"{falls('unseen_spread', 0.03, few)}."
        )
    return [f"- {sentence}" for sentence in found]


def _control(results: Results) -> list[str]:
    """Center loss with centers that stay at the origin."""
    if not results["control"]:
        return []
    control = results["config"]["control"]
    rows = []
    for name, found in results["control"].items():
        for cell in found["cells"]:
            center = _cell(results, name, control["width"], cell["weight"])
            row = [results["tasks"][name]["title"], _number(cell["weight"])]
            for metric in (MAP, "accuracy"):
                row.append(f"{_cell(results, name, control['width'], 0)['metrics'][metric]['value']:.3f}")
                row.append(f"{cell['metrics'][metric]['value']:.3f}{_p(_against(cell, metric, 'minus_softmax'))}")
                row.append(f"{center['metrics'][metric]['value']:.3f}{_p(_against(cell, metric, 'minus_center'))}")
            rows.append(row)
    head = ["", "weight", *(f"{metric}: {which}" for metric in ("MAP@R", "accuracy")
                            for which in ("softmax", "length only", "center loss"))]  # fmt: skip
    text = f"""
**What acts?** The same with centers that never leave the origin, so that only a pull on the length of embeddings is
left (`{control["loss"]}`), at width {control["width"]}. A star after *length only* is a real difference to softmax
alone, a star after *center loss* one to length only.
"""
    return [text.strip(), "", *_table(head, rows)]


def _against(cell: dict[str, Any], metric: str, key: str) -> float:
    return cell["metrics"][metric][key]["p_corrected"]


def _leading(results: Results) -> str:
    """The leading losses on each task that has them."""
    leading = results["config"]["leading"]
    if not results["leading"]:
        return ""
    text = f"""
## Leading losses, tuned alike

Embeddings of {leading["width"]} numbers, batches of {leading["options"]["per_class"]} images of each class, and
{leading["search"]} settings for each loss: the same learning rates for all, and with them scale, margin and weight of
center loss where there are any, judged on a quarter of the training classes.
"""
    given = leading["options"].get("lr", TrainConfig().rate)  # and Halton's points up to four times more and less
    rates = [given * 4 ** (2 * place - 1) for place in (0.5, 0.25, 0.75, 0.125, 0.625)[: leading["search"]]]
    lines = [
        f"{text.strip()} Learning rates from {min(rates):.3g} to {max(rates):.3g} were tried: where the largest was "
        "chosen, a larger one may do better. Each setting was tried with one seed, and all its numbers move at once, "
        "so that few were seen: a chosen one need not be better than the one given."
    ]
    for name, found in results["leading"].items():
        rows = []
        for row in found["rows"]:
            if row["error"]:
                rows.append([f"`{row['loss']}`", "failed", row["error"], ""])
                continue
            low, high = row["interval"] if over_classes(found) else (min(row["of_seeds"]), max(row["of_seeds"]))
            behind = row["behind_the_best"]
            chosen = f"`{row['chosen']['loss']}`, learning rate {row['chosen']['lr']:g}"
            star = _p(behind["p_corrected"]) if behind and over_classes(found) else ""
            distance = "" if behind is None else f"{behind['difference']:.3f}{star}"
            rows.append([f"`{row['loss']}`", f"{row['value']:.3f} ({low:.3f} … {high:.3f})", distance, chosen])
        lines += ["", f"**{results['tasks'][name]['title']}**, raw pixels {found['pixels']:.3f}", ""]
        head = f"MAP@R by cosine, {'interval' if over_classes(found) else 'lowest and highest seed'}"
        lines += _table(["loss", head, "behind the best", "setting chosen"], rows)
        lines += ["", found["verdict"] if over_classes(found) else _retracted(results, name)]
    return "\n".join(lines)


def _retracted(results: Results, name: str) -> str:
    """What can still be said of leading losses that were judged over images, whose values are gone."""
    found, width = results["leading"][name], results["config"]["leading"]["width"]
    rows = [row for row in found["rows"] if not row["error"]]
    stars = [f"`{row['loss']}`" for row in rows if row["behind_the_best"] and row["behind_the_best"]["is_real"]]
    text = "Nothing is tested here. "
    if stars:
        text += f"This page once called the distances to {_listed(stars)} real, and had intervals; both were "
    else:
        text += "This page once had intervals here, which were "
    text += (
        "over images, as if no other classes could have been searched, and are retracted. The values of each image "
        "were not kept, so that they cannot be had over classes"
    )
    if _has(results, name, width, 0.03):
        metric = _cell(results, name, width, 0.03)["metrics"][MAP]
        (low, high), (less, more) = metric["interval"], metric["minus_softmax"]["interval"]
        text += (
            f". For scale: at this width the interval of one cell below, over classes, reaches {(high - low) / 2:.3f} "
            f"to either side, and that of a difference between two cells {(more - less) / 2:.3f}"
        )
        near = [row for row in rows if row["behind_the_best"]]
        far = [f"`{row['loss']}`" for row in near if row["behind_the_best"]["difference"] > 2 * (more - less)]
        if far:
            text += f". The distances to {_listed(far)} are more than four times that"
    return text + "."


def _again(results: Results) -> str:
    """Cells that were trained twice."""
    if not results["again"]:
        return ""
    seeds = results["config"]["again"]["seeds"]
    rows = []
    for cell in results["again"]:
        for metric, found in cell["metrics"].items():
            task = results["tasks"][cell["task"]]["title"]
            cells = [f"{task}, width {cell['width']}, weight {_number(cell['weight'])}", METRICS[metric]]
            for which in ("first", "again"):
                low, high = found[f"{which}_interval"]
                cells.append(f"{found[which]:.3f} ({low:.3f} … {high:.3f})")
            rows.append([*cells, "yes" if found["agree"] else "no"])
    head = ["cell", "metric", "first", "again", "intervals meet"]
    text = f"""
## Trained once more

Cells trained anew from nothing with seeds {seeds[0]} to {seeds[-1]}, on the same images.
"""
    return "\n".join([text, *_table(head, rows)])


def _how(results: Results) -> str:
    """What was done, so that it can be done again."""
    config = results["config"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    cells = [cell for task in results["tasks"].values() for cell in task["cells"]]
    hours = sum((cell["cpu_seconds"] or 0) * len(config["seeds"]) for cell in cells) / 3600
    return f"""
## How it was done

- **Data.** Digits are those of scikit-learn. MNIST and CIFAR-10: parts of their training images; all 10 classes
  known, or 5 trained on and the other 5 searched. Omniglot: characters of the background set trained on, of the
  evaluation set searched. Faces: people of CelebA trained on, of LFW searched and verified, by a
  `tf_efficientnet_lite0` that begins with weights of ImageNet. All others train the `convnet` of `pml-center` from
  nothing. Images are shrunk to the sides in `config.yaml`, and few are taken: nothing here compares with published
  figures of these data sets.
- **Equal.** All cells of a task have the same images, epochs, schedule, batches of {config["options"]["batch_size"]}
  and learning rate. It is the default of `train`, {TrainConfig().rate:g}, but for faces 0.003: of 0.0005, 0.002, 0.004
  and 0.008, tried with softmax alone on people taken from those trained on, the two in the middle were best, which
  favours softmax. Nothing else was tuned in the cells of weights and widths. The last epoch counts. One learning rate
  for all weights may be unfair to some, and so may a training this short: centers begin at the origin, and a large
  weight pulls all embeddings there before the centers have moved.
- **Known and unseen.** Each run is measured twice: its softmax classifies other images of the classes trained on, and
  images of unseen classes search their like. Where a task has all 10 classes, the known images are searched.
- **Sure.** Intervals are of 95 % over seeds and images, or seeds and classes where these are unseen
  ({{py:func}}`~pml_center.evaluation.runs_interval`), tests against softmax alone at the same width
  ({{py:func}}`~pml_center.evaluation.paired_runs_test`). p-values are corrected by Holm's method for all widths and
  weights of a metric in a task; below 0.05 a difference is called real. Five unseen digits are five. Those of
  *What acts?* are corrected for its weights alone.
- **Limits.** All images but those of CIFAR-10 are grey. Faces of CelebA whose label a face network doubts are left
  out. The spread of a class of few images is too small, so that columns of known and unseen classes do not compare.
- **Cost.** {hours:.1f} hours of one core for the cells below, on {results["machine"]}, with other work beside it;
  {versions}.

`{results["command"]}` trains all of it, goes on where it stopped, and writes this page. `data` holds the data sets as
they are published: `mnist/`, `omniglot/`, `cifar10_subset/`, `celeba_faces/`, `lfw/`, `weights/`. With `--page` it
writes the page anew from `results.json`, where the commands of all comparisons stand.
"""


def _listed(values: list[Any]) -> str:
    *rest, last = map(str, values)
    return f"{', '.join(rest)} and {last}" if rest else last
