"""One page a loss from one template, and the table of all: what a person wrote, around it what the code says itself.

``losses/ArcFaceLoss.md`` holds what nobody but a person can write: when to use the loss, its formula, what the symbols
are called in code, and where people go wrong. All else on the page is read from the package and from
``references.bib``.
"""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses
from pml_center.names import constructor_parameters
from pml_center.training.loss_catalog import FAMILIES as ALL_FAMILIES
from pml_center.training.loss_catalog import TRIAL, LossDescription, describe_loss, shapes, written_summary

DOCS = Path(__file__).resolve().parents[1]
FAMILIES = tuple(family.split()[0] for family in ALL_FAMILIES[:3])  # the last is PML's own
NAMES = [name for name in losses.__all__ if not name.startswith("Base")]
TEMPLATE = Environment(
    loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
)
MARGINS = [  # the names that margins go by; a loss has those of one row
    ["m1", "m2", "m3"],
    ["least_margin", "added_margin"],
    ["factor", "least_margin"],
    ["lower_margin", "upper_margin"],
    ["initial_margin"],
    ["margin"],
]


@dataclass(frozen=True)
class Loss:
    """What the package knows about a loss, in the words of the site.

    Args:
        name: of the class.
    """

    name: str

    @property
    def kind(self) -> type:
        """The class."""
        return getattr(losses, self.name)

    @cached_property
    def description(self) -> LossDescription:
        """What it says of itself."""
        return describe_loss(self.name)

    @property
    def summary(self) -> str:
        """A line: what the paper calls it, and what it does."""
        return written_summary(self.kind)

    @property
    def family(self) -> str:
        """Which of ``FAMILIES`` it belongs to."""
        return self.description.family.split()[0]

    @cached_property
    def parameters(self) -> dict[str, tuple[type, inspect.Parameter]]:
        """All of its arguments, those that it shares with others too."""
        return constructor_parameters(self.kind)

    @property
    def arguments(self) -> dict[str, Any]:
        """Its own arguments and their defaults, not those of all."""
        own, _ = next(iter(self.parameters.values()))
        return {
            name: parameter.default
            for name, (base, parameter) in self.parameters.items()
            if base is own and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        }

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of its arguments that have one."""
        return {name: value for name, value in self.arguments.items() if value is not inspect.Parameter.empty}

    def build(self, **sizes: int):
        """The loss at its defaults, for ten classes and an embedding of 32 where nothing else is said."""
        sizes = {"num_classes": 10, "embedding_size": 32, "class_counts": 180} | sizes
        return self.kind(**{name: value for name, value in sizes.items() if name in self.arguments})

    @property
    def takes_references(self) -> bool:
        """Whether it compares two sets of embeddings."""
        return self.kind.takes_references

    @property
    def small(self):
        """The loss with sizes that tell one from the other."""
        return self.build(**TRIAL, class_counts=3)

    @property
    def learned(self) -> str:
        """Its parameters."""
        return in_letters(self.small.named_parameters())

    @property
    def state(self) -> str:
        """What else is saved: its buffers and counts."""
        learned = dict(self.small.named_parameters())
        return in_letters((name, value) for name, value in self.small.state_dict().items() if name not in learned)

    @property
    def margins(self) -> list[str]:
        """Names of its margins."""
        return next((names for names in MARGINS if set(names) <= set(self.defaults)), [])

    @property
    def margin(self) -> str:
        """Its margins and their defaults; where that is None, what becomes of it."""
        values = {name: self.defaults[name] for name in self.margins}
        values = {name: getattr(self.small, name) if value is None else value for name, value in values.items()}
        return ", ".join(f"`{name}={value}`" for name, value in values.items())

    @property
    def unit(self) -> str:
        """What the margin is measured in at the defaults, by the words of its docstring."""
        if not self.margins:
            return ""
        meaning = next(argument.meaning for argument in self.description.arguments if argument.name == self.margins[0])
        found = re.search("degree|radian(?!s where)|half squared|squared|cosine", meaning)
        units = {"degree": "degrees", "radian": "radians", "cosine": "cosine"}
        units |= {"half squared": "half a squared length", "squared": "squared length"}
        return units[found[0]] if found else ""

    @property
    def memory(self) -> str:
        """Beyond the gradient."""
        if "chunk_size" in self.parameters:
            return "O(B · chunk)"
        return "O(B · D)" if self.family == "center" else "O(B² + B · D)"

    @property
    def normalizes(self) -> bool:
        """Whether only directions count."""
        return getattr(self.kind, "normalizes", False)

    @property
    def in_pml(self) -> bool:
        """Whether PML has a class of this name."""
        return hasattr(pml_losses, self.name)

    @property
    def citations(self) -> list[str]:
        """Its entries of ``references.bib``."""
        found = [entry for entry in bibliography() if re.search(rf"keywords = {{.*\b{self.name}\b.*}}", entry)]
        return [re.sub(r",\n  keywords = {.*}", "", entry) for entry in found]  # our own, and no one else's

    @property
    def paper(self) -> str:
        """Authors, year and link, of the first entry."""
        entry = self.citations[0]
        field = dict(re.findall(r"^  (\w+) = {(.*)},?$", entry, re.M))
        names = [author.partition(",")[0] for author in field["author"].split(" and ")]
        authors = " and ".join(names) if len(names) <= 2 and "others" not in names else f"{names[0]} et al."
        text = f"{authors}, {field['year']}"
        url = f"https://arxiv.org/abs/{field['eprint']}" if "eprint" in field else field.get("url")
        return f"[{text}]({url})" if url else text


def in_letters(tensors: Iterable[tuple[str, Any]]) -> str:
    """Names and shapes of tensors, such as ```class_weights.weight` (C, D)``."""
    texts = []
    for name, sizes in shapes(tensors).items():
        shape = ", ".join(sizes).replace("num_classes", "C").replace("embedding_size", "D").replace("·", " ")
        texts.append(f"`{name}`" + (f" ({shape})" if shape else ""))
    return ", ".join(texts)


@cache
def bibliography() -> tuple[str, ...]:
    """The entries of the file, as they stand."""
    text = (DOCS / "references.bib").read_text(encoding="utf-8")
    return tuple(re.findall(r"^@.*?^}$", text, re.M | re.S))


@cache
def split(text: str) -> tuple[dict, str, str]:
    """A written page: what it says in its head, the formula, and the pitfalls."""
    _, head, body = text.split("---\n", 2)
    formula, _, pitfalls = re.sub(r"^# .*\n", "", body.strip()).partition("## Pitfalls\n")
    nothing = {"weight": None, "needs": None, "elsewhere": None, "first_choice": False, "symbols": {}}
    return nothing | yaml.safe_load(head), formula.strip(), pitfalls.strip()


def written(name: str) -> str:
    """The page that a person wrote."""
    return (DOCS / "losses" / f"{name}.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    """The whole page, Markdown."""
    head, formula, pitfalls = split(written(name))
    template = TEMPLATE.get_template("loss.md.jinja")
    return template.render(loss=Loss(name), head=head, formula=formula, pitfalls=pitfalls)


@cache  # every page asks, and builds all losses
def table(family: str) -> str:
    """All losses of a family, a row each."""
    columns = "loss", "paper", "what it does", "use it when", "needs", "learned", "memory", "margin", "in PML"
    rows = [columns, ["---"] * len(columns)]
    for loss in map(Loss, NAMES):
        if loss.family != family:
            continue
        head, _, _ = split(written(loss.name))
        star = "★ " if head["first_choice"] else ""
        what = loss.summary.partition(": ")[2].rstrip(".") or loss.summary.rstrip(".")
        rows.append(
            [
                f"{star}[{loss.name.removesuffix('Loss')}](losses/{loss.name}.md)",
                loss.paper,
                what,
                head["use"],
                head["needs"] or "labels",
                loss.learned or "nothing",
                loss.memory,
                f"{loss.margin} {loss.unit}".strip() or "none",
                "yes" if loss.in_pml else "no",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def read_source(app, name, source):
    """Sphinx's event: a page was read from its file."""
    folder, _, loss = name.rpartition("/")
    if folder == "losses" and loss in NAMES:
        source[0] = page(loss)
    for family in FAMILIES:
        source[0] = source[0].replace(f"<!-- table of the {family} family -->", f"{{.loss-table}}\n{table(family)}")


def setup(app):
    """Sphinx's hook."""
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True}
