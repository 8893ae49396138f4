"""Count what the tests do, for the page that says how this is tested.

    python tests/count_tests.py

collects the tests, runs none, and writes ``docs/how-it-is-tested.json`` and the tables of ``docs/how-it-is-tested.md``.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import golden_io  # noqa: E402

GOLDEN = golden_io.FOLDER
EVERYTHING = [str(ROOT / "tests"), str(ROOT / "pml_center")]
PAGE = ROOT / "docs" / "how-it-is-tested.md"
FOUND, SOAKED = PAGE.with_suffix(".json"), PAGE.with_name("soak.json")

ARGUMENT, LOSS = "losses/test_every_argument.py::", "losses/test_every_loss.py::"
DRAWN = {  # input that nobody thought of: what is drawn, and the test
    "an argument of a loss, regularizer or schedule, which then works": (
        f"{ARGUMENT}test_what_was_built_with_a_strange_value_works_or_says_why_not"
    ),
    "batch, labels, tuples and references of a loss": f"{ARGUMENT}test_each_loss_takes_a_batch_or_says_why_not",
    "both sets of a loss of two sets": f"{ARGUMENT}test_a_loss_of_two_sets_takes_both_or_says_why_not",
    "the rows of a regularizer": f"{ARGUMENT}test_each_regularizer_takes_rows_or_says_why_not",
    "an argument of the evaluation": (
        "evaluation/test_walk.py::test_whatever_is_refused_is_refused_with_rule_value_and_remedy"
    ),
    "a folder of images, with files that are none": (
        "data/test_odd_folders.py::test_whatever_the_check_passes_can_be_read_and_whatever_cannot_it_names"
    ),
    "the content of a table of images": "data/test_image_table.py::test_whatever_is_in_a_file_ends_in_a_sentence",
    "the content of a list": "test_text_files.py::test_whatever_is_in_a_file_ends_in_columns_or_a_sentence",
    "a command line": "cli/test_everywhere.py::test_whatever_is_typed_ends_without_a_traceback",
}
FAULTS = {  # what is done, and the tests that do it
    "a training process is killed (SIGKILL) at a random step or write, ten times": (
        "training/test_resume.py::test_a_run_that_is_killed_ten_times_ends_bit_equal",
    ),
    "SIGINT, SIGTERM: in an epoch, while images are measured, of a group with workers, under nohup": (
        "training/test_resume.py::test_a_signal_writes_a_checkpoint_in_the_middle_of_an_epoch",
        "training/test_resume.py::test_an_interrupt_while_images_are_measured_says_how_to_go_on",
        "training/test_resume.py::test_an_interrupt_of_the_whole_group_leaves_workers_to_the_end",
        "training/test_interrupt.py::test_a_run_under_nohup_goes_on_when_sigint_comes_and_stops_when_sigterm_does",
    ),
    "a bit of a file of a checkpoint, or of its list of files, is turned": (
        "training/test_resume.py::test_a_damaged_file_is_named_and_the_checkpoint_before_it_offered",
        "training/test_resume.py::test_a_damaged_best_checkpoint_names_the_last",
        "training/test_resume.py::test_a_damaged_manifest_is_named",
        "training/test_resume.py::test_every_reader_of_weights_checks_them",
        "training/test_data_record.py::test_a_record_that_is_damaged_is_named",
    ),
    "a disk is full": (
        "training/test_resume.py::test_a_full_disk_leaves_the_checkpoint_before_as_it_was",
        "training/test_loop.py::test_a_full_disk_leaves_what_is_known_of_a_run_as_it_was",
    ),
    "a checkpoint is replaced while it is read": (
        "training/test_resume.py::test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew",
    ),
    "a worker dies": (
        "training/test_resume.py::test_a_worker_that_died_is_no_full_disk",
        "cli/test_everywhere.py::test_a_worker_that_died_is_said_to_have_died",
    ),
    "the owner of a run folder is killed, or a second one comes": (
        "training/test_owner.py::test_an_owner_that_was_killed_does_not_stand_in_the_way",
        "training/test_owner.py::test_a_second_owner_is_refused_by_the_name_of_the_first",
    ),
    "values or weights are not finite": (
        "training/test_resume.py::test_weights_that_are_not_finite_replace_nothing",
        "training/test_loop.py::test_a_loss_that_is_not_finite_stops_the_run",
        "losses/test_state.py::test_where_nobody_looks_at_values_it_leaves_no_trace_either",
    ),
    "a mistake in a batch, of each loss": (f"{LOSS}test_a_mistake_is_answered_with_rule_value_and_remedy",),
}
PROCESSES = {  # by gloo, on CPUs: what is held against one process, and the tests
    "2: losses": ("losses/test_distributed.py::test_two_processes_equal_one_with_the_joined_batch",),
    "2: losses of PML, models and sums of losses": (
        "test_distributed.py::test_two_processes_equal_one_with_the_joined_batch",
        "test_distributed.py::test_references_are_joined_too",
    ),
    "2: training, stopped and resumed": ("training/test_processes.py::test_two_processes_train_and_resume_as_one",),
    "3: training, stopped and resumed, to the last bit": (
        "training/test_processes.py::test_three_processes_resume_to_the_last_bit",
    ),
}
EACH_LOSS = {  # what each loss goes through, and the tests
    "its value and gradients are those of a formula written down a second time": (
        f"{LOSS}test_value_and_gradients_equal_the_dense_formula",
    ),
    "its gradients are those of finite differences": (f"{LOSS}test_gradcheck",),
    "every reducer of PML": (f"{LOSS}test_every_reducer_reduces_it",),
    "every miner of PML": ("losses/test_miners.py::test_a_sample_counts_by_the_tuples_that_it_stands_in",),
    "float16 and bfloat16, with autocast and without": (f"{LOSS}test_half_precision_leaves_the_class_rows_in_fp32",),
    "`torch.compile`": ("losses/test_compile.py::test_compiled_equals_plain",),
    "its state, as an earlier version wrote it": ("earlier/test_earlier.py::test_a_loss_goes_on_from_its_state",),
    "the numbers of other implementations": ("losses/test_golden.py::test_equals_the_official_code",),
}


def count(items):
    """What the collected tests are."""
    names = Counter(item.nodeid.removeprefix("tests/").split("[")[0] for item in items)
    examples = {item.nodeid: drawn_examples(item) for item in items}
    of_room = {}
    for item in items:
        room = of_room.setdefault(room_of(item), Counter())
        room["doctests" if isinstance(item, pytest.DoctestItem) else "tests"] += 1
        room["drawn"] += examples[item.nodeid]
    drawn = {item.nodeid.removeprefix("tests/"): examples[item.nodeid] for item in items if examples[item.nodeid]}
    return {
        "tests": {name: sum(room[name] for room in of_room.values()) for name in ("tests", "doctests", "drawn")},
        "rooms": {name: dict(of_room[name]) for name in sorted(of_room)},
        "drawn": {what: drawn[test] for what, test in DRAWN.items()},
        "faults": {what: sum(names[test] for test in tests) for what, tests in FAULTS.items()},
        "processes": {what: sum(names[test] for test in tests) for what, tests in PROCESSES.items()},
        "each loss": {what: sum(names[test] for test in tests) for what, tests in EACH_LOSS.items()},
        "golden": golden(),
    }


def drawn_examples(item):
    """How many cases hypothesis draws for a test; 0 for one that draws nothing."""
    function = getattr(item, "obj", None)
    if not getattr(function, "is_hypothesis_test", False):
        return 0
    return function._hypothesis_internal_use_settings.max_examples


def room_of(item):
    """``losses``, of the tests in ``tests/losses`` and of the docstrings in ``pml_center/losses``."""
    return re.sub(r"^test_|\.py$", "", item.nodeid.split("::")[0].split("/")[1])


def golden():
    """How many files of numbers come from each source, and of how many losses."""
    files, losses_of = Counter(), defaultdict(set)
    for path in sorted(GOLDEN.glob("*.npz")):
        loss, _, _ = path.stem.split("__")
        source = "of evaluation, by several libraries" if loss == "eval" else golden_io.load(path.stem).meta["repo"]
        source = source.removeprefix("github.com/").partition(" ")[0] if loss != "eval" else source
        files[source] += 1
        losses_of[source] |= {loss} - {"eval"}
    return {source: {"files": files[source], "losses": len(losses_of[source])} for source in sorted(files)}


def table(head, rows):
    """Lines of Markdown; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + [
        "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:,}" for cell in row) + " |" for row in rows
    ]


def stated(number):
    """Its first two digits, so that a number that moves a little stays true: 8,600 for 8,690."""
    step = 10 ** max(0, len(str(number)) - 2)
    return number // step * step


def written(found, soaked):
    """The tables of the page, by the name of their place."""
    total = {name: f"{stated(number):,}" for name, number in found["tests"].items()}
    rooms = [
        (name, *(stated(room.get(kind, 0)) for kind in ("tests", "doctests", "drawn")))
        for name, room in found["rooms"].items()
    ]
    drawn = found["drawn"].items()
    sources = [(name, each["losses"], each["files"]) for name, each in found["golden"].items()]
    return {
        "total": [
            f"More than {total['tests']} tests and {total['doctests']} examples in docstrings. Some tests draw their "
            f"input: more than {total['drawn']} cases in a run."
        ],
        "rooms": table(("part", "tests", "examples in docstrings", "cases drawn"), rooms),
        "each loss": table(("each loss, where it applies", "tests"), found["each loss"].items()),
        "drawn": table(("drawn", "cases in a run"), drawn),
        "faults": table(("fault", "tests"), found["faults"].items()),
        "processes": table(("processes and what they do", "tests"), found["processes"].items()),
        "golden": table(("source", "losses", "files"), sources),
        "soak": [long_run(soaked)] if soaked else [],
    }


def long_run(soaked):
    """A sentence on what ``tests/soak.py`` found."""
    return (
        f"`{soaked['command']}` drew {sum(soaked['drawn'].values()):,} cases, and killed a training "
        f"{soaked['kills']} times at random steps and writes to the disk; {soaked['runs']} runs came to their end, "
        f"and had to be bit by bit what the uninterrupted one is. {soaked['failures'] or 'Nothing'} failed. "
        f"It took {soaked['minutes']} minutes on {soaked['machine']}, with Python {soaked['python']} and torch "
        f"{soaked['torch']}."
    )


def filled(page, tables):
    """The page with its tables in their places."""
    for name, lines in tables.items():
        text = "\n".join(["", *lines, "", ""])
        place = re.compile(rf"(<!-- counted: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, places = place.subn(lambda found, text=text: found[1] + text + found[2], page)
        assert places == 1, f"{name}: {places} places"
    return page


class Collected:
    """A plugin of pytest that keeps what was collected."""

    def pytest_collection_finish(self, session):
        """Pytest's hook."""
        self.items = session.items


def collect():
    """The numbers of all tests."""
    collected = Collected()
    pytest.main(["--collect-only", "-n", "0", "-q", *EVERYTHING], plugins=[collected])
    return count(collected.items)


def read(path):
    """A file of numbers, or nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main():
    found = collect()
    FOUND.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), written(found, read(SOAKED))), encoding="utf-8")


if __name__ == "__main__":
    main()
