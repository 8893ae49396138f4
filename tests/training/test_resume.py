"""A run that was stopped, in whatever way, goes on as if it never had been."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from pml_center.cli import main
from pml_center.training import CheckpointError, TrainConfig, fit, loop, resume
from pml_center.training import checkpoint as checkpoint_module
from pml_center.training.checkpoint import read_checkpoint, write_checkpoint
from pml_center.training.interrupt import WorkerError
from pml_center.training.run_folder import Run

# Everything that draws at random or keeps a state: transforms, miners, triplets, sampled classes, centers, averages.
CONFIG = TrainConfig(
    model="convnet",
    image_size=8,
    embedding_size=8,
    loss="SoftmaxLoss(sample_rate=0.5) + 0.01 * CenterLoss + AdaFaceLoss + TripletMarginLoss(triplets_per_anchor=5)",
    batch_size=80,
    per_class=16,
    accumulate=2,
    epochs=3,
    crop_scale=0.8,
    hflip=0.5,
    val=0.4,
    ema=0.9,
    clip_grad=1.0,
    workers=0,
    device="cpu",
    checkpoint_every=2,
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pml_center.training.loop"])


def one_thread(work, *arguments):
    torch.set_num_threads(1)
    work(*arguments)


def in_a_process(work, *arguments):
    """The exit code of a process that does the work; minus the number of the signal that ended it."""
    process = PROCESSES.Process(target=one_thread, args=(work, *arguments))
    process.start()
    process.join()
    return process.exitcode


def train(folder, config=CONFIG):
    if Run(folder).can_resume:
        resume(folder)
    else:
        fit(replace(config, out=str(folder)))


def train_until_killed(folder, events, number=signal.SIGKILL):
    """Train, and send a signal to the own process after so many steps and writes to the disk."""
    left = [events]

    def counted(work):
        def wrapped(*arguments):
            found = work(*arguments)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), number)
            return found

        return wrapped

    loop.step, checkpoint_module._sync = counted(loop.step), counted(checkpoint_module._sync)
    try:
        train(folder)
    except KeyboardInterrupt:
        os._exit(130)


def outcome(folder):
    """All that a run leaves but times and its own identity."""
    run = Run.open(folder)
    states = {}
    for name in ("last", "last-previous", "best"):
        found = read_checkpoint(run.checkpoints / name, run.identity)
        found.state["progress"].pop("seconds")
        found.state.pop("log_size")
        states[name] = (dict(found.weights), found.state)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        event.pop("seconds", None)
    return states, events, json.loads((folder / "eval" / "held-out" / "report.json").read_text())


def assert_equal(one, other):
    """Bit by bit."""
    for (path, value), (other_path, expected) in zip(leaves(one), leaves(other), strict=True):
        assert path == other_path
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, path


def leaves(tree):
    return tree_flatten_with_path(tree)[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert in_a_process(train, folder) == 0
    return outcome(folder)


def test_a_run_that_is_killed_ten_times_ends_bit_equal(tmp_path, uninterrupted):
    generator, folder, kills = random.Random(0), tmp_path / "run", 0
    while kills < 10:
        code = in_a_process(train_until_killed, folder, generator.randint(1, 12))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0:  # it ended before it could be killed: kill another one
            assert_equal(outcome(folder), uninterrupted)
            folder = folder.with_name(f"{folder.name}-again")
    assert in_a_process(train, folder) == 0
    assert_equal(outcome(folder), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_in_the_middle_of_an_epoch(tmp_path, uninterrupted, number):
    folder = tmp_path / "run"
    assert in_a_process(train_until_killed, folder, 1, number) == 130
    run = Run.open(folder)
    progress = read_checkpoint(run.checkpoints / "last", run.identity).state["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 1)
    assert in_a_process(train, folder) == 0
    states, *rest = outcome(folder)
    expected, *others = dict(uninterrupted[0]), *uninterrupted[1:]
    for found in (states, expected):
        found.pop("last-previous", None)  # may be that of the signal, a step before the last
    assert_equal((states, *rest), (expected, *others))


def train_with_other_workers(folder):
    fit(replace(CONFIG, out=str(folder), workers=2))


def test_the_number_of_workers_changes_nothing(tmp_path, uninterrupted):
    assert in_a_process(train_with_other_workers, tmp_path / "run") == 0
    assert_equal(outcome(tmp_path / "run"), uninterrupted)


def train_on_a_full_disk(folder, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        resume(folder, epochs=4)
    except CheckpointError as error:
        (folder.parent / "said.txt").write_text(str(error))
        os._exit(1)


def test_a_full_disk_leaves_the_checkpoint_before_as_it_was(tmp_path):
    folder = tmp_path / "run"
    assert in_a_process(train, folder, replace(CONFIG, epochs=1)) == 0
    before = outcome(folder)[0]
    assert in_a_process(train_on_a_full_disk, folder, 200_000) == 1
    said = (tmp_path / "said.txt").read_text()
    assert "checkpoint must fit on the disk, got" in said
    assert f"The checkpoint {folder}/checkpoints/last is as it was." in said
    assert not list(folder.glob("checkpoints/*-partial"))
    assert_equal(outcome(folder)[0], before)


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_epochs") / "run"
    fit(replace(CONFIG, out=str(folder), epochs=2, checkpoint_every=0))
    return folder


@pytest.fixture
def finished(two_epochs, tmp_path):
    """A run of two epochs, to damage."""
    return Run.open(shutil.copytree(two_epochs, tmp_path / "run"))


@pytest.mark.parametrize("name", ["model.safetensors", "loss.safetensors", "ema.safetensors", "state.pt"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_offered(finished, name):
    path = finished.checkpoints / "last" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"got .*last/{name} with other .*: the file is damaged. Go on from "):
        resume(finished.folder)
    path.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=rf"{name} with [\d,]+ bytes in place of .* --checkpoint last-previous"):
        resume(finished.folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} with none in place of"):
        resume(finished.folder)
    with pytest.raises(
        FileNotFoundError,
        match=r"nope. Choose .* with --checkpoint: best, last, last-previous",
    ):
        resume(finished.folder, checkpoint="nope")
    run, measurement = resume(finished.folder, checkpoint="last-previous")
    assert len(run.epochs) == 2
    assert measurement is not None


def test_every_reader_of_weights_checks_them(finished, capsys, tmp_path):
    shutil.rmtree(finished.checkpoints / "best")
    assert finished.load_model("last")
    path = finished.checkpoints / "last" / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    reads = {
        "eval": ["eval", finished.folder],
        "embed": ["embed", finished.folder, "digits", "--out", tmp_path / "rows"],
        "export": ["export", finished.folder],
        "report": ["report", finished.folder],
        "init-from": ["train", "digits", "--init-from", finished.folder, "--image-size", 8, "--out", tmp_path / "new"],
    }
    for arguments in reads.values():
        said, code = typed(capsys, *arguments)
        assert code == 1, said
        assert "last/ema.safetensors with other" in said
        assert "--checkpoint last-previous" in said
    path.unlink()  # then the weights that are no average are not taken for it
    with pytest.raises(CheckpointError, match=r"ema.safetensors with none in place of"):
        finished.load_model()


def test_a_damaged_best_checkpoint_names_the_last(finished):
    (finished.checkpoints / "best" / "loss.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"best/loss.safetensors .* Take the last one, with .*load_model"):
        finished.weights("loss")


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(finished, monkeypatch):
    folder, files, swaps = finished.checkpoints / "last", checkpoint_module._files, []
    old = read_checkpoint(folder, finished.identity)
    weights = {part: {name: tensor + 1 for name, tensor in own.items()} for part, own in old.weights.items()}

    def swapped(*arguments):
        found = files(*arguments)
        if not swaps:
            swaps.append(write_checkpoint(folder, weights, old.state, finished.identity))
        return found

    monkeypatch.setattr(checkpoint_module, "_files", swapped)
    found = finished.weights("loss", "last")
    assert found.keys() == weights["loss"].keys()
    assert all(torch.equal(tensor, weights["loss"][name]) for name, tensor in found.items())
    assert len(swaps) == 1


def test_weights_that_are_not_finite_replace_nothing(finished, monkeypatch):
    before, right = outcome(finished.folder)[0], loop.step

    def wrong(state, batches):
        count = right(state, batches)
        next(state.model.parameters()).data[0] = torch.nan
        return count

    monkeypatch.setattr(loop, "step", wrong)
    said = (
        r"weights must be finite, got \d+ numbers that are not, e.g. in model\.\S+ The checkpoint .*last is as it was: "
        r"start a new run from its weights with --init-from .*run, with a lower --lr"
    )
    with pytest.raises(FloatingPointError, match=said):
        resume(finished.folder, epochs=3)
    assert_equal(outcome(finished.folder)[0], before)
    state = read_checkpoint(finished.checkpoints / "last", finished.identity).state
    state["optimizer"]["state"][0]["exp_avg"][:] = torch.inf
    with pytest.raises(FloatingPointError, match=r"in optimizer\.state\.0\.exp_avg\."):
        write_checkpoint(finished.checkpoints / "last", {}, state, finished.identity)
    assert_equal(outcome(finished.folder)[0], before)


def test_a_run_whose_first_step_goes_wrong_says_so(tmp_path):
    with pytest.raises(FloatingPointError, match=r"There is no checkpoint yet: train again with a lower --lr"):
        fit(replace(CONFIG, lr=1e38, warmup_epochs=0.0, checkpoint_every=1, out=str(tmp_path / "run")))
    assert not Run(tmp_path / "run").can_resume


def test_a_worker_that_died_is_no_full_disk(finished, monkeypatch, capsys):
    """Torch says it wherever the main process is, such as between two files of a checkpoint."""

    def killed(path):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(checkpoint_module, "_sync", killed)
    said = r"got: DataLoader worker \(pid 7\) is killed by signal: Killed\. .* Go on with: pml-center resume"
    with pytest.raises(WorkerError, match=said):
        resume(finished.folder, epochs=3)
    said, code = typed(capsys, "resume", finished.folder, "--epochs", 3)
    assert code == 1
    assert said.count("workers must live") == 1
    assert not list(finished.checkpoints.glob("*-partial"))


def test_files_are_for_whom_the_user_wants_them(finished):
    umask = os.umask(0)
    os.umask(umask)
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert len([path for path in files if path.suffix == ".safetensors"]) == 9


def test_a_damaged_manifest_is_named(finished):
    (finished.checkpoints / "last" / "manifest.json").write_text(json.dumps({"format": 1, "run": "x"}))
    with pytest.raises(CheckpointError, match=r"last/manifest.json must be whole, got KeyError\('files'\)"):
        resume(finished.folder)
    (finished.checkpoints / "last" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"last/manifest.json must be whole, got .*Go on from the one before it"):
        resume(finished.folder)


def test_a_checkpoint_of_another_run_is_refused(finished, tmp_path):
    other, _ = fit(replace(CONFIG, out=str(tmp_path / "other"), epochs=1))
    (finished.checkpoints / "last").rename(finished.checkpoints / "own")
    (other.checkpoints / "last").rename(finished.checkpoints / "last")
    with pytest.raises(
        CheckpointError, match=r"checkpoint must be of this run, got .*last, which is of another. Go on"
    ):
        resume(finished.folder)


def test_what_a_gpu_wrote_is_read_where_there_is_none(finished, monkeypatch):
    checkpoint = read_checkpoint(finished.checkpoints / "last", finished.identity)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        write_checkpoint(finished.checkpoints / "last", checkpoint.weights, checkpoint.state, finished.identity)
    again = read_checkpoint(finished.checkpoints / "last", finished.identity)
    assert_equal(again.state["optimizer"], checkpoint.state["optimizer"])


def test_a_run_may_lie_in_a_folder_whose_name_is_no_text(finished, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/H\xf6he"))
    finished.folder.rename(folder)
    assert resume(folder, epochs=3)[0].epochs[-1]["epoch"] == 3


def test_a_model_in_a_folder_is_the_same_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert loop.completed(replace(CONFIG, model="local-dir:mine")).model == f"local-dir:{tmp_path}/mine"
    assert loop.completed(CONFIG).model == CONFIG.model


def test_a_run_can_be_made_longer(finished):
    run, _ = resume(finished.folder, epochs=3)
    assert [event["epoch"] for event in run.epochs] == [1, 2, 3]
    assert run.config.epochs == 3
    with pytest.raises(ValueError, match="epochs must be at least the 3 of the run, got 2"):
        resume(finished.folder, epochs=2)


def test_a_finished_run_is_only_measured_again(finished):
    report = (finished.folder / "eval" / "held-out" / "report.json").read_text()
    run, _ = resume(finished.folder)
    assert len(run.epochs) == 2
    assert (finished.folder / "eval" / "held-out" / "report.json").read_text() == report


def test_a_run_without_a_checkpoint_is_named(tmp_path, finished):
    for name in ("last", "last-previous"):
        (finished.checkpoints / name).rename(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"got none at .*last. Choose .* --checkpoint: best"):
        resume(finished.folder)
    (finished.checkpoints / "best").rename(tmp_path / "best")
    with pytest.raises(FileNotFoundError, match=r"got none at .*last. The run ended before its first one: train again"):
        resume(finished.folder)


def test_an_interrupt_of_the_whole_group_leaves_workers_to_the_end(tmp_path):
    command = "from pml_center.cli import main; main()"
    arguments = ["train", "digits", "--image-size", "8", "--epochs", "1000", "--workers", "2", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not Run(tmp_path / "run").log_size and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
    _, said = process.communicate()
    assert process.returncode == 130
    assert "pml-center: interrupted; go on with: pml-center resume run" in said
    assert "Traceback" not in said
    assert Run(tmp_path / "run").can_resume


def typed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return capsys.readouterr().err, stop.value.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_images_are_measured_says_how_to_go_on(tmp_path, monkeypatch, capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["--image-size", 8, "--epochs", 1, "--workers", 0, "--out", tmp_path / "a run"]
    monkeypatch.setattr(loop, "measure", lambda *_: signal.raise_signal(number))
    said, code = typed(capsys, "train", "digits", *arguments)
    assert code == 130
    assert f"pml-center: interrupted; go on with: pml-center resume '{tmp_path / 'a run'}'\n" in said
    assert typed(capsys, "resume", tmp_path / "a run")[1] == 130
    monkeypatch.setattr(loop, "_train", lambda *_: signal.raise_signal(number))
    said, code = typed(capsys, "train", "digits", *arguments[:-1], tmp_path / "new")
    assert code == 130
    assert "interrupted; there was no checkpoint yet, start again" in said
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_log_has_a_line_an_epoch_and_says_when_nothing_is_left(tmp_path, caplog, capsys):
    out = str(tmp_path / "run")
    with caplog.at_level("INFO", "pml_center"):
        fit(replace(CONFIG, epochs=2, out=out), test=False)
        lines = [line for line in caplog.text.splitlines() if "epoch " in line]
        assert "epoch 1/2  loss " in lines[0]
        assert "  CenterLoss " in lines[0]
        assert "  mean_average_precision_at_r 0." in lines[1]
        resume(out, test=False, workers=1)
    assert caplog.text.rstrip().endswith("all 2 epochs are done; to train on, ask for more with --epochs")
    assert Run.open(out).config.workers == 1
