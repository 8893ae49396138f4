"""Longer than the suite: many more drawn cases, and a training that is killed many more times.

    python tests/soak.py --examples 2000 --kills 100 --out docs/soak.json

The walks are those of the suite, with other random numbers (``--seed``). A training is killed at a random step or write
to the disk, is resumed and killed again until it ends, and must then equal, bit by bit, one that nobody stopped.
"""

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import wraps
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "benchmarks")]

from measure import processor  # noqa: E402, of the benchmarks

from tests.count_tests import DRAWN  # noqa: E402
from tests.training.test_resume import assert_equal, in_a_process, outcome, train, train_until_killed  # noqa: E402


class MoreCases:
    """A plugin of pytest: so many cases of each test that draws, counted."""

    def __init__(self, examples):
        self.examples, self.cases, self.failures = examples, Counter(), 0

    def pytest_collection_modifyitems(self, items):
        """Pytest's hook."""
        for item in items:
            test, name = item.obj, item.nodeid.removeprefix("tests/")
            before = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = settings(
                before, max_examples=self.examples, derandomize=False, database=None
            )
            test.hypothesis.inner_test = self.counted(test.hypothesis.inner_test, name)
            item.add_marker(pytest.mark.timeout(0))

    def counted(self, test, name):
        """The test, which counts how often it is called."""

        @wraps(test)
        def call(*arguments, **named):
            self.cases[name] += 1
            return test(*arguments, **named)

        return call

    def pytest_runtest_logreport(self, report):
        """Pytest's hook."""
        self.failures += report.failed


def draw(examples, seed):
    """How often each walk was called, and how many failed."""
    plugin = MoreCases(examples)
    tests = [str(ROOT / "tests" / test) for test in DRAWN.values()]
    options = ["-n", "0", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-seed", str(seed)]
    pytest.main([*options, "--rootdir", str(ROOT), *tests], plugins=[plugin])
    return {what: plugin.cases[test] for what, test in DRAWN.items()}, plugin.failures


def kill(times, seed):
    """How many runs ended after a training was killed so often, and how many were not what they should be."""
    generator, kills, runs, failures = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        assert in_a_process(train, whole) == 0
        expected = outcome(whole)
        killed = False
        while kills < times or killed:
            run = Path(folder, f"run-{runs}")
            work = (train_until_killed, run, generator.randint(1, 40)) if kills < times else (train, run)
            code = in_a_process(*work)
            killed = code == -signal.SIGKILL
            kills += killed
            if killed:
                continue
            runs += 1
            try:
                assert code == 0
                assert_equal(outcome(run), expected)
            except AssertionError as error:
                failures += 1
                print(f"seed {seed}, run {runs}: exit code {code}, {error}")
    return kills, runs, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, help="cases of each walk")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file for the result")
    arguments = parser.parse_args()
    started = time.monotonic()
    kills, runs, wrong = kill(arguments.kills, arguments.seed)
    cases, failures = draw(arguments.examples, arguments.seed)
    result = {
        "command": " ".join(["python tests/soak.py", *sys.argv[1:]]),
        "machine": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "minutes": round((time.monotonic() - started) / 60),
        "drawn": cases,
        "kills": kills,
        "runs": runs,
        "failures": failures + wrong,
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    main()
