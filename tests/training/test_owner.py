"""A folder has one owner at a time; a dead one does not stand in the way, and readers need none."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pml_center.cli import main
from pml_center.comparison.compare import compare
from pml_center.comparison.jobs import Job, drop_others
from pml_center.training import TrainConfig, export_timm, fit, resume, train_state
from pml_center.training.checkpoint import CheckpointError
from pml_center.training.owner import FILES, LOCK, OWNER, clear, owned, wait_until_free
from pml_center.training.run_folder import PARTIAL, Run

CONFIG = TrainConfig(model="convnet", image_size=8, embedding_size=8, epochs=1, workers=0, device="cpu")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pml_center.training.loop"])
ME = f"process {os.getpid()} on {socket.gethostname()}, since "


def own_and_be_killed(folder):
    with owned(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_owner_is_refused_by_the_name_of_the_first(tmp_path):
    with owned(tmp_path):
        with pytest.raises(BlockingIOError, match=rf"got .*, which is in use by {ME}.* Wait until that one ends"):
            own(tmp_path)
        (tmp_path / OWNER).write_text(json.dumps(json.loads((tmp_path / OWNER).read_text()) | {"host": "another"}))
        with pytest.raises(BlockingIOError, match=r"process \d+ on another, since"):
            own(tmp_path)
    own(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def own(folder):
    with owned(folder):
        pass


def test_an_owner_that_was_killed_does_not_stand_in_the_way(tmp_path):
    process = PROCESSES.Process(target=own_and_be_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert {path.name for path in tmp_path.iterdir()} == FILES
    wait_until_free(tmp_path)
    own(tmp_path)


def test_what_a_dead_owner_started_is_waited_for(tmp_path, monkeypatch):
    """Its workers hold its lock until they notice that it is dead."""
    dead = PROCESSES.Process(target=os.getpid)
    dead.start()
    dead.join()
    held = owned(tmp_path)
    held.__enter__()
    (tmp_path / OWNER).write_text(json.dumps(json.loads((tmp_path / OWNER).read_text()) | {"pid": dead.pid}))
    monkeypatch.setattr("time.sleep", lambda _: held.__exit__(None, None, None))
    own(tmp_path)


def test_exports_embeddings_and_runs_of_a_comparison_have_an_owner_too(tmp_path, capsys):
    run, _ = fit(replace(CONFIG, model="test_resnet", image_size=32, out=str(tmp_path / "run")), test=False)
    embed = ["embed", str(run.folder), "digits", "--workers", "0", "--out", str(tmp_path / "rows")]
    with owned(tmp_path / "export.tmp"), owned(tmp_path / "rows"), owned(run.folder):
        with pytest.raises(BlockingIOError, match=ME):
            export_timm(run, tmp_path / "export")
        with pytest.raises(SystemExit, match="2"):
            main(embed)
        assert ME in capsys.readouterr().err
        with pytest.raises(BlockingIOError, match=ME):
            drop_others([Job("another", replace(run.config, lr=0.5))])
        assert run.can_resume
    drop_others([Job("another", replace(run.config, lr=0.5))])
    assert not run.can_resume
    main([*embed[:1], "test_resnet", "--no-pretrained", *embed[2:]])


def test_an_export_that_was_killed_leaves_no_weights_beside_what_belongs_to_others(tmp_path, monkeypatch):
    run, _ = fit(replace(CONFIG, model="test_resnet", image_size=32, out=str(tmp_path / "run")), test=False)
    folder = export_timm(run)
    replaced = []

    def replace_two(path, target):
        replaced.append(path.name)
        if len(replaced) == 3:
            raise OSError("killed")
        os.replace(path, target)

    monkeypatch.setattr("pathlib.Path.replace", replace_two)
    with pytest.raises(OSError, match="killed"):
        export_timm(run)
    assert "model.safetensors" not in {path.name for path in folder.iterdir()} | set(replaced)
    monkeypatch.undo()
    (folder / f"model.onnx{PARTIAL}").touch()  # of an export as ONNX that was killed
    assert (export_timm(run) / "model.safetensors").is_file()


def test_clearing_leaves_the_lock(tmp_path):
    with owned(tmp_path):
        (tmp_path / "run" / "deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "run")
        clear(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == FILES


def test_nothing_writes_to_a_run_beside_its_owner_and_readers_go_on(tmp_path):
    config = replace(CONFIG, out=str(tmp_path / "run"))
    run, _ = fit(config, test=False)
    before = (run.folder / "metrics.jsonl").read_text()
    with owned(run.folder), owned(tmp_path / "comparison"):
        for write in (
            lambda: fit(config),
            lambda: fit(replace(config, overwrite=True)),
            lambda: resume(run.folder, epochs=2),
            lambda: export_timm(run),
            lambda: compare(replace(config, out=str(tmp_path / "comparison")), ["SoftmaxLoss"]),
        ):
            with pytest.raises(BlockingIOError, match=ME):
                write()
        run.load_model()
        assert run.log(event="eval", name="held-out") is None
    assert (run.folder / "metrics.jsonl").read_text().startswith(before)
    assert Run.open(run.folder).events("eval")
    assert fit(replace(config, overwrite=True), test=False)[0].epochs


def test_a_folder_of_other_things_gets_no_lock(tmp_path):
    (tmp_path / "mine.txt").touch()
    for write in (lambda config: fit(config), lambda config: compare(config, ["SoftmaxLoss"])):
        with pytest.raises(FileExistsError, match="out must be a new folder"):
            write(replace(CONFIG, out=str(tmp_path)))
        with pytest.raises(FileExistsError, match=r"out must be a folder, got .*mine.txt, which is a file"):
            write(replace(CONFIG, out=str(tmp_path / "mine.txt")))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("is_begun_anew", [True, False])
def test_nothing_is_written_to_a_folder_that_was_deleted_meanwhile(tmp_path, is_begun_anew):
    """Nor to the run that another process began there."""
    config = replace(CONFIG, epochs=3, out=str(tmp_path / "run"))

    def replaced(_):
        shutil.rmtree(config.out)
        if is_begun_anew:
            fit(replace(config, epochs=1, seed=1), test=False)
            left.extend(path.read_bytes() for path in sorted(Path(config.out).rglob("*")) if path.is_file())

    left = []
    what = "in which another run began" if is_begun_anew else "which was deleted"
    with pytest.raises(BlockingIOError, match=rf"folder must stay that of the run .*, {what} meanwhile"):
        fit(config, on_epoch=replaced)
    assert left == [path.read_bytes() for path in sorted(Path(config.out).rglob("*")) if path.is_file()]
    assert not is_begun_anew or Run.open(config.out).config.seed == 1


def test_a_folder_that_is_deleted_while_a_checkpoint_is_written_is_no_full_disk(tmp_path, monkeypatch):
    written = train_state.write_checkpoint

    def write(folder, *arguments):
        if folder.exists():
            shutil.rmtree(tmp_path / "run")
            raise CheckpointError("checkpoint must fit on the disk")
        written(folder, *arguments)

    monkeypatch.setattr(train_state, "write_checkpoint", write)
    with pytest.raises(BlockingIOError, match="which was deleted meanwhile"):
        fit(replace(CONFIG, epochs=2, out=str(tmp_path / "run")), test=False)


def test_the_name_of_an_owner_is_left_to_it(tmp_path):
    with owned(tmp_path):
        (tmp_path / OWNER).write_text(json.dumps({"pid": 1, "host": "another"}))
    assert (tmp_path / OWNER).is_file()
