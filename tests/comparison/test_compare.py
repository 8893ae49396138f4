"""Losses trained alike, in processes of their own, whatever interrupts them; and runs that exist."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock

from pml_center.cli import main
from pml_center.comparison import compare as planning
from pml_center.comparison import dry_run
from pml_center.comparison import jobs as jobs_module
from pml_center.comparison import search as searching
from pml_center.comparison.compare import Plan, expected, folder_name
from pml_center.comparison.dry_run import Cost
from pml_center.comparison.measured_run import MeasuredRun, other_training_images
from pml_center.comparison.positives import few_positives, share_with_positive
from pml_center.data import digits
from pml_center.training import Run, TrainConfig, compare, compare_runs, resume
from pml_center.training.data_record import DataRecord
from pml_center.training.owner import LOCK
from pml_center.training.run_folder import start_of

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pml_center.comparison.compare"])
CONFIG = TrainConfig(
    model="convnet", image_size=8, embedding_size=4, epochs=2, workers=0, batch_size=64, held_out=0.5, device="cpu"
)
LOSSES = ("SoftmaxLoss", "ArcFaceLoss + 0.01 * CenterLoss")
FOLDERS = ("SoftmaxLoss", "ArcFaceLoss+0.01-CenterLoss")
METRIC = CONFIG.metric
pytestmark = pytest.mark.usefixtures("sketched")


def at(folder, **changes):
    return replace(CONFIG, data=os.environ["IMAGES"], out=str(folder), **changes)


@pytest.fixture(scope="module", autouse=True)
def _images(tmp_path_factory):
    """Every seventh of the digits, as a folder whose path processes of their own find in the environment."""
    data, folder = digits(), tmp_path_factory.mktemp("images")
    for i in range(0, len(data), 7):
        image, label = data[i]
        (folder / str(label)).mkdir(exist_ok=True)
        image.save(folder / str(label) / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGES", str(folder))
        yield


def weights(run):
    return Run.open(run).load_model().state_dict()


def same_weights(one, other):
    found, expected = weights(one), weights(other)
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two losses with two seeds, two runs at a time: the folder, and what was found."""
    folder = tmp_path_factory.mktemp("done") / "out"
    return folder, compare(at(folder), LOSSES, seeds=(0, 1), jobs=2)


def test_runs_may_lie_in_a_folder_whose_name_is_no_text(done, tmp_path):
    moved = os.fsdecode(os.fsencode(tmp_path) + b"/H\xf6he")
    shutil.copytree(done[0], moved)
    runs = [f"{moved}/{name}/seed-0" for name in FOLDERS]
    command = [sys.executable, "-m", "pml_center", "compare", *runs, "--out", f"{moved}/found"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    shown = subprocess.run(command, capture_output=True, env=strict, check=True)
    assert b"/H\xf6he/found/compare.html" in shown.stdout
    found = json.loads(Path(moved, "found", "compare.json").read_text(encoding="utf-8"))
    assert {run for one in found["candidates"] for run in one["runs"]} == set(runs)


def test_every_loss_is_trained_with_every_seed_on_the_same_images(done):
    folder, found = done
    runs = [Run.open(folder / name / f"seed-{seed}") for name in FOLDERS for seed in (0, 1)]
    assert len({(run.folder / "held_out.json").read_text() for run in runs}) == 1
    assert len({(run.folder / "labels.json").read_text() for run in runs}) == 1
    configs = [run.config for run in runs]
    assert [(config.loss, config.seed) for config in configs] == [(loss, seed) for loss in LOSSES for seed in (0, 1)]
    assert len({replace(config, loss="", seed=0, out=None) for config in configs}) == 1
    assert {candidate.name for candidate in found.candidates} == set(LOSSES)
    for row in found.rows:
        reports = [json.loads(Path(run, "eval/held-out/report.json").read_text()) for run in row.candidate.runs]
        assert row.of_seeds == pytest.approx([report["metrics"][METRIC] for report in reports])
        assert all(used > 0 for used in (*row.candidate.seconds, *row.candidate.cpu_seconds, row.candidate.memory_gib))
    assert json.loads((folder / "compare.json").read_text())["verdict"] == found.verdict


def test_the_result_does_not_depend_on_how_many_run_at_a_time(done, tmp_path):
    folder, _ = done
    compare(at(tmp_path / "out"), LOSSES[1:], seeds=(1,), jobs=1)
    run = Path(FOLDERS[1], "seed-1")
    assert same_weights(tmp_path / "out" / run, folder / run)


def test_what_is_done_is_not_done_again_and_losses_and_seeds_can_be_added(tmp_path):
    before = compare(at(tmp_path), LOSSES[:1], seeds=(0,))
    first = tmp_path / FOLDERS[0] / "seed-0"
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    after = compare(at(tmp_path), LOSSES, seeds=(0,))
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == times
    assert {row.candidate.name: row.value for row in after.rows}[LOSSES[0]] == before.rows[0].value
    assert Plan.of(tmp_path).losses == LOSSES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "got epochs 3 where it has 2"),
        ({"lr": 0.1, "split_seed": 3}, "got split_seed 3 where it has 0 and lr 0.1 where it has 0.002"),
        ({"losses": LOSSES[:1]}, r"got losses \['SoftmaxLoss'\] where it has \['SoftmaxLoss', 'Arc"),
        ({"seeds": (0, 2)}, r"got seeds \[0, 2\] where it has \[0, 1\]"),
        ({"search": 2}, "got search 2 where it has 0"),
    ],
)
def test_other_options_in_the_same_folder_are_refused_by_name(done, changes, message):
    given = {"losses": LOSSES, "seeds": (0, 1), "search": 0} | changes
    options = {name: given.pop(name) for name in list(given) if name not in ("losses", "seeds", "search")}
    with pytest.raises(ValueError, match=rf"options must be those of the comparison in .*, {message}"):
        compare(at(done[0], **options), **given)


@pytest.mark.parametrize(
    ("losses", "options", "message"),
    [
        ((), {}, "losses must be one or more, and all different, got none"),
        (("SoftmaxLoss", "SoftmaxLoss "), {}, "losses must be one or more, and all different, got 'SoftmaxLoss' and"),
        (LOSSES, {"seeds": (1, 1)}, "seeds must be one or more, and all different, got 1 and 1"),
        (LOSSES, {"seeds": (-1,)}, "seeds must be at least 0, got -1"),
        (LOSSES, {"search": 1}, "search must be 0 for none, or at least 2, got 1"),
        (LOSSES, {"jobs": 0}, "jobs must be at least 1, got 0"),
        (("SoftmaxLoss", "Sofmax"), {}, "loss must be a known name, got 'Sofmax'"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(tmp_path, losses, options, message):
    with pytest.raises(ValueError, match=message):
        compare(at(tmp_path / "out"), losses, **options)
    assert not (tmp_path / "out").exists()


def test_there_must_be_images_to_compare_on_and_a_folder_to_write_to(tmp_path):
    with pytest.raises(ValueError, match="held_out must leave images to compare losses on, got 0"):
        compare(at(tmp_path / "out", held_out=0), LOSSES)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="out must be a new folder or one of a comparison, got"):
        compare(at(tmp_path), LOSSES)
    with pytest.raises(FileExistsError, match="out must be a new folder"):
        compare(at(tmp_path, overwrite=True), LOSSES)


def test_a_loss_that_fails_is_reported_and_the_rest_goes_on(tmp_path):
    bad = "1e39 * SoftmaxLoss"
    found = compare(at(tmp_path), (bad, LOSSES[0]), seeds=(0,))
    assert [row.candidate.name for row in found.rows] == [LOSSES[0]]
    [candidate] = found.failed
    assert candidate.error.startswith("loss must be finite, got inf")
    assert candidate.error.endswith("(seed 0)")
    with pytest.raises(
        RuntimeError, match=r"no loss could be trained. 1e39 \* SoftmaxLoss failed: loss must be finite"
    ):
        compare(at(tmp_path / "none"), (bad,), seeds=(0,))


def test_a_comparison_does_not_go_on_with_other_images(done):
    images = Path(os.environ["IMAGES"])
    (images / "3").rename(images / "three")
    try:
        for losses in (LOSSES, (*LOSSES, "CosFaceLoss")):
            with pytest.raises(ValueError, match=r"those of the runs in .*renamed: .*class 3.*, now three"):
                compare(at(done[0]), losses, seeds=(0, 1))
    finally:
        (images / "three").rename(images / "3")
    assert not (done[0] / "CosFaceLoss").exists()


def test_runs_of_other_images_by_the_same_names_are_told_apart(done, tmp_path):
    run = Path(done[0] / FOLDERS[0] / "seed-0")
    text = (run / "data.csv").read_text()
    for split, said in (("train", "was trained on other images than"), ("test", "got replaced: 1 image of class")):
        other = copy_of(run, tmp_path / split, {"seed": 5})
        row = next(line for line in text.splitlines() if line.startswith(split))
        (other / "labels.json").write_text((run / "labels.json").read_text())
        (other / "data.csv").write_text(text.replace(row, f"{row}0"))
        if split == "train":
            assert any(said in doubt for doubt in compare_runs([run, other]).doubts)
        else:
            with pytest.raises(ValueError, match=r"measured on the same queries, got .* replaced: 1 image of class"):
                compare_runs([run, other])


def test_a_comparison_does_not_go_on_from_other_weights(done, tmp_path):
    folder = shutil.copytree(done[0], tmp_path / "out")
    start = shutil.copytree(folder / FOLDERS[0] / "seed-0", tmp_path / "start")
    config = at(folder, init_from=str(start))
    for path in folder.glob("*/seed-*/env.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start": start_of(config)}))
    planned = (folder / "compare.yaml").read_text().replace("init_from: null", f"init_from: {start}")
    (folder / "compare.yaml").write_text(planned)
    Plan.of(folder).check()
    resume(start, epochs=3, test=False)
    with pytest.raises(ValueError, match=r"weights to start from must be those of the runs .* than .*seed-0 had"):
        Plan.of(folder).check()


def test_data_that_changed_while_a_comparison_trained_are_said(done, tmp_path, monkeypatch):
    folder = shutil.copytree(done[0], tmp_path / "out")
    run = Run(folder / FOLDERS[1] / "seed-1")
    text = (run.folder / "data.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("train"))
    (run.folder / "data.csv").write_text(text.replace(row, f"{row}0"))
    manifest, record = run.checkpoints / "last" / "manifest.json", DataRecord.read(run.folder / "data.csv", run.classes)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data": record.digest}))
    monkeypatch.setattr(Plan, "_check_same_data", lambda *_: None)  # when it began, nothing had changed
    found = compare(at(folder), LOSSES, seeds=(0, 1))
    assert any(f"{run.folder} was trained on other images than" in doubt for doubt in found.doubts)


def test_a_comparison_that_lacks_a_run_says_which_and_ends_with_an_error(done, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(done[0], tmp_path / "out")
    error = "its process ended with exit code -9, for want of memory?"
    monkeypatch.setattr(planning, "train_all", lambda jobs, processes: {jobs[-1]: error})
    for options in ([], ["--json"]):
        out, err, code = command(capsys, "compare", folder, *options)
        assert code == 1
        assert f"pml-center: comparison must have every run, got some that failed, {LOSSES[1]}: {error} (seed 1)" in err
        assert err.rstrip().endswith(f"Try them again with: pml-center compare {folder} --retry")
        assert "SoftmaxLoss" in out


def work(config):
    """A comparison of runs that are long enough to be stopped."""
    try:
        compare(config, LOSSES[:1], seeds=(0, 1), jobs=2)
    except KeyboardInterrupt as error:
        os._exit(130 if f"go on with: pml-center compare {config.out}" in str(error) else 1)


def stopped(folder, number):
    """The exit code of a comparison that gets a signal once both of its runs are under way."""
    process = PROCESSES.Process(target=work, args=(at(folder, epochs=24),))
    process.start()
    runs = [Run(folder / FOLDERS[0] / f"seed-{seed}") for seed in (0, 1)]
    while process.is_alive() and not all(run.can_resume for run in runs):
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    return process.exitcode, runs


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_comparison_goes_on_where_it_was_stopped(tmp_path, uninterrupted, number, code):
    exitcode, runs = stopped(tmp_path / "out", number)
    assert exitcode == code
    for run in runs if number == signal.SIGKILL else ():
        with FileLock(run.folder / LOCK):  # orphans write a checkpoint, then stop
            pass
    begun = [run.identity for run in runs]
    assert not any(run.events("eval") for run in runs)
    found = Plan.of(tmp_path / "out")
    compare(found.config, found.losses, found.seeds, jobs=2)
    assert [run.identity for run in runs] == begun
    for run in runs:
        assert same_weights(run.folder, uninterrupted / FOLDERS[0] / run.folder.name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    work(at(folder, epochs=24))
    return folder


def scores_of(trial):
    return max(event[METRIC] for event in trial.events("val"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Two spellings of one function after a search: the folder, and what was found."""
    folder = tmp_path_factory.mktemp("searched") / "out"
    losses = ("CosFaceLoss(margin=0, scale=64)", "NormalizedSoftmaxLoss(temperature=0.015625)")
    options = {"seeds": (0, 1), "search": 2, "search_seed": 5, "hold": ["margin", "per_class"]}
    return folder, losses, compare(at(folder), losses, **options)


def test_a_search_tries_as_many_settings_for_every_loss_and_never_sees_the_test_images(searched):
    folder, losses, found = searched
    for row in found.rows:
        folders = sorted((folder / folder_name(row.candidate.name) / "search").glob("*-*"))
        assert [each.name for each in folders] == [
            f"{name}{again}" for name in ("trial-0", "trial-1", "wider-2") for again in ("", "-again")
        ]
        trials = [Run.open(each) for each in folders]
        assert [trial.config.seed for trial in trials] == [5, 6] * 3  # the best three are trained again
        assert not any((trial.folder / "eval").exists() for trial in trials)
        means = [(scores_of(one) + scores_of(other)) / 2 for one, other in zip(trials[::2], trials[1::2], strict=True)]
        best = trials[2 * means.index(max(means))].config
        final = Run.open(folder / folder_name(row.candidate.name) / "seed-0")
        chosen = ("loss", "lr", "loss_lr", "per_class")
        assert [getattr(final.config, name) for name in chosen] == [getattr(best, name) for name in chosen]
        assert final.config.val == 0
        assert trials[0].config.loss == row.candidate.name
        assert set(final.classes) > set(trials[0].classes)
        assert len((trials[0].folder / "held_out.json").read_text()) == len(
            (final.folder / "held_out.json").read_text()
        )
    assert [candidate.name for candidate in found.candidates] == list(losses)


def test_two_spellings_of_one_function_come_to_the_same_outcome(searched):
    first, second = searched[2].rows
    assert first.of_seeds == second.of_seeds
    assert [trial["scores"] for trial in first.candidate.trials] == [
        trial["scores"] for trial in second.candidate.trials
    ]
    assert second.behind.p_corrected == 1


def test_what_was_chosen_stands_beside_the_name_everywhere(searched):
    folder, _, found = searched
    content = json.loads((folder / "compare.json").read_text())
    page, trials = (folder / "compare.html").read_text(), (folder / "search.csv").read_text()
    for row, written in zip(found.rows, content["candidates"], strict=True):
        assert written["chosen"].keys() >= {"lr", "loss_lr"}
        assert sum(trial["chosen"] for trial in written["trials"]) == 1
        config = Run.open(row.candidate.runs[0]).config
        assert f"--lr {config.lr}" in written["command"]
        assert config.loss in written["command"]
        assert f"lr {config.lr:.3g}" in row.candidate.setting
        assert row.candidate.setting in page
    assert trials.count("trial-0") == len(found.rows) * 2  # its name and its folder
    assert "smallest tried" in page or "largest tried" in page


def test_the_seed_of_a_search_and_what_is_held_are_written_down(searched, monkeypatch):
    folder, losses, _ = searched
    begun = Plan.of(folder)
    assert (begun.search, begun.search_seed, begun.hold) == (2, 5, ("margin", "per_class"))
    more = replace(begun, search=4, losses=(*losses, "SoftmaxLoss"), seeds=(1, 2, 0))
    more._check_same(begun)
    images = more.check()
    assert {search.config.seed for search in more.searches(images)} == {5}
    for changes, message in (({"search_seed": 6}, "search_seed 6 where it has 5"), ({"hold": ()}, "hold")):
        with pytest.raises(ValueError, match=message):
            replace(begun, **changes)._check_same(begun)
    with pytest.raises(ValueError, match="search 2 where it has 4"):
        begun._check_same(more)


def test_a_comparison_of_before_has_the_seed_that_its_search_had(done, tmp_path):
    text = (done[0] / "compare.yaml").read_text().replace("search_seed: 0\nhold: []\n", "")
    assert "search_seed" not in text
    (tmp_path / "compare.yaml").write_text(text.replace("- 0\n- 1", "- 1\n- 0"))
    assert (Plan.of(tmp_path).search_seed, Plan.of(tmp_path).seeds) == (1, (1, 0))


def test_a_search_that_leaves_too_little_to_train_on_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"search must leave enough to train on .*val must leave .* Or use --search 0"):
        compare(at(tmp_path / "out", held_out=0.7), LOSSES[:1], seeds=(0,), search=2)
    assert not (tmp_path / "out").exists()


def trained_by(tmp_path, monkeypatch, scores):
    """A comparison whose trials are not trained: their scores are these, None for one that failed."""

    def of(job):
        return scores[["trial-0", "trial-1", "wider-2"].index(Path(job.config.out).name.removesuffix("-again"))]

    monkeypatch.setattr(searching, "train_all", lambda jobs, _: {job: "no memory" for job in jobs if of(job) is None})
    monkeypatch.setattr(jobs_module.Job, "score", property(lambda job: 0 if job.test else of(job)))
    return compare(at(tmp_path), LOSSES[:1], seeds=(0,), search=2)


def test_what_a_search_chose_and_what_was_trained_are_one(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match=r"SoftmaxLoss failed: no memory \(in every trial of the search\)"):
        trained_by(tmp_path, monkeypatch, [None, None, None])
    for scores in ([0.1, None, None], [0.1, 0.2, 0.0]):  # the second trial fails at first
        found = trained_by(tmp_path, monkeypatch, scores)
        [row] = found.rows
        assert Run.open(row.candidate.runs[0]).config.lr == row.candidate.options["lr"]
    assert row.candidate.options["lr"] != CONFIG.lr
    assert "only lr, loss_lr was searched for SoftmaxLoss" in found.doubts


def test_what_failed_is_not_tried_again_unless_asked_and_can_be_left_out(tmp_path, monkeypatch):
    bad, started = "1e39 * SoftmaxLoss", []
    start = jobs_module._start
    monkeypatch.setattr(jobs_module, "_start", lambda job: started.append(job.config.loss) or start(job))
    for retry, tried in ((False, [bad, LOSSES[0]]), (False, []), (True, [bad])):
        started.clear()
        [candidate] = compare(at(tmp_path), (bad, LOSSES[0]), seeds=(0,), retry=retry).failed
        assert candidate.error.startswith("loss must be finite, got inf")
        assert started == tried
    assert compare(at(tmp_path), LOSSES[:1], seeds=(0,)).failed == []
    assert Plan.of(tmp_path).losses == LOSSES[:1]


def test_a_loss_that_takes_no_labels_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"losses must train on embeddings and labels, got 'VICRegLoss', which fails"):
        compare(at(tmp_path / "out"), ("SoftmaxLoss", "VICRegLoss"))
    assert not (tmp_path / "out").exists()


def test_few_positives_are_said_where_a_loss_compares_samples(caplog):
    caplog.set_level("INFO", "pml_center")
    config, counts = replace(CONFIG, batch_size=128), [20] * 771
    assert few_positives(["SoftmaxLoss"], counts, config, is_searched=False) == []
    assert not caplog.messages
    [said] = few_positives(["SoftmaxLoss", "0.1 * NTXentLoss"], counts, config, is_searched=False)
    assert "15 % of the anchors have a positive in a batch of 128, which is all that 0.1 * NTXentLoss learns" in said
    assert caplog.messages == [said]
    assert few_positives(["NTXentLoss"], counts, config, is_searched=True) == []
    assert few_positives(["NTXentLoss"], counts, replace(config, per_class=4), is_searched=False) == []
    draws = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 4)
    batches = [draws.permutation(labels)[:16] for _ in range(4000)]
    drawn = np.mean([np.isin(batch, np.flatnonzero(np.bincount(batch) > 1)) for batch in batches])
    assert share_with_positive([4] * 30, 16) == pytest.approx(drawn, abs=0.02)


def test_formulas_of_any_length_have_folders_that_tell_them_apart():
    long = " + ".join(f"{weight} * CenterLoss(alpha=0.5)" for weight in range(1, 20))
    one, other = folder_name(long), folder_name(f"{long} + SoftmaxLoss")
    assert one != other
    assert max(len(one), len(other)) < 120
    assert folder_name(LOSSES[1]) == FOLDERS[1]


def copy_of(run, folder, changes=(), edits=()):
    """A run folder like another, with other options and other texts in its files."""
    for name in (
        "config.yaml",
        "labels.json",
        "held_out.json",
        "metrics.jsonl",
        "eval/held-out/report.csv",
        "eval/held-out/pixels.csv",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = (run / name).read_text()
        for old, new in edits:
            text = text.replace(old, new)
        (folder / name).write_text(text)
    Run(folder).record(replace(Run(folder).config, **dict(changes)))
    return folder


def test_runs_that_exist_are_grouped_by_everything_but_their_seed(done, tmp_path):
    folder, expected = done
    runs = [folder / name / f"seed-{seed}" for seed in (1, 0) for name in FOLDERS]
    found = compare_runs(runs)
    assert found.verdict == expected.verdict
    assert [row[1:5] for row in found.rows] == [row[1:5] for row in expected.rows]
    assert compare_runs([folder]).verdict == expected.verdict
    other = copy_of(runs[0], tmp_path / "other", {"lr": 0.5})
    found = compare_runs([*runs, other])
    assert {candidate.name: list(candidate.seeds) for candidate in found.candidates} == {
        "SoftmaxLoss (lr=0.002)": [0, 1],
        "ArcFaceLoss + 0.01 * CenterLoss": [0, 1],
        "SoftmaxLoss (lr=0.5)": [1],
    }
    assert "candidates differ in more than the loss: lr" in found.doubts


def test_intervals_are_over_classes_where_these_are_new_and_over_queries_where_every_run_knows_them(done, tmp_path):
    folder, found = done
    labels = [label for _, label in planning.open_runs([folder])[0].queries]
    assert np.array_equal(found.clusters, np.unique(labels, return_inverse=True)[1])
    assert found.over == f"{len(set(labels))} classes"
    absence = found.ranked[0].absence[METRIC]  # as the runs wrote it down, with the numbers of these classes
    assert absence.change.any()
    assert set(absence.gone) | set(absence.finder) <= set(found.clusters)
    runs = [copy_of(folder / FOLDERS[0] / "seed-0", tmp_path / str(seed), {"seed": seed}) for seed in (5, 6)]
    for run, over in zip(runs, (found.over, f"{len(labels)} queries"), strict=True):
        (run / "labels.json").write_text(json.dumps(sorted(set(labels))))
        assert compare_runs(runs).over == over


def test_runs_that_started_from_other_weights_are_named(tmp_path):
    runs = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "config.yaml").write_text(f"weights: w.pth\nseed: {seed}\n")
        (folder / "env.json").write_text(json.dumps({"run": str(seed), "start": f"9-{seed}"}))
        runs.append(MeasuredRun(Run.open(folder)))
    said = [f"{tmp_path}/1 started from other weights than {tmp_path}/0"]
    assert other_training_images(runs) == said
    assert not other_training_images(runs[:1])
    for run in runs:  # a folder of a model may hold others by now, too
        run.run.record(replace(run.run.config, weights=None, model="local-dir:mine", pretrained=True))
    assert other_training_images([MeasuredRun(run.run) for run in runs]) == said
    of_both = SimpleNamespace(runs=[run.folder for run in runs])
    assert not planning._before([of_both])  # of two starts there is no one row


def test_a_dry_run_measures_as_a_run_does(monkeypatch):
    calls = []
    monkeypatch.setattr(dry_run, "measure", lambda *given: calls.append(given[3:]))
    images = SimpleNamespace(labels=np.array([0, 1]), classes=["a", "b"], width=None)
    monkeypatch.setattr(dry_run, "untouched", lambda config: ("as it came", []))
    for trained in (["a", "b"], ["c", "d"]):
        state = SimpleNamespace(
            images=SimpleNamespace(train=SimpleNamespace(classes=trained)),
            loss=SimpleNamespace(classifier="classifier"),
            model=None,
            config=None,
        )
        dry_run._measure(state, images)
    assert calls == [(True, "classifier", "as it came"), (False, None, "as it came")]


@pytest.mark.parametrize(
    ("changes", "edits", "message"),
    [
        ({}, (), "runs of one loss must have different seeds, got seed 0 in .*/seed-0 and in .*/other"),
        (
            {"seed": 5, "split_seed": 1},
            [(".png", ".jpg")],
            r"measured on the same queries, .* with split_seed 1 and 0, e.g. \d/\d+.jpg of class \d and \d/\d+.png",
        ),
        (
            {"seed": 5, "metric": "recall_at_1"},
            (),
            "chosen by one metric, got mean_average_precision_at_r in .* and rec",
        ),
    ],
)
def test_runs_that_do_not_fit_together_are_refused_by_what_differs(done, tmp_path, changes, edits, message):
    run = done[0] / FOLDERS[0] / "seed-0"
    with pytest.raises(ValueError, match=message):
        compare_runs([run, copy_of(run, tmp_path / "other", changes, edits)])


def test_a_line_that_is_being_written_is_not_read(done, tmp_path):
    run = Run(copy_of(done[0] / FOLDERS[0] / "seed-0", tmp_path / "other"))
    epochs = run.epochs
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "ep')
    assert run.epochs == epochs != []


def test_a_comparison_is_one_process_for_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="compare must be one process, which starts others, got 2 of torchrun"):
        compare(at(tmp_path), LOSSES)


def test_a_run_that_was_not_measured_is_named(done, tmp_path):
    run = copy_of(done[0] / FOLDERS[0] / "seed-0", tmp_path / "other", {"seed": 9})
    (run / "eval" / "held-out" / "report.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"images that it held out, got .*other without report.csv"):
        compare_runs([run])
    with pytest.raises(FileNotFoundError, match="run must be a folder written by"):
        compare_runs([tmp_path])


def command(capsys, *arguments):
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return *capsys.readouterr(), code


def test_the_command_shows_a_table_that_ends_with_the_verdict(done, tmp_path, capsys):
    folder, found = done
    out, _, code = command(capsys, "compare", folder)
    assert code == 0
    assert out.splitlines()[0] == found.summary
    assert out.splitlines()[-1] == found.verdict
    assert "raw pixels" in out
    out, _, code = command(capsys, "compare", *folder.glob("*/seed-*"), "--out", tmp_path / "out", "--json")
    content = json.loads(out)
    assert (code, content["verdict"]) == (0, found.verdict)
    assert all(Path(path).is_file() for path in content["files"].values())


def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing(tmp_path, capsys):
    options = ["--image-size", 8, "--epochs", 1, "--seeds", 0, 1, "--jobs", 2, "--out", tmp_path / "out"]
    out, _, code = command(capsys, "compare", "digits", "--losses", *LOSSES, *options, "--dry-run", "--json")
    content = json.loads(out)
    assert (code, content["command"]) == (0, "compare --dry-run")
    assert (content["runs"], content["jobs"]) == (4, 2)
    assert list(content["losses"]) == list(LOSSES)
    assert not (tmp_path / "out").exists()
    one = content["losses"][LOSSES[0]]
    assert all(one[name] > 0 for name in ("seconds_per_step", "start_seconds", "measure_seconds"))


def test_the_time_that_is_said_counts_starts_measuring_and_every_stage_of_a_search(tmp_path, monkeypatch):
    cost = Cost(epochs=4, steps_per_epoch=10, start=3, first_step=2, step=1, checkpoint=0.5, validate=0.1, measure=7)
    monkeypatch.setattr(planning, "costs_of", lambda configs, processes: [cost] * len(configs))
    run = 3 + 10 * (2 + 3) + 4 * 0.5 + 7
    plan = Plan.new(at(tmp_path / "out"), LOSSES[:1], (0, 1, 2), 0)
    images = plan.check()
    assert expected(plan, jobs=2)["minutes_in_all"] == pytest.approx(2 * run / 60, abs=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(planning, "costs_of", lambda configs, processes: [replace(cost, once=9)])
        assert expected(plan, jobs=2)["minutes_in_all"] == pytest.approx((9 + 2 * run) / 60, abs=0.01)
    share = 2 / images.train.num_classes
    trial = 3 + (1 - share) * 10 * (2 + 3) + 4 * 0.5 + 0.1 * int(share * len(images.train))
    found = expected(replace(plan, search=4), jobs=2)  # 4, one beyond, and the best 3 again
    assert found["runs"] == 3 + 4 + 1 + 3
    assert found["minutes_in_all"] == pytest.approx((2 * run + 5 * trial) / 60, abs=0.01)


def test_a_comparison_goes_on_elsewhere(done, monkeypatch, capsys):
    plans = []

    def stopped(*arguments):
        plans.append(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(planning, "carry_out", stopped)
    command(capsys, "compare", done[0], "--device", "cuda", "--workers", 3, "--jobs", 2)
    [(plan, jobs)] = plans
    assert (plan.config.device, plan.config.workers, jobs) == ("cuda", 3, 2)
    before = Plan.of(done[0])
    assert replace(plan.config, device="cpu", workers=0) == before.config
    plan._check_same(before)
    assert "got --epochs without them" in command(capsys, "compare", done[0], "--epochs", 9)[1]


def test_a_comparison_is_repeated_from_its_file(done, tmp_path, monkeypatch, capsys):
    plans = []
    monkeypatch.setattr(planning, "expected", lambda plan, jobs: plans.append(plan) or {})
    options = ["--config", done[0] / "compare.yaml", "--dry-run", "--json"]
    for sources in ([], ["digits"]):
        assert command(capsys, "compare", *sources, *options, "--out", tmp_path / "again")[2] == 0
    same, other = plans
    begun = Plan.of(done[0])
    assert replace(same, config=replace(same.config, out=begun.config.out)) == begun
    assert replace(other, config=replace(other.config, data=same.config.data)) == same
    assert other.config.data == "digits"


def test_an_interrupt_while_runs_are_compared_says_how_to_go_on(done, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "write_comparison", interrupted)
    _, err, code = command(capsys, "compare", done[0])
    assert code == 130
    assert f"pml-center: interrupted; go on with: pml-center compare {done[0]}\n" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "photos", "--losses", "SoftmaxLoss"], "data must be one source with --losses, got digits photos"),
        (["runs/a", "runs/b", "--epochs", "3"], "losses must be given where something is to be trained, got --epochs"),
        (["runs/a", "--seeds", "1"], "got --seeds without them"),
        (["runs/a", "--jobs", "2"], "got --jobs without them"),
        (["runs/a", "--dry-run"], "got --dry-run without them"),
        (
            ["digits"],
            "sources must be folders of runs or of comparisons, got digits. To train on data, name the losses",
        ),
        ([], "sources must be folders of runs or of comparisons, got none. To train on data, name the losses"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(capsys, arguments, message):
    out, err, code = command(capsys, "compare", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
