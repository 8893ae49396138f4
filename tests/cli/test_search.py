"""search: many queries at once, of any kind, exactly or in an index of faiss."""

import json
import shutil
import subprocess
import sys

import faiss
import numpy as np
import pytest

from pml_center.cli import main
from pml_center.data import digits
from pml_center.evaluation import FaissSearcher, load_samples, nearest_neighbours, save_samples


@pytest.fixture(scope="module")
def where(trained, tmp_path_factory):
    """A folder with images in two folders, and their embeddings with an index."""
    folder = tmp_path_factory.mktemp("where")
    for i in range(60):
        image, label = digits()[i]
        path = folder / "photos" / f"digit{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["embed", str(trained / "small"), "photos", "--out", "rows", "--workers", "0", "--index", "HNSW32"])
    return folder


@pytest.fixture
def asked(run):
    """A function that searches: the neighbours of each query."""
    return lambda *arguments: json.loads(run("search", *arguments, "--json"))["neighbours"]


def test_many_queries_are_one_table_and_one_page(run, asked, where):
    queries = ("photos/digit3", "photos/digit0/0.png", "photos/digit0/10.png", "photos/digit3/3.png")
    found = asked("rows", *queries, "--k", 2)
    names = [f"photos/digit3/{i}.png" for i in (3, 13, 23, 45, 59)] + list(queries[1:3])
    assert sorted(found) == sorted(names)  # each once
    samples = load_samples(where / "rows")
    assert all(rows[0]["image"] == str(where / name) for name, rows in found.items())
    table = run("search", "rows", *queries, "--k", 2, "--report", "found.html")
    assert table.count("cosine") == 1
    assert all(table.count(name) >= 1 for name in names)
    page = (where / "found.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 3 * len(names)
    assert samples.embeddings.shape == (60, 16)


def test_what_is_embedded_already_needs_no_model(run, asked, where, monkeypatch):
    monkeypatch.setattr("pml_center.cli.sources.model_of", None)
    samples = load_samples(where / "rows")
    np.save(where / "queries.npy", samples.embeddings[[7, 3]])
    found = asked("rows", "queries.npy", "--k", 3)
    assert list(found) == ["queries.npy[0]", "queries.npy[1]"]
    ids, _ = nearest_neighbours(samples.embeddings[[7, 3]], 3, samples.embeddings)
    assert [[row["image"] for row in rows] for rows in found.values()] == [
        [samples.names[i] for i in row] for row in ids
    ]
    assert list(asked("rows", "rows", "--k", 1)) == samples.names
    assert "queries.npy[1]" in run("search", "rows", "queries.npy", "--report", "arrays.html")
    assert "queries.npy[1]" in (where / "arrays.html").read_text(encoding="utf-8")


def test_what_is_embedded_already_loads_torch_and_faiss_and_no_training(where):
    code = """
import sys
from pml_center.cli import main

main(["search", "rows", "rows", "--k", "1"])
main(["eval", "rows", "--ci", "none"])
print({"timm", "torchvision", "sklearn", "pytorch_metric_learning", "scipy.stats", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=where)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF1,Flat", "PCA4,Flat"])
def test_an_index_finds_what_exact_search_finds(asked, where, tmp_path, kind, similarity):
    samples = load_samples(where / "rows")
    searcher = FaissSearcher(kind, similarity)
    searcher.train(samples.embeddings)
    searcher.save(tmp_path / "any.faiss")
    arguments = ("rows", "rows", "--k", 2, "--similarity", similarity)
    exact, found = asked(*arguments), asked(*arguments, "--index", tmp_path / "any.faiss")
    hits = [rows[1]["image"] == exact[name][1]["image"] for name, rows in found.items()]
    assert np.mean(hits) > (0.3 if kind.startswith("PCA") else 0.9)
    if not kind.startswith("PCA"):
        scores = [[rows[name][0]["score"] for name in found] for rows in (found, exact)]
        np.testing.assert_allclose(*scores, atol=1e-3, rtol=1e-3)


def test_embed_writes_an_index_beside_the_embeddings(run, where, trained):
    assert faiss.read_index(str(where / "rows" / "index.faiss")).ntotal == 60
    assert json.loads((where / "rows" / "model.json").read_text())["index"] == {
        "factory": "HNSW32",
        "similarity": "cosine",
    }
    shutil.copytree(where / "rows", where / "again")
    run("embed", trained / "small", "photos", "--out", "again", "--workers", "0")
    assert not (where / "again" / "index.faiss").exists()  # of what was there before


def test_an_index_that_does_not_fit_is_refused(run, where, trained, tmp_path):
    samples = load_samples(where / "rows")
    rows = np.array(samples.embeddings)
    draw = np.random.default_rng(0)

    def refused(matrix, similarity="cosine", kind="Flat", *more):
        searcher = FaissSearcher(kind, similarity)
        searcher.train(matrix)
        searcher.save(tmp_path / "other.faiss")
        return run("search", "rows", "rows", "--index", tmp_path / "other.faiss", *more, code=2)

    assert "index must have the 16 columns of the embeddings, got 5" in refused(rows[:, :5])
    assert "index must have the 60 rows of the embeddings, got 59" in refused(rows[1:])
    assert "index must compare by cosine, got one that compares by euclidean" in refused(rows, "euclidean")
    assert "index must compare by euclidean, got" in refused(rows, "cosine", "Flat", "--similarity", "euclidean")
    others = draw.normal(size=rows.shape).astype(np.float32)
    for kind in ("Flat", "HNSW8", "IVF1,Flat"):
        assert "index must hold these embeddings, got others" in refused(others, "cosine", kind)
    assert "filename must be an existing file" in run("search", "rows", "rows", "--index", "no.faiss", code=2)
    run("embed", trained / "small", "photos", "--out", "flipped", "--workers", "0", "--flip-test", "--index", "Flat")
    message = run("search", "rows", "rows", "--index", "flipped/index.faiss", code=2)
    assert "index must be of the embeddings in 'rows', got that of others in 'flipped'" in message
    assert "images must be embedded as 'rows' was" in run("search", "rows", "flipped", code=2)


def test_an_index_that_is_damaged_is_refused(run, where):
    """Rows that are looked at may all be whole, and the index still find nothing."""
    shutil.copytree(where / "rows", where / "damaged")
    path = where / "damaged" / "index.faiss"
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)
    for folder in ("rows", "damaged"):
        said = run("search", folder, "rows", "--index", path, code=2)
        assert f"index must be as `pml-center embed` wrote it, got other bytes in '{path}'" in said
    shutil.copy(path, where / "damaged" / "foreign.faiss")
    run("search", "rows", "rows", "--index", where / "damaged" / "foreign.faiss")  # of which nothing is written down


def test_an_index_is_asked_as_it_was_written_to_compare(run, asked, where, trained):
    out = ("--out", "by_dot", "--workers", "0")
    run("embed", trained / "small", "photos", *out, "--index", "Flat", "--similarity", "dot")
    arguments = ("by_dot", "by_dot", "--k", 2)
    exact = asked(*arguments)  # by what the index beside the embeddings compares by
    assert exact == asked(*arguments, "--similarity", "dot") != asked(*arguments, "--similarity", "cosine")
    index = ("--index", "by_dot/index.faiss")
    assert [rows[0]["image"] for rows in asked(*arguments, *index).values()] == [
        rows[0]["image"] for rows in exact.values()
    ]
    refused = run("search", *arguments, *index, "--similarity", "cosine", code=2)
    assert "index must compare by cosine, got one that compares by dot. Give the --similarity" in refused
    refused = run("search", "rows", "rows", "--index", "rows/index.faiss", "--similarity", "dot", code=2)
    assert "index must compare by dot, got one that compares by cosine" in refused


def test_queries_and_options_that_cannot_be_are_refused(run, where, trained):
    np.save(where / "narrow.npy", np.ones((1, 5), np.float32))
    (where / "empty").mkdir(exist_ok=True)
    for query, words in (
        ("gone.png", "images must be existing files, got gone.png"),
        ("empty", "images must be files or folders that hold some, got 'empty' without any"),
        ("narrow.npy", "queries and references must have the same width, got 5 and 16 columns"),
    ):
        assert words in run("search", "rows", query, code=2)
    assert "k must be" in run("search", "rows", "rows", "--k", 0, code=2)
    embed = ("embed", trained / "small", "photos", "--out", "new", "--workers", "0")
    assert "index must be a string that faiss.index_factory knows, got 'HSNW'" in run(*embed, "--index", "HSNW", code=2)
    assert "similarity must come with --index" in run(*embed, "--similarity", "dot", code=2)
    assert not (where / "new").exists()


def test_a_folder_that_save_samples_wrote_is_searched_too(asked, where):
    samples = load_samples(where / "rows")
    save_samples(where / "own", samples._replace(embeddings=np.array(samples.embeddings)))
    assert asked("own", "rows", "--k", 1)[samples.names[5]][0]["image"] == samples.names[5]
