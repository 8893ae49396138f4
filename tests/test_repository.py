"""Guards: what must stay true of the whole repository. Each counts what it looked at, so that it cannot go blind."""

import ast
import fnmatch
import inspect
import re
import subprocess
import sys
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
}
OTHER_PARAMETERS = {"P2SGradLoss"}  # PML has (descriptors_dim, num_classes) here and nowhere else
DECLARED = {
    "default_gradient",
    "from_pml_units",
    "takes_lengths",
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
        own = {name for name in vars(paper) if name == "__init__" or not name.startswith("__")}
        assert own <= HOOKS | DECLARED, f"{paper.__name__}: {own - HOOKS - DECLARED}"
    assert len(papers) >= 4


CENTER_HOOKS = {
    "__init__",
    "pull",
    "spread",
    "default_init",
    "takes_any_distance",
    "only_pulls",
    "reaches_all_centers",
    "own_centers",
    "class_rows",
    "get_default_distance",
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


def imports(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


LAYERS = {
    "losses": [
        "pml_center.regularizers",
        "pml_center.evaluation",
        "pml_center.training",
        "pml_center.backbones",
        "pml_center.data",
        "timm",
        "faiss",
    ],
    "regularizers": [
        "pml_center.losses",
        "pml_center.evaluation",
        "pml_center.training",
        "pml_center.backbones",
        "pml_center.data",
        "timm",
        "faiss",
    ],
    "evaluation": ["pml_center.losses", "pml_center.regularizers", "pml_center.training"],
    "data": ["pml_center.losses", "pml_center.regularizers", "pml_center.training", "pml_center.evaluation"],
}


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_run_downward(folder):
    files = sorted((PACKAGE / folder).glob("**/*.py"))
    for path in files:
        assert not [module for module in imports(path) if is_below(module, LAYERS[folder])], path
    assert len(files) >= 4


def test_ops_imports_torch_and_nothing_else():
    files = sorted((PACKAGE / "ops").glob("**/*.py"))
    allowed = [*sys.stdlib_module_names, "torch", "pml_center.ops"]
    for path in files:
        foreign = [module for module in imports(path) if not is_below(module, allowed) and module != "pml_center"]
        assert not foreign, path
    assert len(files) >= 4


def test_nobody_imports_the_command_line():
    files = [path for path in sorted(PACKAGE.glob("**/*.py")) if path.parent.name != "cli" and path.stem != "__main__"]
    for path in files:
        assert not [module for module in imports(path) if is_below(module, ["pml_center.cli"])], path
    assert len(files) >= 30


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
    assert names == {"pyproject.toml", "README.md", "LICENSE", "pml_center", "tests", "examples", "docs"}


def test_nothing_is_left_to_do():
    folders = ("pml_center", "tests", "examples", "docs", ".ci")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    texts = [path for path in files if path.suffix in (".py", ".md", ".txt", "") and "_build" not in path.parts]
    for path in [ROOT / "README.md", ROOT / "pyproject.toml", *texts]:
        assert not re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", path.read_text(encoding="utf-8")), path
    assert len(texts) >= 60
