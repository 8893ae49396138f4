"""The page that says how this is tested says no more than there is."""

import json

import pytest

from tests.count_tests import (
    DRAWN,
    EACH_LOSS,
    FAULTS,
    FOUND,
    PAGE,
    PROCESSES,
    ROOT,
    SOAKED,
    count,
    filled,
    golden,
    read,
    stated,
    written,
)

REMEDY = "Run: python tests/count_tests.py"


@pytest.fixture(scope="module")
def found():
    return json.loads(FOUND.read_text(encoding="utf-8"))


def test_the_page_has_the_numbers_that_were_counted(found):
    page, soaked = PAGE.read_text(encoding="utf-8"), read(SOAKED)
    assert filled(page, written(found, soaked)) == page, REMEDY
    assert soaked is None or soaked["failures"] == 0


def test_the_golden_files_are_those_that_were_counted(found):
    assert found["golden"] == golden(), REMEDY
    assert len(found["golden"]) > 20


def test_every_test_that_the_page_speaks_of_is_there():
    named = [
        *DRAWN.values(),
        *(test for part in (FAULTS, PROCESSES, EACH_LOSS) for tests in part.values() for test in tests),
    ]
    assert len(named) > 30
    for test in named:
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_the_page_says_no_more_than_there_is(found, request):
    """Counted where everything is collected: in a run of the whole suite."""
    config = request.config
    everything = {(ROOT / path).resolve() for path in config.args} == {ROOT / "tests", ROOT / "pml_center"}
    if not everything or config.option.keyword or config.option.markexpr:
        pytest.skip("only some of the tests were collected")
    now = count(request.session.items)
    for part in ("drawn", "faults", "processes", "each loss"):
        for what, number in found[part].items():
            assert number <= now[part][what], (what, REMEDY)
    for room, numbers in {"all": found["tests"], **found["rooms"]}.items():
        for kind, number in numbers.items():
            counted = now["tests"] if room == "all" else now["rooms"][room]
            assert stated(number) <= counted[kind], (room, kind, REMEDY)
