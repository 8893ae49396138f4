"""Guards: what must stay true of the whole repository. Each counts what it looked at, so that it cannot go blind."""

import ast
import fnmatch
import functools
import inspect
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses, regularizers
from tests.cases import CASES
from tests.regularizer_cases import REGULARIZER_CASES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pml_center"
ABSTRACT = {"BaseSoftmaxLoss", "BaseCenterLoss"}
FINAL = sorted(set(losses.__all__) - ABSTRACT)
HOOKS = {
    "__init__",
    "target_cosine",
    "negative_margin",
    "logit_scale",
    "observe",
    "normalizes",
    "negative_threshold",
    "combine",
    "penalty",
    "resize_classes",
    "prototypes",
    "element_losses",
    "losses_of_both",
}
OTHER_PARAMETERS = {"P2SGradLoss"}  # PML has (descriptors_dim, num_classes) here and nowhere else
DECLARED = {
    "default_gradient",
    "from_pml_units",
    "margin_unit",
    "per_class",
    "pml_weight",
    "takes_lengths",
    "tuned",
}  # constants and read-only properties that a paper may state beside the hooks

each_final_loss = pytest.mark.parametrize("name", FINAL)


each_regularizer = pytest.mark.parametrize("name", regularizers.__all__)


def subclasses(kind):
    """All of them, at any depth, that the package defines."""
    below = [each for direct in kind.__subclasses__() for each in (direct, *subclasses(direct))]
    return [each for each in below if each.__module__.startswith("pml_center.")]


def test_losses_were_found():
    assert len(FINAL) >= 5
    assert set(losses.__all__) > ABSTRACT


@each_final_loss
def test_a_loss_has_a_paper_to_cite(name):
    entries = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    assert re.search(rf"keywords = {{.*\b{name}\b.*}}", entries), f"docs/references.bib has no entry of {name}"


@each_final_loss
def test_a_loss_has_a_case(name):
    assert getattr(losses, name) in {case.loss for case in CASES}, f"tests/cases.py has no case of {name}"


@each_final_loss
def test_a_loss_has_a_row_in_the_readme_and_a_page_in_the_docs(name):
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{name}` \| .*\| (yes|no) \|$", table, re.MULTILINE)
    assert row, f"README.md has no row for {name}"
    assert (row[1] == "yes") == hasattr(pml_losses, name)
    assert (ROOT / "docs" / "losses" / f"{name}.md").is_file(), f"docs/losses has no {name}.md"


def test_the_docs_have_no_other_losses():
    assert sorted(path.stem for path in (ROOT / "docs" / "losses").glob("*.md")) == FINAL


def test_the_readme_has_no_other_losses():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == FINAL


@each_final_loss
@pytest.mark.parametrize("section", ["Args:", "Shape:", "Raises:", "Example:", "Source:"])
def test_a_loss_says_what_a_reader_looks_for(name, section):
    assert re.search(rf"^{section}", inspect.getdoc(getattr(losses, name)), re.MULTILINE)


@each_final_loss
def test_a_loss_has_no_subclass(name):
    assert not subclasses(getattr(losses, name)), f"{name} is final; share a function of ops instead"


def test_regularizers_were_found():
    assert len(regularizers.__all__) >= 4
    assert all(name.endswith("Regularizer") for name in regularizers.__all__)


@each_regularizer
def test_a_regularizer_is_documented_and_tested(name):
    kind = getattr(regularizers, name)
    for section in ["Args:", "Shape:", "Example:", "Source:"]:
        assert re.search(rf"^{section}", inspect.getdoc(kind), re.MULTILINE), f"{name} has no section {section}"
    page = (ROOT / "docs" / "regularizers.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. autoclass:: {name}$", page, re.MULTILINE), f"docs/regularizers.md has no {name}"
    entries = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    assert re.search(rf"keywords = {{.*\b{name}\b.*}}", entries), f"docs/references.bib has no entry of {name}"
    assert kind in {case.regularizer for case in REGULARIZER_CASES}, f"tests/regularizer_cases.py has no case of {name}"
    assert not subclasses(kind), f"{name} is final; share a function of ops instead"


def test_a_softmax_loss_overrides_nothing_but_the_hooks():
    papers = subclasses(losses.BaseSoftmaxLoss)
    for paper in papers:
        own = {name for name in vars(paper) if name == "__init__" or not name.startswith("__")} - {"_abc_impl"}
        assert own <= HOOKS | DECLARED, f"{paper.__name__}: {own - HOOKS - DECLARED}"
    assert len(papers) >= 4


CENTER_HOOKS = {
    "__init__",
    "pull",
    "spread",
    "default_init",
    "takes_any_distance",
    "only_pulls",
    "per_class",
    "reaches_all_centers",
    "own_centers",
    "losses_of_both",
    "class_rows",
    "get_default_distance",
    "tuned",
}


def test_a_center_loss_overrides_nothing_but_the_hooks():
    papers = subclasses(losses.BaseCenterLoss)
    for paper in papers:
        own = {name for name in vars(paper) if not name.startswith("_")} - {"get_logits", "predict"}
        assert own <= CENTER_HOOKS, f"{paper.__name__}: {own - CENTER_HOOKS}"
    assert len(papers) >= 2


def parameters(kind):
    """Those with a name, and their defaults."""
    named = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def test_a_loss_with_the_name_of_one_of_pml_has_its_parameters_and_defaults():
    shared = [name for name in FINAL if hasattr(pml_losses, name) and name not in OTHER_PARAMETERS]
    for name in shared:
        ours, theirs = parameters(getattr(losses, name)), parameters(getattr(pml_losses, name))
        assert ours | theirs == ours, f"{name}: PML has {theirs}, we have {ours}"
    assert len(shared) >= 3


def imports(tree):
    """Every module that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# The house, from the ground up. A module imports its own room and rooms of lower floors, none above and none beside it.
HOUSE = [
    {"names": "which names there are, where each lives, what to say of one that does not exist"},
    {
        "__init__": "the version, and where public names live",
        "checks": "rules for what a caller gives, with a remedy",
        "ops": "the mathematics of losses, on tensors alone",
    },
    {
        "arrays": "embeddings and labels, from whatever holds them",
        "decoding": "images, from whatever holds them",
        "text_files": "lists and tables, from whatever wrote them",
        "notebooks": "bars and tables where no terminal is",
        "distributed": "several processes that hold the joined batch",
    },
    {
        "losses": "a file for each paper",
        "regularizers": "a file for each paper",
        "data": "images, splits and batches",
        "backbones": "networks that embed",
        "plots": "drawings of numbers",
        "evaluation.search": "the nearest neighbours",
    },
    {"evaluation": "metrics, and reports of them"},
    {"pages": "reports as HTML"},
    {"training": "runs"},
    {"comparison": "runs held against each other"},
    {"cli": "the command line"},
    {"__main__": "python -m pml_center"},
]
# And two wings that know nothing of each other: a loss is what it is wherever images come from, however it is measured.
WINGS = [
    {"losses", "regularizers"},
    {"data", "backbones", "plots", "evaluation.search", "evaluation", "pages"},
]


def modules_of(package):
    """The syntax tree of every module of a package, by its name."""
    paths = sorted(package.rglob("*.py"))
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in paths]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return dict(zip([name.removesuffix(".__init__") for name in names], trees, strict=True))


def addresses(tree):
    """Where names live that a public face forwards to; an address is no import, and may point upward."""
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_HOMES"]
    ]
    return {name: home for table in tables for name, home in ast.literal_eval(table).items()}


def arrows(modules):
    """The modules of the package that each imports, be it in a function, for types or by an address."""
    homes = {f"{face}.{name}": home for face, tree in modules.items() for name, home in addresses(tree).items()}
    return {name: set(targets(tree, modules, homes)) - {name} for name, tree in modules.items()}


def targets(tree, modules, homes):
    package = next(iter(modules))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports are absolute: {ast.unparse(node)}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [homes.get(name, name if name in modules else node.module) for name in names]
        else:
            continue
        own = [name for name in found if is_below(name, [package])]
        assert modules.keys() >= set(own), f"no such module: {ast.unparse(node)}"
        yield from own


def wrong_ways(arrows, house, wings):
    """Every import that does not run downward, or runs from wing to wing."""
    floors = {room: floor for floor, rooms in enumerate(house) for room in rooms}
    wing = {room: number for number, rooms in enumerate(wings) for room in rooms}

    def room_of(module):
        name = module.partition(".")[2] or "__init__"
        rooms = [room for room in floors if is_below(name, [room])]
        assert rooms, f"{module} has no room in the house"
        return max(rooms, key=len)

    for module, imported in arrows.items():
        here = room_of(module)
        for target in imported:
            there = room_of(target)
            is_apart = {here, there} <= wing.keys() and wing[here] != wing[there]
            if here != there and (floors[there] >= floors[here] or is_apart):
                yield f"{module} imports {target}"


def cycle(arrows):
    """Modules of which each imports the next, as far as to itself; none is found in a sound package."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def test_imports_run_downward_and_never_in_a_circle():
    found = arrows(modules_of(PACKAGE))
    wrong, circle = list(wrong_ways(found, HOUSE, WINGS)), cycle(found)
    assert not wrong
    assert not circle


def test_every_room_and_every_import_was_looked_at():
    found = arrows(modules_of(PACKAGE))
    assert len(found) == len(list(PACKAGE.rglob("*.py"))) >= 100
    assert sum(map(len, found.values())) >= 300
    rooms = [room for floor in HOUSE for room in floor]
    inside = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*")}
    assert len(set(rooms)) == len(rooms)
    assert set(rooms) <= inside
    assert set().union(*WINGS) <= set(rooms)


def test_an_address_is_that_of_a_public_name_which_is_there():
    modules = modules_of(PACKAGE)
    faces = {name: addresses(tree) for name, tree in modules.items() if addresses(tree)}
    for face, homes in faces.items():
        assert (PACKAGE.parent / face.replace(".", "/") / "__init__.py").is_file(), f"{face} is no public face"
        assert homes.keys() <= set(import_module(face).__all__)
        assert all(is_below(home, ["pml_center"]) for home in homes.values())
        assert all(hasattr(import_module(face), name) for name in homes)
    assert sum(map(len, faces.values())) >= 15
    imported = {name: set(imports(tree)) for name, tree in modules.items()}
    assert {name for name in imported if "pml_center.names.forwarded" in imported[name]} == faces.keys()
    assert {name for name in imported if "importlib.import_module" in imported[name]} == {"pml_center.names"}


MADE_UP = {
    "__init__.py": "_HOMES = {'late': 'made.top.late'}",
    "ground.py": "",
    "left/__init__.py": "_HOMES = {'early': 'made.top.late'}",
    "left/lazy.py": "def work():\n    from made.top import late",
    "left/typed.py": "if TYPE_CHECKING:\n    from made.top.late import Late",
    "left/addressed.py": "from made.left import early",
    "left/sound.py": "import torch\nfrom made.ground import stone\nfrom made.left import lazy",
    "right/__init__.py": "",
    "right/apart.py": "import made.left.sound",
    "right/beside.py": "from made.right import apart",
    "right/deep/__init__.py": "from made.right.beside import apart",
    "top/__init__.py": "",
    "top/late.py": "from made import left, right\nfrom made.top import one",
    "top/one.py": "from made.top.two import two",
    "top/two.py": "def two():\n    from made.top import late",
}


def made_up(folder, **changes):
    for name, text in (MADE_UP | changes).items():
        (folder / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "made" / name).write_text(text, encoding="utf-8")
    return arrows(modules_of(folder / "made"))


def test_the_guard_of_imports_sees_what_it_is_there_for(tmp_path):
    house = [{"ground": "", "__init__": ""}, {"right.deep": ""}, {"left": "", "right": ""}, {"top": ""}]
    found = made_up(tmp_path)
    assert set(wrong_ways(found, house, [{"left"}, {"right"}])) == {
        "made.left.lazy imports made.top.late",
        "made.left.typed imports made.top.late",
        "made.left.addressed imports made.top.late",
        "made.right.apart imports made.left.sound",
        "made.right.deep imports made.right.beside",
    }
    house[1:3] = [{"left": ""}, {"right": "", "right.deep": ""}]
    assert "made.right.apart imports made.left.sound" not in set(wrong_ways(found, house, []))
    assert "made.right.apart imports made.left.sound" in set(wrong_ways(found, house, [{"left"}, {"right"}]))
    circle = cycle(found)
    assert circle[0] == circle[-1]
    assert set(circle) == {"made.top.late", "made.top.one", "made.top.two"}
    assert not cycle(made_up(tmp_path, **{"top/two.py": ""}))
    with pytest.raises(AssertionError, match=r"made.top.late has no room in the house"):
        list(wrong_ways(found, house[:-1], []))
    with pytest.raises(AssertionError, match=r"imports are absolute: from \. import late"):
        made_up(tmp_path, **{"top/two.py": "from . import late"})
    with pytest.raises(AssertionError, match=r"no such module: import made.gone"):
        made_up(tmp_path, **{"top/two.py": "import made.gone"})


ALLOWED = {
    "ops": ["torch", "pml_center.ops"],
    "losses": ["torch", "pytorch_metric_learning", "pml_center"],
    "regularizers": ["torch", "pytorch_metric_learning", "pml_center"],
}


@pytest.mark.parametrize("room", ALLOWED)
def test_ops_import_torch_and_losses_pml_and_nothing_else(room):
    modules = {name: tree for name, tree in modules_of(PACKAGE).items() if is_below(name, [f"pml_center.{room}"])}
    allowed = [*sys.stdlib_module_names, *ALLOWED[room]]
    for name, tree in modules.items():
        assert not [module for module in set(imports(tree)) - {"pml_center"} if not is_below(module, allowed)], name
    assert len(modules) >= 4


def test_what_is_proven_on_one_device_holds_on_all():
    """Losses ask whether a tensor is on the CPU, and nothing else: ``tests/losses/test_waiting.py`` has no GPU."""
    rooms = [path for room in ALLOWED for path in sorted((PACKAGE / room).rglob("*.py"))]
    for path in [*rooms, PACKAGE / "checks.py"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'\bis_(cuda|meta|mps|xpu)\b|\.type [!=]= "(?!cpu")', text), path
    assert len(rooms) >= 60


def test_nobody_imports_the_command_line():
    modules = {name: tree for name, tree in modules_of(PACKAGE).items() if not is_below(name, ["pml_center.cli"])}
    modules.pop("pml_center.__main__")
    for name, tree in modules.items():
        assert not [module for module in imports(tree) if is_below(module, ["pml_center.cli"])], name
    assert len(modules) >= 30


@functools.cache
def loaded_by(module):
    """The top-level modules in memory after one import, in a process of its own."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


HELP = [
    "pml_center",
    "pml_center.training",
    *(f"pml_center.cli.{name}" for name in ("data", "eval", "embed", "search")),
]


@pytest.mark.parametrize("module", HELP)  # the command line reads its help from these
def test_the_package_loads_nothing_heavy(module):
    loaded = loaded_by(module)
    assert "pml_center" in loaded
    assert not loaded & {"torch", "numpy", "pytorch_metric_learning", "timm", "faiss", "matplotlib", "sklearn"}


@pytest.mark.parametrize("module", ["pml_center.losses", "pml_center.regularizers"])
def test_the_losses_load_no_more_than_pml_does(module):
    loaded = loaded_by(module)
    assert "pytorch_metric_learning" in loaded
    assert not loaded & {"timm", "torchvision", "faiss", "matplotlib", "cyclopts", "sklearn"}
    pml = loaded_by("pytorch_metric_learning.losses, pytorch_metric_learning.distances")
    assert loaded - pml - sys.stdlib_module_names == {"pml_center"}


def test_the_top_level_is_what_a_reader_expects():
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    names = [path.name for path in ROOT.iterdir() if not path.name.startswith(".")]
    names = {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}
    assert names == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "pml_center",
        "tests",
        "examples",
        "docs",
    }


def test_nothing_is_left_to_do():
    folders = ("pml_center", "tests", "examples", "docs", ".ci")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    texts = [path for path in files if path.suffix in (".py", ".md", ".txt", "") and "_build" not in path.parts]
    for path in [ROOT / "README.md", ROOT / "pyproject.toml", *texts]:
        assert not re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", path.read_text(encoding="utf-8")), path
    assert len(texts) >= 60
