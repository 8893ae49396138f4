"""Any faiss index as PML's knn_func: trained, complete, saved; and PML's own classes running on it."""

import faiss
import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import FaissKNN, InferenceModel

from pml_center.evaluation import FaissSearcher, RetrievalEvaluator
from tests.evaluation.clusters import PML_METRICS, clusters, unit


def rows(number=500, width=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32))


@pytest.mark.parametrize("ref_includes_query", [True, False])
def test_flat_finds_what_pml_finds(ref_includes_query):
    reference = rows()
    query = reference[:50] if ref_includes_query else rows(50, seed=1)
    distances, ids = FaissSearcher()(query, 7, reference, ref_includes_query)
    expected_distances, expected = FaissKNN()(query, 7, reference, ref_includes_query)
    assert ids.tolist() == expected.tolist()
    torch.testing.assert_close(distances, expected_distances)
    assert (ids.dtype, distances.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_similarities_come_largest_first(similarity):
    query, reference = 3 * rows(20, seed=1), 2 * rows()
    values, ids = FaissSearcher(similarity=similarity)(query, 5, reference)
    if similarity == "cosine":
        query, reference = (torch.nn.functional.normalize(each) for each in (query, reference))
    expected, expected_ids = (query @ reference.T).topk(5)
    assert ids.tolist() == expected_ids.tolist()
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_a_query_is_removed_by_its_row_even_among_duplicates():
    reference = rows(10).repeat_interleave(4, dim=0)
    _, ids = FaissSearcher()(reference, 3, reference, ref_includes_query=True)
    assert not (ids == torch.arange(40)[:, None]).any()
    assert (ids // 4 == torch.arange(40)[:, None] // 4).all()
    _, ids = FaissSearcher()(reference, 1, reference, ref_includes_query=True)  # 2 of 4 duplicates: the query may miss
    assert ids.shape == (40, 1)


@pytest.mark.parametrize("index", ["IVF8,Flat", "IVF4_HNSW8,Flat", "PCA4,IVF8,Flat", "IVF4,SQ8"])
def test_every_index_is_trained_and_gives_as_many_neighbours_as_were_asked_for(index):
    """With 8 lists one probe holds about 60 of 500 references."""
    reference = rows(1000)
    for k in (1, 100, 900):
        distances, ids = FaissSearcher(index)(rows(30, seed=1), k, reference)
        assert ids.shape == (30, k)
        assert (ids >= 0).all()
        assert all(len(set(row)) == k for row in ids.tolist())
        assert (distances.diff(dim=1) >= 0).all()


def test_a_search_in_more_lists_is_for_those_queries_alone():
    searcher = FaissSearcher("IVF8,Flat")
    searcher.train(rows(1000))
    before = searcher(rows(30, seed=1), 5)[1]
    assert (searcher(rows(30, seed=1), 900)[1] >= 0).all()
    assert faiss.extract_index_ivf(searcher.index).nprobe == 1
    assert searcher(rows(30, seed=1), 5)[1].tolist() == before.tolist()


def test_parameters_of_the_search_are_set():
    query, reference = rows(100, seed=1), rows(1000)
    exact = FaissSearcher()(query, 10, reference)[1].tolist()
    assert FaissSearcher("IVF8,Flat", parameters="nprobe=8")(query, 10, reference)[1].tolist() == exact
    assert FaissSearcher("IVF8,Flat")(query, 10, reference)[1].tolist() != exact


def test_an_index_that_cannot_find_enough_is_an_error_and_not_minus_one():
    """A graph of few edges does not reach all of its references."""
    with pytest.raises(ValueError, match=r"got 900 with too few neighbours for query 0 \(30 of 30 queries\)"):
        FaissSearcher("HNSW4")(rows(30, seed=1), 900, rows(1000))


def test_embeddings_are_added_saved_and_read_again(tmp_path):
    query, reference = rows(20, seed=1), rows()
    searcher = FaissSearcher(similarity="cosine")
    searcher.train(reference[:400])
    searcher.add(reference[400:].numpy())
    expected = FaissSearcher(similarity="cosine")(query, 5, reference)[1].tolist()
    assert searcher(query, 5)[1].tolist() == expected
    searcher.save(tmp_path / "index.faiss")
    other = FaissSearcher(similarity="cosine")
    other.load(tmp_path / "index.faiss")
    assert other(query, 5)[1].tolist() == expected
    searcher(query, 5, reference[:100])
    assert searcher(query, 5)[1].tolist() == expected  # references of one call do not stay
    searcher.reset()
    with pytest.raises(ValueError, match="index must hold embeddings before it is used, got none"):
        searcher(query, 5)


def test_a_function_may_make_the_index():
    made = []

    def make(width):
        made.append(width)
        return faiss.IndexFlatL2(width)

    ids, expected = (knn(rows(20, seed=1), 5, rows())[1].tolist() for knn in (FaissSearcher(make), FaissKNN()))
    assert ids == expected
    assert made == [8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FaissSearcher("Flatt")(rows(5), 1, rows()), "string that faiss.index_factory knows, got 'Flatt'"),
        (lambda: FaissSearcher(similarity="l2"), "similarity must be a known name, got 'l2'"),
        (
            lambda: FaissSearcher("IVF256,Flat")(rows(5), 1, rows()),
            r"must have at least 9,984 embeddings to train on.*got 500. Use 'Flat', or at most 12 lists",
        ),
        (
            lambda: FaissSearcher("Flat", parameters="nprobe=4")(rows(5), 1, rows()),
            "parameters must be some that the index",
        ),
        (lambda: FaissSearcher()(rows(5), 501, rows()), "k must be at most 500, what the index holds, got 501"),
        (lambda: FaissSearcher()(rows(5), 0, rows()), "k must be a positive integer, got 0"),
        (
            lambda: FaissSearcher()(rows(5, width=3), 1, rows()),
            "query must have 8 columns, the width of the index, got 3",
        ),
        (lambda: FaissSearcher()(rows(5) / 0, 1, rows()), "query must be finite, got -?inf"),
        (lambda: FaissSearcher(similarity="cosine")(0 * rows(5), 1, rows()), "query must have a direction"),
        (lambda: FaissSearcher().save("nowhere"), "index must hold embeddings"),
    ],
)
def test_what_cannot_be_searched_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# In PML


@pytest.mark.parametrize("index", ["Flat", "HNSW32", "IVF5,Flat"])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_the_accuracy_calculator_of_pml_searches_with_it(index, leave_one_out):
    embeddings, labels = (torch.from_numpy(values) for values in clusters())
    others = () if leave_one_out else tuple(torch.from_numpy(values) for values in clusters(seed=1))
    calculator, expected = (
        AccuracyCalculator(
            include=PML_METRICS, k="max_bin_count", knn_func=knn, device=torch.device("cpu")
        ).get_accuracy(embeddings, labels, *others)
        for knn in (FaissSearcher(index), FaissKNN())
    )
    assert set(calculator) == set(PML_METRICS)
    for name, value in expected.items():
        assert calculator[name] == pytest.approx(value, abs=1e-9 if index == "Flat" else 0.1), name


def test_the_inference_model_of_pml_searches_with_it(tmp_path):
    embeddings, _ = clusters(per_class=30)
    data = torch.from_numpy(unit(embeddings))
    model = InferenceModel(torch.nn.Identity(), knn_func=FaissSearcher("IVF8,Flat", "cosine", "nprobe=8"))
    model.train_knn(data[:500])
    model.add_to_knn(data[500:])
    similarities, ids = model.get_nearest_neighbors(data[:10], k=4)
    assert ids[:, 0].tolist() == list(range(10))
    torch.testing.assert_close(similarities[:, 0].cpu(), torch.ones(10))
    model.save_knn_func(str(tmp_path / "index"))
    other = InferenceModel(torch.nn.Identity(), knn_func=FaissSearcher("IVF8,Flat", "cosine", "nprobe=8"))
    other.load_knn_func(str(tmp_path / "index"))
    assert other.get_nearest_neighbors(data[:10], k=4)[1].tolist() == ids.tolist()


@pytest.mark.parametrize(
    "index", ["PQ8", "IVF2,PQ8", "HNSW32,PQ8", "OPQ8,PQ8", "PCA64,Flat", "IDMap,Flat", "PQ3", "LSH"]
)
def test_what_faiss_refuses_is_a_sentence_without_its_source(index):
    embeddings, labels = clusters(classes=10, per_class=10)
    with pytest.raises(ValueError, match=r"index.* must .*, got .* columns .*\(.+\)\. (Use|Try) 'Flat'") as caught:
        RetrievalEvaluator(index=index)(embeddings, labels)
    assert ".cpp" not in str(caught.value)
    assert "faiss::" not in str(caught.value)


def test_a_file_that_is_no_index_is_named(tmp_path):
    (tmp_path / "broken").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"filename must be an index that faiss wrote, got '.*broken'"):
        FaissSearcher().load(tmp_path / "broken")
    with pytest.raises(FileNotFoundError, match="filename must be an existing file"):
        FaissSearcher().load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF2,Flat", "IVF2,SQ8", "IVF2,PQ8x4", "PCA6,Flat", "IVF2,PQ4x4fs"])
def test_an_index_by_cosine_is_none_by_dot_though_faiss_has_one_product_for_both(tmp_path, kind):
    """Lists of "fs" cannot be read back from a file: to try it ended the process."""
    vectors = rows(200) * np.float32(0.2)
    for similarity, other in (("cosine", "dot"), ("dot", "cosine")):
        writer = FaissSearcher(kind, similarity)
        writer.train(vectors)
        writer.save(tmp_path / "index")
        readers = FaissSearcher(similarity=similarity), FaissSearcher(similarity=other)
        for reader in readers:
            reader.load(tmp_path / "index")
        readers[0].check_holds(vectors)
        if "fs" not in kind:
            with pytest.raises(ValueError, match=f"index must hold (the embeddings as {other}|these)"):
                readers[1].check_holds(vectors)
