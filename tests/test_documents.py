"""Every block of code in the documents runs, every example runs, and the site builds without a warning."""

import importlib
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.pyplot as plt
import pytest
from filelock import FileLock
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import pml_center.ops
from pml_center.cli import main
from pml_center.data import digits
from pml_center.training import demonstration
from pml_center.training.loss_formula import parse_loss

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "extensions"))

import gallery_order  # noqa: E402, of the documents
import loss_pages  # noqa: E402
import loss_pictures  # noqa: E402
import mathml  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = [page for page in PAGES if page.stem not in loss_pages.NAMES]  # a template makes the others
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

INSTALL_AND_RUN = "python -m pip install -e . && pml-center demo"
INSTALL_AND_TEST = 'python -m pip install -e ".[dev]" && python -m pytest'
# Known by their form: `.ci/run` installs and tests in an environment of its own, a test below builds the site.
STATED = ("python -m pip install -e .", 'python -m pip install -e ".[dev]"', "python -m pytest")
STATED += ("python -m sphinx -W docs docs/_build", "python -m sphinx -b linkcheck docs docs/_build/links")
NUMBER = r"\d+\.\d+"
# Fences that Sphinx builds. Any other language than these, python, bash and text would be code that no test has run.
DIRECTIVES = {
    "{eval-rst}",
    "{image}",
    "{include}",
    "{literalinclude}",
    "{loss-picture}",
    "{survey-picture}",
    "{toctree}",
}
INTERNAL = {
    "__main__",
    "arrays",
    "checks",
    "cli",
    "comparison",
    "names",
    "pages",
    "decoding",
    "text_files",
    "notebooks",
}  # the command line has a page of its own
PUBLIC = [module.name for module in pkgutil.iter_modules(pml_center.__path__) if module.name not in INTERNAL]
PUBLIC = ["pml_center", *(f"pml_center.{name}" for name in PUBLIC)]
PUBLIC += [f"pml_center.ops.{module.name}" for module in pkgutil.iter_modules(pml_center.ops.__path__)]


def languages(text):
    """What stands behind the backticks that open each fence."""
    lines = re.findall(r"^\s*(?:```+|~~~+)(.*)$", text, re.MULTILINE)
    assert len(lines) % 2 == 0
    assert not any(lines[1::2])
    return lines[::2]


def run_commands(example):
    """Run the commands of ours, in this process; know the others by their form."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        for is_and, command in groupby(words, key=lambda word: word == "&&"):
            command = list(command)
            if is_and:
                continue
            if command[0] == "pml-center":
                main(command[1:])
            else:
                assert command in list(map(shlex.split, STATED)), f"{line!r} is in no test"


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A working directory with ``photos``, a folder of images, which the documents speak of."""
    data = digits()
    for i in range(0, len(data), 18):
        image, label = data[i]
        path = tmp_path / "photos" / f"digit {data.classes[label]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt.switch_backend("Agg")
    yield tmp_path
    plt.close("all")


@pytest.fixture
def in_short(monkeypatch, sketched, few_digits):
    """What takes a user a minute: a third of the digits, and two epochs of the demonstration."""
    train = demonstration.train_with_each_weight
    monkeypatch.setattr(demonstration, "train_with_each_weight", lambda epochs, seed: train(min(epochs, 2), seed))


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.stem)
def test_every_block_of_code_runs(page, somewhere, in_short, capsys):
    def check_printed(example):
        """What the code above prints, but for the last digits of numbers."""
        printed = capsys.readouterr().out.splitlines()[-len(example.parsed.splitlines()) :]
        for line, expected in zip(printed, example.parsed.splitlines(), strict=True):
            assert re.sub(NUMBER, "", line) == re.sub(NUMBER, "", expected)
            found, wanted = (list(map(float, re.findall(NUMBER, text))) for text in (line, expected))
            assert found == pytest.approx(wanted, abs=0.05)

    evaluators = {"bash": run_commands, "text": check_printed}
    parsers = [CodeBlockParser(language=name, evaluator=evaluate) for name, evaluate in evaluators.items()]
    blocks = list(Sybil(parsers=[PythonCodeBlockParser(), *parsers]).parse(page).examples())
    written = languages(page.read_text(encoding="utf-8"))
    assert len(blocks) == sum(language in ("python", *evaluators) for language in written)
    assert {language.split()[0] for language in written} <= {"python", *evaluators} | DIRECTIVES
    for block in blocks:
        block.evaluate()


def test_documents_were_found():
    fences = [language for page in PAGES for language in languages(page.read_text(encoding="utf-8"))]
    assert len(PAGES) >= 8
    assert fences.count("python") >= 6
    assert fences.count("bash") >= 8
    assert len(EXAMPLES) >= 2


def test_the_two_commands_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [line for line in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "pip" in line]
    assert blocks == [f"{INSTALL_AND_RUN}\n", f"{INSTALL_AND_TEST}\n"]
    assert len(text.splitlines()) < 200


def test_the_entry_to_cite_has_the_version():
    entries = (ROOT / "docs" / "software.bib").read_text(encoding="utf-8")
    assert re.findall(r"version = {(.*)}", entries) == [pml_center.__version__]


def test_every_example_has_its_place_in_the_gallery():
    assert sorted(gallery_order.ORDER) == [example.stem for example in EXAMPLES]


def test_the_check_reads_its_command_from_the_readme():
    shown = subprocess.run([ROOT / ".ci" / "run", "--show"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{INSTALL_AND_TEST}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert all((page.parent / target).is_file() for target in targets), targets


@pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning", "ignore::DeprecationWarning:pytorch_lightning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_example_runs(example, somewhere, capsys):
    assert "__file__" not in example.read_text(encoding="utf-8"), "the gallery has none; take sys.argv[0]"
    try:
        runpy.run_path(str(example), run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.__context__, ImportError):
            raise
        pytest.skip(str(end))
    assert re.search(r"\d\.\d", capsys.readouterr().out), "an example prints the numbers that it speaks of"


@pytest.fixture(scope="module")
def site(tmp_path_factory, worker_id):
    """The built site, from a copy: a build writes the gallery beside its sources. The examples run elsewhere.

    Whichever process comes first builds it for all.
    """
    every = tmp_path_factory.getbasetemp()
    folder = (every if worker_id == "master" else every.parent) / "site"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "html").is_dir():
            build(folder)
    return folder / "html"


def build(folder):
    for name in ("docs", "examples"):
        left_out = shutil.ignore_patterns("_build", "gallery", "pictures")
        shutil.copytree(ROOT / name, folder / name, ignore=left_out, dirs_exist_ok=True)
    shutil.copy(ROOT / "README.md", folder)
    without_pictures = ["-D", "plot_gallery=0", "-D", "loss_pictures=0"]
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *without_pictures, "docs", "building"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (folder / "building").rename(folder / "html")


def public_names():
    """Each public object with all the names that it has."""
    names = {}
    for module in map(importlib.import_module, PUBLIC):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            names.setdefault(id(getattr(module, name)), set()).add(f"{module.__name__}.{name}")
    return list(names.values())


def test_every_public_name_is_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html") if "_modules" not in page.parts)
    documented = set(re.findall(r'id="(?:module-)?(pml_center[\w.]*)"', pages))
    names = public_names()
    missing = [sorted(same) for same in names if not same & documented]
    assert not missing
    assert len(names) >= 200


def test_sections_of_docstrings_are_read_whole(site):
    page = (site / "losses" / "ArcFaceLoss.html").read_text(encoding="utf-8")
    assert "Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698" in page  # and not a type before the colon


def test_every_page_is_in_the_site(site):
    for page in PAGES[1:]:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    assert all((site / "gallery" / example.name).with_suffix(".html").is_file() for example in EXAMPLES)
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "MultiSimilarityMiner" in home  # included from the README


def test_the_site_needs_no_network(site):
    loaded = r'<(?:script|img|iframe|source|video)\b[^>]*\b(?:src|srcset)="(?:https?:)?//[^"]*'
    loaded += r'|<link\b[^>]*\bhref="(?:https?:)?//[^"]*|(?:url\(|@import)\s*["\']?(?:https?:)?//[^);]*'
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    found = [(path.name, text) for path in pages + styles for text in re.findall(loaded, path.read_text("utf-8"))]
    assert not found
    assert len(pages) >= 80
    assert len(styles) >= 5


def test_links_of_the_site_lead_somewhere(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    count, broken = 0, []
    for page, text in pages.items():
        if "_modules" in page.parts:  # its ways back know one name of a module only
            continue
        for target in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text):
            path, _, anchor = unquote(target).partition("#")
            if urlsplit(target).scheme:
                continue
            linked = (page.parent / path).resolve() if path else page
            count += 1
            if not linked.exists() or (anchor and linked in anchors and anchor not in anchors[linked]):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert not broken
    assert count >= 1000


@pytest.mark.parametrize("name", loss_pages.NAMES)
def test_the_page_of_a_loss_says_what_the_class_is(name, tmp_path):
    text = loss_pages.page(name)
    head, formula, pitfalls = loss_pages.split(loss_pages.written(name))
    loss = loss_pages.Loss(name).build()
    assert head["use"]
    assert "$$" in formula
    assert pitfalls
    for code in head["symbols"].values():
        assert code in loss_pages.Loss(name).parameters or hasattr(loss, code), f"{name} has no {code}"
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert not languages(loss_pages.written(name))
    assert languages(text) == [f"{{loss-picture}} {name}", "python", "{eval-rst}", "bibtex"]
    (program,) = Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples()
    program.evaluate()
    assert program.document.namespace["value"].isfinite()
    formulas = re.findall(r"^On the command line: `pml-center train digits --loss \"(.*)\"`\.$", text, re.MULTILINE)
    assert len(formulas) + text.count("this loss is for use in Python") == 1
    for formula in formulas:
        parse_loss(formula, 10, 32)


def test_the_tables_hold_every_loss_once():
    rows = [row for family in loss_pages.FAMILIES for row in loss_pages.table(family).splitlines()[2:]]
    assert sorted(re.findall(r"losses/(\w+)\.md", "".join(rows))) == sorted(loss_pages.NAMES)
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- table of the (\w+) family -->", page) == list(loss_pages.FAMILIES)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "MVSoftmaxLoss", "MagFaceLoss", "cross_entropy"])
def test_pictures_can_be_drawn(name):
    draw = loss_pictures.SURVEY.get(name, loss_pictures.draw_loss)
    figure = draw() if name in loss_pictures.SURVEY else draw(name)
    assert all(ax.lines for ax in figure.axes)
    plt.close(figure)


def test_formulas_have_the_spaces_of_tex():
    assert mathml.spaced(r"s\cos\theta") == r"s\,\cos\,\theta"
    assert mathml.spaced(r"-\log\frac{a}{b}") == r"-\log\frac{a}{b}"
