"""What holds of every command: help, quiet, JSON, exit codes, and no traceback whatever is typed."""

import contextlib
import errno
import io
import json
import os
import pty
import subprocess
import sys
import termios
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from packaging.version import Version

from pml_center.cli import app, main
from pml_center.data import digits
from pml_center.evaluation import Samples, save_samples

HEAVY = {"torch", "numpy", "timm", "faiss", "pytorch_metric_learning", "matplotlib", "sklearn", "safetensors", "PIL"}


def commands(of=app, before=()):
    """Every command with the words that call it, those of sub-commands too."""
    for name in of:
        if name.startswith("-"):
            continue
        below = list(commands(of[name], (*before, name)))
        yield from below or [((*before, name), of[name])]


COMMANDS = dict(commands())
each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


@cache  # cyclopts looks at the signature anew, which takes longer than to run most commands that are refused
def arguments_of(words):
    return list(COMMANDS[words].assemble_argument_collection(default_parameter=app.default_parameter))


def flags(words):
    """The flags of a command."""
    return [name for argument in arguments_of(words) for name in argument.names if name.startswith("-")]


def test_commands_were_found():
    names = {words[0] for words in COMMANDS}
    assert names >= {"demo", "train", "eval", "embed", "search", "report", "export", "losses", "models", "doctor"}
    assert {("recipes", "ls"), ("recipes", "cp")} <= COMMANDS.keys()


@each_command
def test_help_says_what_a_command_does(command, words):
    assert words[0] in command("--help")[0]
    out, _, code = command(*words, "--help")
    assert code == 0
    assert f"pml-center {' '.join(words)}" in out
    assert "--quiet" in out


@pytest.mark.parametrize("words", sorted(COMMANDS.keys() - {("train",)}), ids=" ".join)  # whose record is metrics.jsonl
def test_every_command_speaks_to_programs(words):
    assert "--json" in flags(words)


def test_help_loads_nothing_heavy():
    code = f"""
import sys
from pml_center.cli import main
for words in {[list(words) for words in COMMANDS]!r}:
    main([*words, "--help"])
print("loaded", *{{name.partition(".")[0] for name in sys.modules}})
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.splitlines()[-1].split())
    assert "cyclopts" in loaded
    assert not loaded & HEAVY


def test_help_is_there_at_once():
    """What takes time is to import: 360 modules come in 0.15 s, and torch alone is more than a thousand."""
    code = """
import sys
from pml_center.cli import main
main(["eval", "--help"])
print(len(sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout.splitlines()[-1]) < 500


def test_completion_knows_every_command_and_its_flags(tmp_path):
    for shell in ("bash", "zsh", "fish"):
        script = app.generate_completion(shell=shell)
        for words in COMMANDS:
            assert words[-1] in script
            assert all(flag.removeprefix("--") in script for flag in flags(words))
    path = tmp_path / "completion.bash"
    path.write_text(app.generate_completion(shell="bash"))
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_completion_installs_itself(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    _, _, code = command("--install-completion", "--shell", "bash")
    assert code == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("recipes" in path.read_text() for path in written)


def on_a_terminal(*call, **environment):
    """What Python prints where standard output and error are a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, *call],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # Linux's word for the end
        while block := os.read(ours, 2**16):
            printed += block
    os.close(ours)
    process.wait()
    return printed.decode()


def test_colours_are_for_terminals_that_want_them():
    call = ("-m", "pml_center", "--help")
    assert "\x1b[3" in on_a_terminal(*call)  # a foreground colour
    assert "\x1b[3" not in on_a_terminal(*call, NO_COLOR="1")
    plain = subprocess.run([sys.executable, "-m", "pml_center", "--help"], capture_output=True, text=True, check=True)
    assert "\x1b" not in plain.stdout


COUNT = """
import logging
from tqdm import tqdm
from pml_center.cli import app, main

@app.command
def count(json: bool = False):
    for _ in tqdm(range(3), unit="stone", disable=None):
        pass
    logging.getLogger("pml_center").info("three stones")
    print("result")

main(["count", *{flags!r}])
"""


@pytest.mark.parametrize(
    ("flags", "bar", "log"), [([], True, True), (["--json"], False, True), (["--quiet"], False, False)]
)
def test_bars_are_for_terminals_and_neither_for_programs_nor_in_quiet(flags, bar, log):
    said = on_a_terminal("-c", COUNT.format(flags=flags))
    assert ("stone/s" in said) == bar
    assert ("three stones" in said) == log
    assert "result" in said
    elsewhere = subprocess.run([sys.executable, "-c", COUNT.format(flags=flags)], capture_output=True, text=True)
    assert elsewhere.stdout == "result\n"
    assert ("three stones" in elsewhere.stderr) == log
    assert "stone/s" not in elsewhere.stderr


def test_demo_speaks_to_programs(command, tmp_path):
    out, _, code = command("demo", "--epochs", "1", "--out", tmp_path, "--json")
    assert code == 0
    said = json.loads(out)
    assert [result["weight"] for result in said["results"]] == [0, 0.01, 0.1, 1]
    assert said["figure"] == str(tmp_path / "features.png")
    assert (tmp_path / "features.png").is_file()


@pytest.fixture
def photos(tmp_path):
    """A folder of a few digits."""
    data = digits()
    for i in range(40):
        image, label = data[i]
        path = tmp_path / "photos" / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "photos"


@pytest.mark.usefixtures("sketched")
def test_report_writes_the_page_of_a_run(command, trained, photos, tmp_path):
    out, _, code = command("report", trained / "small", photos, "--workers", "0", "--json")
    assert code == 0
    [folder] = (trained / "small" / "eval").glob("photos-*")
    files = {"report": str(folder / "report.json"), "page": str(folder / "report.html")}
    assert json.loads(out)["files"] == files
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Training" in page
    assert page.count("data:image/jpeg") > 40
    arguments = ("--protocol", "clustering", "--out", tmp_path / "a.html", "--workers", "0")
    assert f"page    {tmp_path / 'a.html'}" in command("report", trained / "small", photos, *arguments)[0]
    assert "k-means" in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.skipif(Version(timm.__version__) < Version("1.0.31"), reason="export needs timm 1.0.31")
def test_export_round_trips_through_eval(command, trained, photos, tmp_path):
    out, _, code = command("export", trained / "timm", "--json")
    assert code == 0
    folder = json.loads(out)["path"]
    assert "create_model" in command("export", trained / "timm", "--out", tmp_path / "other")[0]
    measure = (photos, "--workers", "0", "--ci", "none", "--json")
    by_run = json.loads(command("eval", trained / "timm", *measure)[0])["reports"]["retrieval"]["metrics"]
    by_timm = json.loads(command("eval", f"local-dir:{folder}", *measure)[0])["reports"]["retrieval"]["metrics"]
    assert by_timm == by_run
    assert 0.1 < by_run["r_precision"] < 1


def test_quiet_leaves_results_and_warnings(command, trained, photos, caplog):
    measure = ("eval", trained / "small", photos, "--workers", "0", "--ci", "none")
    loud = command(*measure)
    assert "40 images of 10 classes" in caplog.text
    caplog.clear()
    out, _, code = command(*measure, "--quiet")
    assert (out, code) == (loud[0], 0)
    assert "images" not in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("lr must be positive, got -1. Raise it."), 2),
        (TypeError("labels must be integers, got float. Convert them."), 2),
        (FileNotFoundError("data must be a folder, got x. Check the path."), 2),
        (ImportError("onnx must be installed. Install it with: pip install onnx"), 3),
        (FloatingPointError("loss must be finite, got nan. Lower --lr."), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (RuntimeError("CUDA out of memory"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_exit_codes_and_messages(command, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr("pml_center.training.loss_catalog.list_losses", fail)
    _, err, found = command("losses")
    assert found == code
    assert "Traceback" not in err
    if code == 130:
        assert err == "pml-center: interrupted\n"
    else:
        assert str(error) in err
        assert err.startswith("pml-center: ")
        with pytest.raises(type(error)):
            main(["losses", "--debug"])


def test_a_worker_that_died_is_said_to_have_died(command, monkeypatch):
    def fail(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("pml_center.training.loss_catalog.list_losses", fail)
    _, err, code = command("losses")
    assert code == 1
    assert err == (
        "pml-center: workers must live until all images are read, got: DataLoader worker (pid 7) is killed by signal: "
        "Killed. Perhaps memory ran out: use fewer --workers.\n"
    )


def test_a_reader_that_has_had_enough_is_no_error():
    code = f"{sys.executable} -m pml_center losses | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert ran.stdout.splitlines()[1:] == ["0"]
    assert "Traceback" not in ran.stderr


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A folder with embeddings: ``a.npy``, ``wide.npy`` and ``broken.npy`` with their labels, and folders of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 8)).astype(np.float32)
    labels = np.repeat([f"class {i}" for i in range(12)], 5)
    np.save("a.npy", embeddings)
    np.save("labels.npy", labels)
    embeddings[7, 3] = np.nan
    np.save("broken.npy", embeddings)
    save_samples("narrow", Samples(rng.normal(size=(60, 8)).astype(np.float32), labels))
    save_samples("wide", Samples(rng.normal(size=(60, 16)).astype(np.float32), labels))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["eval", "broken.npy", "labels.npy"], "must be finite, got nan in row 7", 2),
        (["eval", "a.npy", "a.npy"], "labels must", 2),
        (["eval", "narrow", "--gallery", "wide"], "got 8 and 16", 2),
        (["eval", "narrow", "--gallery", "narrow"], "must be two sets, got rows that are in both", 2),
        (["eval", "narrow", "--index", "IVF64,Flat"], "IVF64", 2),
        (["eval", "narrow", "--index", "nonsense"], "nonsense", 2),
        (["eval", "resnt50", "digits"], "`pml-center models '*resn*'`", 2),
        (["embed", "test_vit", "digits", "--no-pretrained", "--device", "cuda", "--out", "x"], "torch sees no CUDA", 2),
        (["losses", "ArcFaseLoss"], "Did you mean 'ArcFaceLoss'", 2),
        (["report", "narrow"], "run must be a folder written by `pml-center train`, got narrow", 2),
        (["export", "nowhere"], "run must be a folder written by `pml-center train`, got nowhere", 2),
        (["export", "nowhere", "--format", "onxx"], '"onnx"?', 2),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_remedy(command, arguments, message, code):
    out, err, found = command(*arguments)
    assert message in " ".join((out + err).split())
    assert found == code
    assert "Traceback" not in err


@pytest.mark.usefixtures("rows")
def test_faiss_that_is_missing_is_named_before_anything_is_embedded(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    _, err, code = command("eval", "narrow")
    assert code == 3
    assert "pip install faiss-cpu" in err


@pytest.mark.skipif(Version(timm.__version__) < Version("1.0.31"), reason="export needs timm 1.0.31")
def test_export_says_what_timm_and_onnx_cannot_have(command, trained, monkeypatch):
    _, err, code = command("export", trained / "small")
    assert code == 2
    assert "Use --format onnx" in err
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    _, err, code = command("export", trained / "small", "--format", "onnx")
    assert code == 3
    assert "torch must be 2.9 or newer to write ONNX, got 2.8.0" in err
    monkeypatch.setattr(torch, "__version__", "2.9.0")
    monkeypatch.setitem(sys.modules, "onnx", None)
    _, err, code = command("export", trained / "small", "--format", "onnx")
    assert code == 3
    assert "pip install 'pml-center[onnx]'" in err


# Whatever is typed. What would start hours of work is kept out: no data and no model of timm exist by these names.
WORDS = [
    "nowhere",
    "empty",
    "convnet",
    "",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "3.5",
    "nan",
    "inf",
    "1e999",
    "True",
    "none",
    "a=b",
]
WORDS += [
    "[1,2]",
    "{",
    "'",
    "*",
    "ArcFaceLoss",
    "digits-center",
    "retrieval",
    "fewshot",
    "--json",
    "--quiet",
    "--epoch",
]
VALUES = st.one_of(st.sampled_from(WORDS), st.text("aé0-_=.,()[]{}'\"* \n\0", max_size=6))
ALWAYS = {("train",): ["nowhere"], ("demo",): ["--epochs", "0"]}  # before what else is typed


PLACES = ["nowhere", "empty", "convnet", "ArcFaceLoss", "digits-center"]
NUMBERS = {"int": ["0", "1", "-1", "2", "10000000000000000000000"], "float": ["0", "0.5", "-0.1", "2", "nan", "inf"]}


def options(argument):
    """A flag with a value that it may well take."""
    kind, flag = str(argument.hint), st.sampled_from([name for name in argument.names if name.startswith("-")])
    if "bool" in kind:
        return flag.map(lambda name: [name])
    values = argument.get_choices() or next((NUMBERS[name] for name in NUMBERS if name in kind), WORDS)
    return st.tuples(flag, st.sampled_from(values)).map(list)


@st.composite
def typed(draw):
    """A command, arguments that it may well take, and now and then one that it does not."""
    words = draw(st.sampled_from(sorted(COMMANDS)))
    named = [argument for argument in arguments_of(words) if argument.names[0].startswith("-")]
    chosen = [argument for argument in named if argument.required] + draw(
        st.lists(st.sampled_from(named), max_size=4, unique_by=id)
    )
    given = [word for argument in chosen for word in draw(options(argument))]
    places = draw(
        st.lists(st.sampled_from(["nowhere", "empty", "convnet", "ArcFaceLoss", "digits-center"]), max_size=2)
    )
    return [*words, *ALWAYS.get(words, []), *places, *given, *draw(st.lists(VALUES, max_size=1))]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(arguments=typed())
def test_whatever_is_typed_ends_without_a_traceback(arguments, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("typed")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pml_center.cli.doctor.examine", lambda: iter(()))
    (folder / "empty").mkdir()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
    said = out.getvalue() + err.getvalue()
    assert code in (0, 2, 3), (arguments, said)
    assert "Traceback" not in said
    assert said.strip()


@pytest.mark.parametrize("words", [["data", "check"], ["eval", "test_vit"], ["embed", "test_vit"], ["train"]])
def test_more_workers_than_a_machine_can_have_are_refused(command, photos, tmp_path, words):
    options = ["--out", tmp_path / "out"] if words[0] in ("embed", "train") else []
    options += ["--no-pretrained"] if "test_vit" in words else []
    _, err, code = command(*words, photos, "--workers", 10**6, *options)
    assert code == 2
    assert "workers must be in [0, " in err


def test_commands_load_what_they_need(photos, tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(8, dtype=np.float32))
    np.save(tmp_path / "labels.npy", np.arange(8) // 2)
    program = (
        "import sys\n"
        "from pml_center.cli import main\n"
        "for words in eval(sys.argv[1]):\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
        "print([name for name in ('timm', 'torchvision', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    words = [["eval", str(tmp_path / "rows.npy"), str(tmp_path / "labels.npy")], ["data", "check", str(photos)]]
    ran = subprocess.run([sys.executable, "-c", program, repr(words)], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr
