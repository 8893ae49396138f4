"""Which loss is best, by how much, and whether the difference is real."""

import json
import runpy
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pml_center.comparison.page import write_comparison
from pml_center.comparison.result import table
from pml_center.evaluation import RetrievalEvaluator, holm, paired_runs_test, paired_test, runs_interval
from pml_center.evaluation.paired_tests import VarianceParts
from pml_center.training import Candidate, Comparison

METRIC = "mean_average_precision_at_r"
EVENTS = ("epoch", "val")


def candidate(name, values, **changes):
    values = np.asarray(values, dtype=np.float64)
    given = {
        "name": name,
        "seeds": range(len(values)),
        "runs": [f"{name}/seed-{seed}" for seed in range(len(values))],
        "values": {METRIC: values},
        "seconds": [2.0] * len(values),
        "cpu_seconds": [3.0] * len(values),
        "memory_gib": 0.5,
        "options": {"loss": name, "lr": 0.1},
    }
    return Candidate(**given | changes)


def failed(name):
    return candidate(name, np.zeros((0, 0)), seeds=(0, 1, 2), error="loss must be finite, got nan")


def comparison(*candidates, pixels=0.1, **changes):
    given = {
        "metric": METRIC,
        "candidates": candidates,
        "pixels": {METRIC: np.full(200, pixels) + np.linspace(-0.05, 0.05, 200)},
        "classes": 4,
        "data": "digits",
    }
    return Comparison(**given | changes)


def trained(name, mean, seeds=3, of_seeds=0.005, **changes):
    """Values around a mean, with queries that are as hard for every loss of this module."""
    hard = 0.1 * np.random.default_rng(0).normal(size=200)
    own = np.random.default_rng(sum(map(ord, name)))
    values = mean + hard + of_seeds * own.normal(size=(seeds, 1)) + 0.02 * own.normal(size=(seeds, 200))
    return candidate(name, np.clip(values, 0, 1), **changes)


LOSSES = [trained("low", 0.4), trained("high", 0.6), trained("close", 0.598), trained("wild", 0.55, of_seeds=0.1)]


def test_the_table_is_that_of_a_plain_computation():
    rows = comparison(*LOSSES).rows
    assert [row.candidate.name for row in rows][-1] == "low"
    tables = [row.candidate.values[METRIC] for row in rows]
    assert [row.value for row in rows] == pytest.approx(sorted((values.mean() for values in tables), reverse=True))
    pairs = list(combinations(range(4), 2))
    corrected = dict(zip(pairs, holm([paired_runs_test(tables[i], tables[j]).p_value for i, j in pairs]), strict=True))
    for place, (row, values) in enumerate(zip(rows, tables, strict=True)):
        assert row.interval == runs_interval(values, bounded=True)
        assert row.of_seeds == pytest.approx(values.mean(axis=1))
        assert row.deviation == pytest.approx(np.std([run.mean() for run in values], ddof=1))
        if place:
            assert row.behind.test.difference == pytest.approx(tables[0].mean() - values.mean())
            assert row.behind.p_corrected == corrected[0, place]
            assert row.behind.p_models == paired_test(tables[0].mean(axis=0), values.mean(axis=0)).p_value
    assert rows[0].behind is None


def test_a_class_is_left_out_of_the_references_too_where_runs_say_what_would_change():
    """With one run of each it is the test of two reports, and their intervals."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 5)
    evaluate = RetrievalEvaluator(metrics=(METRIC,), recall_at=())
    rows = rng.normal(size=(12, 6))[labels] + 0.9 * rng.normal(size=(2, 60, 6))
    reports = [evaluate(each, labels) for each in rows]
    best, other = sorted(reports, key=lambda report: -report[METRIC])
    losses = [candidate(str(n), [r.per_unit[METRIC]], absence=r.absence) for n, r in enumerate((best, other))]
    found = comparison(*losses, clusters=labels).rows[1].behind
    blind = comparison(*(replace(loss, absence={}) for loss in losses), clusters=labels).rows[1].behind
    expected = best.compare(other)[METRIC]
    assert found.p_models == pytest.approx(expected.p_value)
    assert found.test.parts.variance > blind.test.parts.variance
    assert blind.test[:4] == paired_runs_test(best.per_unit[METRIC], other.per_unit[METRIC], clusters=labels)[:4]
    many = [replace(loss, values={METRIC: np.repeat(loss.values[METRIC], 2, axis=0)}) for loss in losses]
    assert comparison(*many, clusters=labels).rows[1].behind.test.parts.units == found.test.parts.units
    alone = comparison(losses[0], clusters=labels).rows[0]
    assert alone.interval == pytest.approx(best.ci[METRIC], abs=0.01)  # but for the degrees of freedom
    over_queries = paired_runs_test(best.per_unit[METRIC], other.per_unit[METRIC])
    assert comparison(*losses).rows[1].behind.test[:4] == over_queries[:4]  # where classes are known


def test_the_order_of_candidates_does_not_matter_but_for_equal_ones():
    assert [row.candidate.name for row in comparison(*LOSSES).rows] == [
        row.candidate.name for row in comparison(*reversed(LOSSES)).rows
    ]
    one, same = trained("one", 0.5), candidate("same", trained("one", 0.5).values[METRIC])
    found = comparison(one, same)
    assert [row.candidate.name for row in found.rows] == ["one", "same"]
    assert (found.rows[1].behind.test.difference, found.rows[1].behind.p_corrected) == (0, 1)
    assert found.is_real is False
    assert found.verdict.endswith("which may be chance: nothing can be said.")


def test_values_pair_up_by_query():
    """The same numbers in another order of queries are the same means, but another test."""
    one, other = trained("one", 0.51, of_seeds=0), trained("other", 0.5, of_seeds=0)
    shuffled = candidate("other", np.random.default_rng(0).permuted(other.values[METRIC], axis=1))
    paired, unpaired = comparison(one, other).rows[1].behind, comparison(one, shuffled).rows[1].behind
    assert paired.test.difference == pytest.approx(unpaired.test.difference)
    assert paired.p_corrected < 0.05 < unpaired.p_corrected


CLASSES = np.repeat(np.arange(20), 10)


def of_classes(name, mean, draws, seeds=3, of_seeds=0.005):
    """Values of queries whose class one loss may take better than another does."""
    liked = 0.1 * draws.normal(size=20)[CLASSES]
    noise = of_seeds * draws.normal(size=(seeds, 1)) + 0.02 * draws.normal(size=(seeds, 200))
    return candidate(name, np.clip(mean + liked + noise, 0, 1))


def test_where_classes_are_new_intervals_and_tests_are_over_classes():
    draws = np.random.default_rng(0)
    one, other = of_classes("one", 0.54, draws), of_classes("other", 0.5, draws)
    by_class, by_query = comparison(one, other, clusters=CLASSES), comparison(one, other)
    tables = [row.candidate.values[METRIC] for row in by_class.rows]
    expected = paired_runs_test(*tables, clusters=CLASSES)
    behind = by_class.rows[1].behind
    assert behind.test == expected._replace(over="classes")
    assert behind.p_corrected == expected.p_value
    assert behind.p_models == paired_test(*(table.mean(axis=0) for table in tables), clusters=CLASSES).p_value
    assert by_class.rows[0].interval == runs_interval(tables[0], clusters=CLASSES, bounded=True)
    assert by_query.rows[1].behind.is_real
    assert not behind.is_real  # two hundred queries are no two hundred classes
    assert "interval over 20 classes" in by_class.verdict
    assert "interval over 200 queries" in by_query.verdict


def test_everything_that_is_written_says_over_what(tmp_path):
    draws = np.random.default_rng(0)
    losses = [of_classes(name, 0.5, draws) for name in "ab"]
    losses = [candidate(one.name, one.values[METRIC], options={"loss": "SoftmaxLoss"}) for one in losses]
    for clusters, over in ((CLASSES, "20 classes"), (None, "200 queries")):
        found = comparison(*losses, clusters=clusters)
        write_comparison(found, tmp_path, {})
        assert f"over {over}" in (tmp_path / "compare.csv").read_text()
        page = (tmp_path / "compare.html").read_text()
        assert f"over seeds and {over}" in page
        assert found.unseen in page
        content = json.loads((tmp_path / "compare.json").read_text())
        assert content["ci_method"] == f"analysis of variance over seeds and {over}"
        assert found.summary.endswith(f"judged over seeds and {over.split()[1]}")


def test_few_classes_are_said_and_one_says_nothing():
    values = trained("one", 0.5).values[METRIC]
    for classes, said in ((4, "4 classes are few"), (1, "1 of the classes is too little")):
        found = comparison(
            candidate("one", values), candidate("other", values - 0.1), clusters=np.arange(200) % classes
        )
        assert found.doubts[0].startswith(said)
        assert found.over == ("4 classes" if classes > 1 else "200 queries")
    assert comparison(*LOSSES, clusters=np.arange(200) % 5).doubts == []


def test_equal_losses_are_equal_over_classes():
    one = of_classes("one", 0.5, np.random.default_rng(0))
    behind = comparison(one, candidate("same", one.values[METRIC]), clusters=CLASSES).rows[1].behind
    assert (behind.test.difference, behind.test.p_value, behind.p_corrected, behind.p_models) == (0, 1, 1, 1)


def test_intervals_of_distances_say_what_is_real():
    """Holm's test may be sure where Bonferroni's interval reaches beyond 0; never the other way round."""
    ended = 0
    for seed in range(25):
        draws = np.random.default_rng(seed)
        found = comparison(*(of_classes(name, mean, draws) for name, mean in (("a", 0.6), ("b", 0.5), ("c", 0.3))))
        for clusters in (None, CLASSES):
            judged = comparison(*found.candidates, clusters=clusters)
            for _, behind in judged.others:
                assert behind.is_real == (behind.test.low >= 0)
                ended += behind.test.low == 0
    assert ended


def test_what_a_comparison_cannot_see_is_said():
    draws = np.random.default_rng(3)
    losses = [of_classes(name, 0.5, draws) for name in "ab"]
    found = comparison(*losses, clusters=CLASSES)
    behind = found.rows[1].behind
    now, seeds, classes = behind.detectable(), behind.detectable(runs=2), behind.detectable(units=2)
    assert classes < seeds <= now  # classes differ, seeds hardly do
    assert f"With 3 seeds and 20 classes a true difference of {now:.4f} to" in found.unseen
    assert "more classes help more" in found.unseen
    assert found.content()["candidates"][1]["behind_the_best"]["detectable"] == now
    assert found.unseen == found.content()["unseen"]
    wild = [of_classes(name, 0.5, draws, of_seeds=0.2) for name in "ab"]
    assert "more seeds help more" in comparison(*wild, clusters=CLASSES).unseen
    assert comparison(trained("a", 0.5)).unseen == ""
    single = [trained(name, 0.5, seeds=1) for name in "ab"]
    assert comparison(*single).unseen == "With one seed no difference is called real, however large it is."


def test_with_three_seeds_and_twenty_classes_few_alarms_are_false_and_what_should_be_seen_is():
    of_class, of_seed, rest = 0.05, 0.02, 0.02
    both = rest**2 / 600
    runs = of_seed**2 / 3 + both
    true = VarianceParts(2 * (of_class**2 / 20 + both), (runs, runs), (both, both), 20, (3, 3)).detectable()
    draws, alarms, seen = np.random.default_rng(1), [], []
    for _ in range(400):
        one, other = (
            of_class * draws.normal(size=20)[CLASSES]
            + of_seed * draws.normal(size=(3, 1))
            + rest * draws.normal(size=(3, 200))
            for _ in range(2)
        )
        alarms.append(paired_runs_test(one, other, clusters=CLASSES).p_value < 0.05)
        seen.append(paired_runs_test(one + true, other, clusters=CLASSES).p_value < 0.05)
    assert np.mean(alarms) < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    assert np.mean(seen) == pytest.approx(0.8, abs=0.06)


def test_the_table_of_the_page_is_that_of_its_script():
    docs = Path(__file__).resolve().parents[2] / "docs"
    script = runpy.run_path(str(docs / "benchmarks" / "seeds_and_classes.py"))
    assert "\n".join(script["table"]()) in (docs / "compare.md").read_text(encoding="utf-8")


def test_queries_without_anything_to_find_are_left_out():
    values = trained("one", 0.5).values[METRIC].copy()
    values[:, 3] = np.nan
    found = comparison(candidate("one", values), candidate("other", values - 0.1))
    assert found.queries == 199
    assert found.rows[0].value == pytest.approx(np.delete(values, 3, axis=1).mean())


def test_intervals_stay_where_values_can_be():
    rows = comparison(candidate("sure", np.ones((3, 200))), candidate("odd", np.eye(3, 200))).rows
    assert rows[0].interval[0] == pytest.approx(0.981, abs=1e-3)  # Wilson's: 200 of 200
    assert all(0 <= row.interval[0] <= row.value <= row.interval[1] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([trained("A", 0.6)], "A reaches a mean_average_precision_at_r of 0.6... there is no other loss to compare it"),
        ([trained("A", 0.5), trained("B", 0.6)], "B is the best: its ... above that of A, the next, and ... is real."),
        ([trained("A", 0.6), trained("B", 0.601)], "A has the highest ... but B is ... nothing can be said."),
        (
            [trained("A", 0.6), trained("B", 0.5), trained("C", 0.601), trained("D", 0.3)],
            "A has ... but C is ... behind, which may be chance; it is really better than B and D.",
        ),
        (
            [trained("A", 0.6), trained("E", 0.601), trained("C", 0.601), trained("D", 0.3)],
            "has the highest ... may be chance, as may be its lead over ...; it is really better than D.",
        ),
        (
            [trained("A", 0.9), trained("B", 0.1, seeds=1), trained("C", 0.5)],
            "A has ... but B is ... p < 0.001) behind, which may be the luck of one seed; it is really better than C.",
        ),
        ([failed("F"), trained("A", 0.6)], "A reaches ... there is no other loss"),
    ],
)
def test_the_verdict_says_no_more_than_is_known(candidates, expected):
    said = comparison(*candidates).verdict
    place = 0
    for part in expected.split("..."):
        assert part.strip() in said[place:], said
        place = said.index(part.strip(), place)
    assert said.endswith(".")
    assert "\n" not in said


def test_what_makes_a_comparison_doubtful_is_said():
    assert comparison(*LOSSES).doubts == []
    found = comparison(trained("one", 0.5, seeds=1), failed("F"), trained("two", 0.4), pixels=0.7)
    assert [doubt.partition(",")[0].partition(":")[0] for doubt in found.doubts] == [
        "raw pixels reach 0.7000",
        "one seed says nothing of how far another one would move a loss",
        "F failed",
    ]
    assert found.rows[0].deviation is None


def test_the_remedy_of_a_comparison_is_none_that_was_taken():
    neck = {"pretrained": True, "freeze": "trunk"}
    for options, words in (({"pretrained": True}, "train the neck alone"), (neck, "train with a smaller --lr")):
        found = comparison(replace(trained("one", 0.5), options=options), pixels=0.1)
        found = replace(found, before={METRIC: np.full(200, 0.7)})
        (sentence,) = found.unbeaten
        assert f"the model reached 0.7000, and no loss does better: {words}" in sentence


def test_the_json_holds_what_the_table_does(tmp_path):
    found = comparison(*LOSSES, failed("F"))
    content = json.loads(found.to_json(tmp_path / "found.json"))
    assert content == json.loads((tmp_path / "found.json").read_text())
    assert (content["schema"], content["command"], content["metric"]) == (1, "compare", METRIC)
    assert [each["rank"] for each in content["candidates"]] == [1, 2, 3, 4, None]
    assert content["candidates"][-1]["error"].startswith("loss must be finite")
    second = content["candidates"][1]
    assert second["value"] == found.rows[1].value
    assert second["behind_the_best"]["p_corrected"] == found.rows[1].behind.p_corrected
    assert content["pixels"][METRIC] == pytest.approx(0.1)
    assert content["best"] == found.rows[0].candidate.name
    assert content["verdict"] == found.verdict
    assert content["is_real"] is found.is_real


def test_the_page_holds_the_verdict_the_ranking_and_every_run(tmp_path):
    found = comparison(*LOSSES, failed("F<b>"), trained("chosen", 0.3, options={"loss": "chosen(scale=3)", "lr": 0.2}))
    write_comparison(found, tmp_path / "out", {"epochs": 3})
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert found.verdict in page
    assert "F&lt;b&gt; failed: loss must be finite" in page
    for row in found.rows:
        assert f"{row.value:.4f}" in page
        assert all(run in page for run in row.candidate.runs)
    for heading in ("Ranking", "Picture", "Against the best", "All metrics", "Runs", "Settings", "Configuration"):
        assert heading in page
    assert "chosen(scale=3)" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_how_validation_went_where_it_did(tmp_path):
    logged = [{"event": event, "epoch": epoch, "loss": 1 / epoch, METRIC: 0.1} for epoch in (1, 2) for event in EVENTS]
    for events, shown in ((EVENTS, True), (EVENTS[:1], False)):
        lines = [json.dumps(each) for each in logged if each["event"] in events]
        runs = [tmp_path / f"{shown}-{seed}" for seed in range(3)]
        for run in runs:
            run.mkdir()
            (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        one = trained("one", 0.5, runs=list(map(str, runs)), options={"loss": "SoftmaxLoss"})
        write_comparison(comparison(one), tmp_path / "out", {})
        page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
        assert "Means over seeds, in training." in page
        assert ("on the validation images" in page) == shown


def test_the_table_lists_all_failed_ones_and_raw_pixels_too():
    columns, rows = table(comparison(*LOSSES, failed("F")), digits=3)
    assert [row[0].split()[0] for row in rows] == ["1", "2", "3", "4", "–", "–"]
    assert rows[4][:2] == ["– F", "failed"]
    assert rows[5][:2] == ["– raw pixels", "0.100"]
    assert {len(row) for row in rows} == {len(columns)}
