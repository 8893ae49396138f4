"""Plots: what is drawn, not how it looks."""

import importlib.util
import io

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

from pml_center import plots

FAR, TAR = [0, 0, 0.01, 0.1, 1], [0, 0.3, 0.5, 0.9, 1]
RANKS, RATES = np.arange(1, 6), np.linspace(0.6, 0.9, 5)
ROWS = np.random.default_rng(0).normal(size=(40, 6))
IMAGE = np.zeros((8, 8), dtype=np.uint8)

DRAWN = {
    "features": lambda ax: plots.features(ROWS[:, :2], np.arange(40) % 4, ax=ax),
    "directions": lambda ax: plots.directions(ROWS[:, :2], np.arange(40) % 4, np.eye(4, 2) - 0.1, ax=ax),
    "projection": lambda ax: plots.projection(ROWS, np.arange(40) % 4, ax=ax),
    "similarity_histogram": lambda ax: plots.similarity_histogram([0.9, 0.8], [0.1, 0.3], threshold=0.5, ax=ax),
    "roc": lambda ax: plots.roc(FAR, TAR, low=TAR, high=np.ones(5), label="model", ax=ax),
    "det": lambda ax: plots.det(FAR, TAR, low=TAR, high=np.ones(5), label="model", ax=ax),
    "error_by_norm": lambda ax: plots.error_by_norm(np.arange(1, 51), np.arange(50) % 3 / 2, ax=ax),
    "cmc": lambda ax: plots.cmc(RANKS, RATES, RATES - 0.1, RATES + 0.1, label="model", ax=ax),
    "class_means": lambda ax: plots.class_means([0.2, 0.9, 0.9], 0.6, (0.3, 0.8), ax=ax),
    "metric_intervals": lambda ax: plots.metric_intervals({"a": 0.5, "b": 0.7}, {"a": (0.4, 0.6)}, ax=ax),
    "seed_intervals": lambda ax: plots.seed_intervals({"a": [0.5, 0.6], "b": [0.7]}, {"a": (0.4, 0.6)}, 0.3, ax=ax),
    "training_curves": lambda ax: plots.training_curves([1, 2], {"loss": [2.0, 1.0]}, ax=ax),
    "retrieval_gallery": lambda ax: plots.retrieval_gallery([IMAGE], [[IMAGE, IMAGE]], [[True, False]], ax=ax),
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_every_plot_is_drawn_here():
    public = {name for name, value in vars(plots).items() if getattr(value, "__module__", "") == plots.__name__}
    assert set(DRAWN) == {name for name in public if not name.startswith("_")}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_draws_on_the_axes_that_it_is_given_and_no_other(name):
    figure, ax = plt.subplots()
    assert DRAWN[name](ax) is ax
    assert plt.get_fignums() == [figure.number]
    figure.savefig(io.BytesIO(), format="svg")  # whatever is drawn must render
    assert ax.has_data()


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_makes_its_own_axes_where_none_are_given(name):
    assert DRAWN[name](None).figure.number in plt.get_fignums()


@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"retrieval_gallery"}))  # which is images, without axes
def test_both_axes_say_what_they_show(name):
    ax = DRAWN[name](None)
    assert ax.get_xlabel()
    assert ax.get_ylabel() or [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_each_class_has_its_own_colour_and_name():
    labels = np.repeat(np.arange(12), 3)
    points = np.random.default_rng(0).normal(size=(36, 2))
    ax = plots.features(points, labels, names=[f"class {n}" for n in range(12)])
    assert [text.get_text() for text in ax.texts] == [f"class {n}" for n in range(12)]
    assert len(styles(ax)) == 12


def styles(ax):
    """Colour and shape of the points of each scatter."""
    return {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections}


@pytest.mark.parametrize("draw", [plots.features, plots.directions])
def test_points_must_be_two_dimensional(draw):
    with pytest.raises(ValueError, match=r"points must have shape \(3, 2\), got shape \(3, 5\)"):
        draw(np.zeros((3, 5)), [0, 1, 2])


def test_directions_keep_the_angle_and_forget_the_length():
    points = np.array([[0, 5.0], [0.1, 0], [0, 0]])
    ax = plots.directions(points, [0, 1, 1], class_weights=[[0, 9.0], [0.2, 0]])
    drawn = [np.asarray(scatter.get_offsets()) for scatter in ax.collections]
    assert drawn[0][0, 0] == 0
    assert 1 < drawn[0][0, 1] < 1.25
    assert 1 < drawn[1][0, 0] < 1.25
    assert not drawn[1][1].any()  # no direction, no place on the circle
    assert [line.get_xydata()[1].tolist() for line in ax.lines] == [[0, 1], [1, 0]]
    assert not plots.directions(points, [0, 1, 1]).lines


def test_a_projection_colours_the_largest_classes_and_greys_the_others():
    labels = np.repeat([0, 1, 2, 3], [3, 20, 10, 7])
    ax = plots.projection(ROWS, labels, names=["few", "most", "many", "some"], classes=2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["2 others", "most", "many"]
    assert [len(collection.get_offsets()) for collection in ax.collections] == [10, 20, 10]
    assert len(styles(plots.projection(ROWS, np.arange(40) % 10))) == 10


def test_names_of_classes_may_be_any_text():
    names = ["_hidden", "$x$ costs $", "caf\udce9", "two\nlines", "n" * 99]
    ax = plots.projection(ROWS, np.arange(40) % 5, names)
    ax.figure.savefig(io.BytesIO(), format="svg")
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["_hidden", r"\$x\$ costs \$", r"caf\udce9", "two lines", "n" * 23 + "…"]
    plots.features(ROWS[:, :2], np.arange(40) % 5, names).figure.savefig(io.BytesIO())


def test_a_projection_shows_the_directions_of_most_variance():
    rows = np.zeros((50, 5))
    rows[:, 3] = np.linspace(-9, 9, 50)
    ax = plots.projection(rows, np.zeros(50, dtype=int))
    x = ax.collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(np.abs(x), np.abs(rows[:, 3]), atol=1e-5)
    assert "100 %" in ax.get_xlabel()


def test_embeddings_of_one_dimension_lie_on_a_line():
    ax = plots.projection(ROWS[:, :1], np.arange(40) % 2)
    assert not ax.collections[0].get_offsets()[:, 1].any()


@pytest.mark.filterwarnings("ignore")  # of umap-learn itself: no TensorFlow, n_jobs
def test_umap_is_used_where_it_is_installed_and_named_where_it_is_not():
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(ImportError, match="umap-learn is not installed: pip install umap-learn"):
            plots.projection(ROWS, np.arange(40) % 4, method="umap")
    else:
        assert plots.projection(ROWS, np.arange(40) % 4, method="umap").get_xlabel() == "UMAP 1"
        plots.projection(ROWS[:5], range(5), method="umap")
        with pytest.raises(ValueError, match="embeddings must be 5 rows or more for UMAP, got 4"):
            plots.projection(ROWS[:4], range(4), method="umap")


def test_a_projection_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match=r"Did you mean 'pca'\?"):
        plots.projection(ROWS, np.arange(40), method="pcs")
    with pytest.raises(ValueError, match=r"got shape \(40, 6\) and 3 labels"):
        plots.projection(ROWS, [0, 1, 2])


def test_the_histogram_shows_shares_of_each_kind():
    ax = plots.similarity_histogram(np.full(7, 0.5), np.linspace(0, 0.4, 1000))
    heights = [patch.get_data().values for patch in ax.patches]
    assert [values.sum() for values in heights] == pytest.approx([100, 100])
    assert heights[0].max() == 100
    plots.similarity_histogram([0.5], [0.5])  # equal scores have a width too
    with pytest.raises(ValueError, match="got 0 and 1"):
        plots.similarity_histogram([], [0.5])


def test_the_histogram_takes_pairs_that_were_counted():
    ax = plots.similarity_histogram([0, 30], [75, 25], edges=[0, 0.5, 1])
    assert [patch.get_data().values.tolist() for patch in ax.patches] == [[0, 100], [75, 25]]


def test_a_curve_on_a_log_scale_keeps_what_comes_before_the_first_false_accept():
    line = plots.roc(FAR, TAR).lines[0]
    assert line.get_xdata().tolist() == [0.005, 0.01, 0.1, 1]
    assert line.get_ydata().tolist() == [0.3, 0.5, 0.9, 1]
    assert line.get_drawstyle() == "steps-post"  # the rate of the largest threshold that does not exceed a FAR
    line = plots.det(FAR, TAR).lines[0]
    np.testing.assert_allclose(line.get_ydata(), [0.7, 0.5, 0.1, 0.05])  # no error at all leaves the picture below


@pytest.mark.parametrize("curve", [plots.roc, plots.det])
def test_curves_of_two_models_differ_in_colour_and_dashes(curve):
    ax = curve(FAR, TAR, label="one")
    curve([0, 0.001, 1], [0.1, 0.5, 1], label="other", ax=ax)
    lines = [line for line in ax.lines if line.get_label() in ("one", "other")]
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
    assert ax.get_xlim()[0] == pytest.approx(0.0005)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "other"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.roc([0, 1], [0, 0.5, 1]), r"arrays of one length, got far \(2,\), tar \(3,\)"),
        (lambda: plots.det([0, 0], [0, 1]), "far must have a rate above 0"),
        (lambda: plots.cmc([1, 2], [0.5, 0.6], low=[0.4], high=[0.6, 0.7]), r"low \(1,\)"),
        (lambda: plots.training_curves([], {"loss": []}), r"got steps \(0,\)"),
        (lambda: plots.retrieval_gallery([IMAGE], [[IMAGE] * 3], [[True]]), "with up to 3 neighbours"),
    ],
)
def test_arrays_that_do_not_fit_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_long_cmc_has_ranks_on_a_log_scale():
    assert plots.cmc(RANKS, RATES).get_xscale() == "linear"
    assert plots.cmc(np.arange(1, 101), np.linspace(0.1, 1, 100)).get_xscale() == "log"


def test_intervals_stand_around_their_values():
    ax = plots.metric_intervals({"recall": 0.5}, {"recall": (0.4, 0.6)})
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.4, 0.6], [0.5]]
    assert [text.get_text() for text in ax.texts] == ["0.500"]


def test_a_gallery_marks_hits_and_misses_by_colour_dashes_and_sign():
    ax = plots.retrieval_gallery([IMAGE] * 2, [[IMAGE] * 2, [IMAGE]], [[True, False], [False, False]])
    assert [text.get_text() for text in ax.texts] == ["query", "✓", "✗", "query", "✗"]
    hit, miss = ax.patches[1:3]
    assert hit.get_edgecolor() != miss.get_edgecolor()
    assert hit.get_linestyle() != miss.get_linestyle()
    assert len(ax.images) == 5


@pytest.mark.parametrize(
    ("baseline", "said"), [(0.5, "raw pixels"), (0.1, "← raw pixels 0.100"), (2, "raw pixels 2.000 →")]
)
def test_a_far_base_line_does_not_press_the_models_together(baseline, said):
    ax = plots.seed_intervals({"a": [0.6, 0.62], "b": [0.5, 0.55]}, {"a": (0.55, 0.65)}, baseline)
    assert said in [text.get_text() for text in ax.texts]
    low, high = ax.get_xlim()
    assert high - low < 0.3
