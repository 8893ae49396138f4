"""Pages of reports: that everything is on them, that nothing else is, and what they cost."""

import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

mpl.use("Agg")

from pml_center.data import digits
from pml_center.evaluation import (
    IdentificationEvaluator,
    Pairs,
    Report,
    RetrievalEvaluator,
    VerificationEvaluator,
    write_html,
)
from pml_center.evaluation.report import told_once
from pml_center.evaluation.search.exact_search import ExactSearch
from pml_center.pages.pair_samples import nearest_mates
from pml_center.pages.parts import Material, Part
from pml_center.pages.retrieval import RetrievalParts
from pml_center.pages.thumbnails import SIDE, Thumbnails

DIGITS = digits().subset(np.arange(300))
LABELS = [DIGITS.classes[label] for label in DIGITS.labels]
PIXELS = np.stack([np.asarray(DIGITS[i][0], dtype=np.float32).ravel() for i in range(300)])
PIXELS[299], LABELS[299] = PIXELS[0], "a wrong label"


class Page(HTMLParser):
    """What stands on a page: its text, its ids, where its links lead, its pictures and headings."""

    def __init__(self, html):
        super().__init__()
        self.html, self.ids, self.links, self.pictures, self.open, self.text, self.headings = (
            html,
            [],
            [],
            [],
            [],
            "",
            [],
        )
        self.feed(html)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert not [name for name in attributes if name.startswith("on")], "no element runs a script"
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("href", "xlink:href") if name in attributes]
        self.pictures += [attributes["src"]] if tag == "img" else []
        if tag not in ("img", "meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
            self.headings += [data] if self.open[-1] in ("h2", "h3") else []


@pytest.fixture
def page(tmp_path):
    """A function that writes a page, and reads it."""

    def make(reports, **material):
        reports = reports if isinstance(reports, dict) else {"": reports}
        return Page(write_html(tmp_path / "report.html", reports, **material).read_text(encoding="utf-8"))

    return make


@pytest.fixture(scope="module")
def retrieval():
    return RetrievalEvaluator(recall_at=(1, 2), resamples=20)(PIXELS, LABELS)


def test_a_page_of_retrieval_has_all_its_parts(page, retrieval):
    found = page(retrieval, images=DIGITS, embeddings=PIXELS)
    assert found.headings == [
        "Retrieved images",
        "Hardest mistakes",
        "Hardest positives",
        "Likely label errors",
        "Near-duplicates",
        "Plots",
        "Confused classes",
        "Classes",
        "Configuration and environment",
    ]
    for words in (
        "300 references",
        "leave-one-out",
        "Similarity of pairs",
        "ROC",
        "DET",
        "CMC",
        "in two dimensions",
        "faiss",
    ):
        assert words in found.text
    assert "precision_at_1" in retrieval.metrics
    assert "precision_at_1" not in found.text  # which recall_at_1 is
    for name, value in ((name, retrieval[name]) for name in told_once(retrieval.metrics)):
        assert name in found.text
        assert f"{value:.4f}" in found.text
        assert f"{retrieval.ci[name][0]:.4f} … {retrieval.ci[name][1]:.4f}" in found.text


def test_a_page_needs_nothing_from_elsewhere_and_its_links_lead_somewhere(page, retrieval):
    verification = VerificationEvaluator(resamples=20)(PIXELS, LABELS)
    found = page({"Retrieval": retrieval, "Verification": verification}, images=DIGITS, embeddings=PIXELS)
    assert len(found.ids) == len(set(found.ids))
    inner = [link for link in found.links if link.startswith("#")]
    assert {link[1:] for link in inner} <= set(found.ids)
    assert all(link.startswith(("#", "data:")) for link in found.links + found.pictures)
    references = set(re.findall(r"url\(#([^)]+)\)", found.html))
    assert references <= set(found.ids)
    assert len(inner) > 10
    assert not re.search(r"@import|<link|<iframe|src=\"(?!data:)", found.html)


def test_drawings_take_the_colour_of_the_text(page, retrieval):
    found = page(retrieval, embeddings=PIXELS)
    assert "currentColor" in found.html
    assert "#010203" not in found.html
    assert "prefers-color-scheme: dark" in found.html


def test_without_images_names_stand_in_their_place(page, retrieval):
    found = page(retrieval)
    assert not found.pictures
    assert re.search(r"row \d+", found.text)
    assert "Hardest mistakes" in found.headings
    assert "Hardest positives" not in found.headings  # for which embeddings are needed


HOSTILE = [
    "<script>alert(1)</script>.png",
    "\"onerror='x' &amp;.png",
    "naïve\u202egnp.exe",
    "caf\udce9.png",
    "new\nline",
]


def test_odd_names_and_labels_are_text_and_nothing_else(page):
    labels = [HOSTILE[i % 5] for i in range(20)]
    report = RetrievalEvaluator(ci=None)(np.random.default_rng(0).normal(size=(20, 4)), labels)
    names = [f"<b>{i}</b>{HOSTILE[i % 5]}" for i in range(20)]
    report = type(report)(**vars(report) | {"names": names})
    found = page(report, title="</title><h1>", details={"<i>": {"<u>": "<s>"}}, embeddings=np.eye(20))
    assert not re.search(r"<script>alert|<b>|<i>|<u>|<s>", found.html)
    assert found.html.count("<script>") == 1
    assert "<script>alert(1)</script>.png" in found.text
    assert "caf\\udce9.png" in found.text
    assert "</title><h1>" in found.text


def test_pictures_are_small_and_few(page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, size=(400, 300, 300, 3), dtype=np.uint8)  # compresses worst
    rows = np.random.default_rng(1).normal(size=(400, 8))
    report = RetrievalEvaluator(ci=None)(rows, np.arange(400) % 4)
    found = page({str(i): report for i in range(6)}, images=noise)
    assert len(found.pictures) == 500
    assert (tmp_path / "report.html").stat().st_size < 10e6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_image_has_a_thumbnail(mode, tmp_path):
    image = Image.new(mode, (300, 150))
    image.save(tmp_path / ("image.tif"))
    uri = Thumbnails().uri([tmp_path / "image.tif"], 0)
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    from base64 import b64decode
    from io import BytesIO

    assert Image.open(BytesIO(b64decode(data))).size == (SIDE, SIDE // 2)
    assert Thumbnails().uri([image], 0) == uri


def test_what_is_no_image_is_named():
    with pytest.raises(ValueError, match="images must be paths, PIL images or uint8 arrays, got float in row 1"):
        Thumbnails().uri([0.5, 0.5], 1)
    with pytest.raises(ValueError, match=r"got nowhere\.png \(FileNotFoundError"):
        Thumbnails().uri(["nowhere.png"], 0)


@pytest.mark.parametrize("name", ["images", "embeddings"])
def test_material_of_other_rows_is_refused(page, retrieval, name):
    with pytest.raises(ValueError, match=f"{name} must be 300, as many as the report is about, got 7"):
        page(retrieval, **{name: PIXELS[:7]})


def test_references_show_their_own_images(page):
    queries, references = np.arange(0, 300, 2), np.arange(1, 300, 2)
    report = RetrievalEvaluator(ci=None)(
        PIXELS[queries], np.array(LABELS)[queries], PIXELS[references], np.array(LABELS)[references]
    )
    material = {"embeddings": PIXELS[queries], "references": PIXELS[references]}
    found = page(report, images=DIGITS.subset(queries), reference_images=DIGITS.subset(references), **material)
    assert "Hardest positives" in found.headings
    row = int(report.worst(1)[0])
    mate = nearest_mates(ExactSearch(*material.values()), report.codes, report.reference_codes)[0][row]
    assert LABELS[references[mate]] == LABELS[queries[row]]
    assert DIGITS.subset(references).name(int(report.neighbours.ids[0, 0])).startswith("digits[")


def test_the_page_shows_no_pair_that_a_group_leaves_out(page):
    """Each image twice, the second in the same session: without groups its copy is its nearest, at distance 0."""
    rows = np.repeat(PIXELS[:100], 2, axis=0)
    labels, sessions = np.repeat(LABELS[:100], 2), np.repeat(np.arange(100), 2)
    report = RetrievalEvaluator(similarity="euclidean", ci=None)(rows, labels, query_groups=sessions)
    parts = RetrievalParts(report, Material(embeddings=rows), Thumbnails())
    positives = parts.hardest_positives().rows
    assert positives
    assert all(float(mate.note) < 0 for _, mate in positives)
    caption = parts.drawings().plots[0].caption
    alike, apart = labels[:, None] == labels, sessions[:, None] != sessions
    genuine, impostor = (np.count_nonzero(np.triu(each & apart)) for each in (alike, ~alike))
    assert caption.startswith(f"All {genuine:,} genuine and all {impostor:,} impostor pairs. ")


def test_a_gallery_in_parts_is_shown_as_one(page):
    queries, references = PIXELS[:100], PIXELS[100:300]
    parts = [references[:50], references[50:]]
    pages = [
        page(
            RetrievalEvaluator(ci=None)(queries, LABELS[:100], each, LABELS[100:300]),
            embeddings=queries,
            references=each,
        )
        for each in (references, parts)
    ]
    assert pages[0].text == pages[1].text


def test_verification_shows_the_pairs_that_went_wrong(page):
    random = np.random.default_rng(0)
    first, second = random.choice(300, (2, 200))
    kept = first != second
    first, second = first[kept], second[kept]
    labels = np.array(LABELS)
    same = labels[first] == labels[second]
    pairs = Pairs(first, second, same, folds=np.arange(len(first)) % 5)
    report = VerificationEvaluator(resamples=20)(PIXELS, labels, pairs)
    found = page(report, images=DIGITS)
    assert "Band: 95 % intervals" in found.text
    assert {"Rejected genuine pairs", "Accepted impostor pairs", "Plots of pairs"} <= set(found.headings)
    assert f"{report.thresholds['accuracy']:.4f}" in found.text
    worst = report.mistakes(1)[0]
    assert DIGITS.name(int(first[worst["pair"]])) in found.html


def test_any_report_has_a_page(page):
    report = Report(
        metrics={"rank_1": 0.5, "shift": 3.25},
        protocol="a protocol",
        counts={"probes": 4},
        ci={"rank_1": (0.25, 0.75)},
        ci_method="bootstrap",
        curves={"cmc": {"rank": np.array([1, 2]), "rate": np.array([0.5, 1])}},
        warnings=("few probes",),
    )
    found = page(report)
    assert "Warning: few probes" in " ".join(found.text.split())
    assert "3.2500" in found.text
    assert "CMC" in found.text
    assert "Over 4 probes." in found.text


def test_what_it_comes_to_stands_first_and_once(page):
    report = Report(metrics={"x": 0.5}, protocol="a protocol", warnings=("few classes", "it got worse: try less"))
    first = ["it got worse: try less", "Training lowered x"]
    found = page({"One": report, "Other": report}, title="a title", first=first, notes=["a note"])
    text = "".join(found.text.split())
    assert text.startswith("atitleatitleWarning:itgotworse:trylessTrainingloweredxanoteOneOther")
    assert text.count("itgotworse") == 1
    assert text.count("Warning:fewclasses") == 2
    assert found.html.count('<p class="lead">') == 1


def test_label_errors_beside_a_gallery_are_told_as_they_are_found(page):
    found = page(RetrievalEvaluator(ci=None)(PIXELS[:100], LABELS[:100], PIXELS[100:], LABELS[100:]))
    assert "no other query with this nearest reference is more similar to it" in found.text
    assert "each is the other's nearest" not in found.text


def test_a_curve_that_no_plot_is_made_for_is_a_line(page):
    evaluator = IdentificationEvaluator(ci=None)
    found = page(evaluator.distractor_curve(PIXELS[:100], LABELS[:100], PIXELS[100:299]))
    assert "distractors" in found.text
    assert "rank_1_at_199" in found.text


def test_on_a_phone_each_number_of_a_wide_table_stands_beside_the_name_of_its_column(page):
    rows = [["ArcFaceLoss", "0.81", "0.79 … 0.83"]]
    part = Part("Ranking", columns=["loss", "value", "95 % over classes"], rows=rows)
    html = page({"": Report(metrics={}, protocol="", counts={})}, extra=[part]).html
    assert '<td class="number" data-column="95 % over classes">0.79 … 0.83</td>' in html
    narrow = html[html.index("@media (max-width: 40rem)") :]
    assert ".wide, .wide tbody, .wide tr { display: block; }" in narrow
    assert "content: attr(data-column)" in narrow
