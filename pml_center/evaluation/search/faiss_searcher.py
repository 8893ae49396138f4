"""Any faiss index as pytorch-metric-learning wants to search it, and as candidates for the evaluator."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pml_center.arrays import as_matrix, as_path, check_count
from pml_center.checks import check_choices
from pml_center.evaluation.search.exact_search import import_faiss
from pml_center.evaluation.search.references import Ids, Matrix, Similarity, prepare
from pml_center.names import one_line

PER_CENTROID = 39  # training vectors below which faiss warns that a centroid is badly placed
LOOKED_AT = 64  # rows of an index that are compared with those that it is to hold
ROUGHLY = 0.9  # of their length: how far codes may be from them; other embeddings are 1.4 away
EXACTLY = 1e-3  # of their length: how far rows are that are kept as they were


class FaissSearcher:
    """A faiss index by its factory string, as ``knn_func`` of PML's ``AccuracyCalculator`` and ``InferenceModel``.

    Unlike PML's ``FaissKNN`` it trains the indexes that need training, removes a query from its own neighbours by its
    row, and never returns -1: an inverted file is searched in more of its lists until every query has k neighbours.

    Args:
        index: a string for ``faiss.index_factory`` such as ``"Flat"``, ``"IVF256,Flat"`` or ``"HNSW32"``, or a function
            of the embedding size that returns an empty faiss index of the same metric.
        similarity: ``"euclidean"``, as PML's default, whose distances are squared; ``"cosine"`` or ``"dot"``, whose
            distances are the similarities, largest first.
        parameters: how to search, in faiss's words, e.g. ``"nprobe=16"`` or ``"efSearch=64"``.

    Raises:
        ImportError: faiss is not installed.
        ValueError: an unknown similarity, a string or parameters that faiss does not understand.

    Example:
        >>> searcher = FaissSearcher()
        >>> distances, ids = searcher(torch.tensor([[0.0], [5.0]]), k=2, reference=torch.tensor([[1.0], [4.0], [9.0]]))
        >>> distances, ids
        (tensor([[ 1., 16.],
                [ 1., 16.]]), tensor([[0, 1],
                [1, 0]]))
    """

    def __init__(
        self,
        index: str | Callable[[int], Any] = "Flat",
        similarity: Similarity = "euclidean",
        parameters: str = "",
    ):
        check_choices(similarity=(similarity, Similarity))
        if not (isinstance(index, str) or callable(index)) or not isinstance(parameters, str):
            raise TypeError(
                "index must be a string of faiss or a function, and parameters a string, got "
                f"{index!r} and {parameters!r}. Try 'IVF256,Flat' and 'nprobe=16'."
            )
        self.kind, self.similarity, self.parameters = index, similarity, parameters
        self.index: Any = None

    def __call__(
        self, query: Tensor, k: int, reference: Tensor | None = None, ref_includes_query: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k nearest of each query.

        Args:
            query: (Q, D).
            k: neighbours per query.
            reference: (N, D) to search in, instead of what was added before.
            ref_includes_query: the first Q references are the queries, each of which is left out for itself.

        Returns:
            Distances (Q, k) and ids (Q, k) on the device of the queries, nearest first.

        Raises:
            ValueError: more neighbours than the index can give, nothing to search in, another width.
        """
        if reference is not None:
            searcher = FaissSearcher(self.kind, self.similarity, self.parameters)
            searcher.train(reference)
            return searcher(query, k, None, ref_includes_query)
        scores, ids = self._search(self._matrix(query, "query"), check_count("k", k) + ref_includes_query)
        if ref_includes_query:
            own = ids == np.arange(len(ids))[:, None]
            own[~own.any(axis=1), -1] = True  # duplicates have pushed the query out: it gives up its last neighbour
            scores, ids = scores[~own].reshape(len(ids), k), ids[~own].reshape(len(ids), k)
        device = query.device if isinstance(query, Tensor) else "cpu"
        return torch.from_numpy(scores).to(device), torch.from_numpy(ids).to(device)

    def train(self, embeddings: Any) -> None:
        """Start a new index, train it where it needs training, and add the embeddings (N, D).

        Raises:
            ValueError: too few embeddings to train on, or whatever else the index refuses about them.
        """
        matrix, _ = prepare(as_matrix(embeddings, "embeddings"), "embeddings", self.similarity)
        index = self.empty(matrix.shape[1])
        if not index.is_trained:
            self._check_enough(index, len(matrix))
            with self._refusals(matrix):
                index.train(matrix)
        with self._refusals(matrix):
            index.add(matrix)
        self.index = index

    def add(self, embeddings: Any) -> None:
        """Add embeddings (N, D) to the index.

        Raises:
            ValueError: no index yet, or another width.
        """
        matrix = self._matrix(embeddings, "embeddings")
        with self._refusals(matrix):
            self._started().add(matrix)

    def save(self, filename: str | Path) -> None:
        """Write the index to a file.

        Raises:
            ValueError: no index yet.
        """
        import_faiss().write_index(self._started(), str(as_path(filename, "filename")))

    def load(self, filename: str | Path) -> None:
        """Read an index that :meth:`save` or faiss itself wrote. The similarity must be that of its vectors.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that holds no index.
        """
        if not as_path(filename, "filename").is_file():
            raise FileNotFoundError(f"filename must be an existing file, got {str(filename)!r}. Check the path.")
        try:
            index = import_faiss().read_index(str(filename))
        except RuntimeError as error:
            raise ValueError(
                f"filename must be an index that faiss wrote, got {str(filename)!r} ({_reason(error)}). Write it again."
            ) from error
        self._set_parameters(index)
        self.index = index

    def reset(self) -> None:
        """Forget the index."""
        self.index = None

    def check_holds(self, embeddings: Any) -> None:
        """What was loaded must be an index of these embeddings (N, D), compared as this searcher compares them.

        Some rows are read back, where the index can do so: one that keeps codes in their place gives them back roughly.

        Raises:
            ValueError: an index of another width, number of rows or similarity, or of other embeddings.
        """
        index, faiss = self._started(), import_faiss()
        remedy = "Write the index with `pml-center embed --index`, and search in the embeddings beside it."
        for what, held, rule in zip(("rows", "columns"), (index.ntotal, index.d), embeddings.shape, strict=True):
            if held != rule:
                raise ValueError(f"index must have the {rule:,} {what} of the embeddings, got {held:,}. {remedy}")
        remedy_of_similarity = "Give the --similarity that it was written for."
        by_distance = index.metric_type == faiss.METRIC_L2
        if by_distance != (self.similarity == "euclidean"):
            got = "euclidean distance" if by_distance else "products"
            raise ValueError(
                f"index must compare by {self.similarity}, got one that compares by {got}. {remedy_of_similarity}"
            )
        lists = faiss.try_extract_index_ivf(index)
        if lists and isinstance(faiss.downcast_index(lists), faiss.IndexIVFFastScan):
            return  # to read a row of such lists from a file ends the process
        chosen = np.unique(np.linspace(0, index.ntotal - 1, LOOKED_AT).astype(np.int64))
        asked = as_matrix(np.asarray(embeddings[chosen]), "embeddings")
        rows, length = self._matrix(asked, "embeddings"), np.linalg.norm(asked, axis=1, keepdims=True)
        try:
            if lists:
                lists.make_direct_map()
            held = np.stack([index.reconstruct(int(row)) for row in chosen])
        except RuntimeError:  # of some kinds no row can be had back
            return
        # faiss has one product for "cosine" and "dot": what tells them apart is whether rows have length 1.
        others = asked if self.similarity == "cosine" else asked / np.maximum(length, np.finfo(np.float32).tiny)
        distance, of_others = (np.linalg.norm(held - each, axis=1) for each in (rows, others))
        size = np.linalg.norm(rows, axis=1)
        if distance.sum() > max(2 * of_others.sum(), EXACTLY * size.sum()):
            got = "as they are" if self.similarity == "cosine" else "brought to length 1"
            raise ValueError(
                f"index must hold the embeddings as {self.similarity} compares them, got them {got}. "
                + remedy_of_similarity
            )
        off = distance > size * ROUGHLY
        if off.mean() > 0.5:
            raise ValueError(
                f"index must hold these embeddings, got others in {off.sum()} of {len(off)} rows: it was made by other "
                f"weights, or for another similarity. {remedy}"
            )

    def empty(self, width: int) -> Any:
        """The index for rows of a width, before it is trained.

        Raises:
            ValueError: a string that faiss does not understand.
        """
        faiss = import_faiss()
        if not isinstance(self.kind, str):
            index = self.kind(width)
        else:
            metric = faiss.METRIC_L2 if self.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
            try:
                index = faiss.index_factory(width, self.kind, metric)
            except RuntimeError as error:
                raise ValueError(
                    f"index must be a string that faiss.index_factory knows, got {self.kind!r} for {width} columns "
                    f"by {self.similarity} ({_reason(error)}). Try 'Flat', 'IVF256,Flat' or 'HNSW32'."
                ) from error
        self._set_parameters(index)
        return index

    def _started(self) -> Any:
        if self.index is None:
            raise ValueError("index must hold embeddings before it is used, got none. Call train or load first.")
        return self.index

    def _matrix(self, embeddings: Any, name: str) -> Matrix:
        """Embeddings as the index compares them."""
        matrix, width = as_matrix(embeddings, name), self._started().d
        if matrix.shape[1] != width:
            raise ValueError(
                f"{name} must have {width} columns, the width of the index, got {matrix.shape[1]}. "
                "Embed with the model that the index was built with."
            )
        return prepare(matrix, name, self.similarity)[0]

    def _set_parameters(self, index: Any) -> None:
        if not self.parameters:
            return
        try:
            import_faiss().ParameterSpace().set_index_parameters(index, self.parameters)
        except RuntimeError as error:
            raise ValueError(
                f"parameters must be some that the index {self.kind!r} has, got {self.parameters!r}. "
                "Try 'nprobe=16' for an inverted file, 'efSearch=64' for HNSW."
            ) from error

    @contextmanager
    def _refusals(self, matrix: Matrix) -> Iterator[None]:
        """What faiss refuses about embeddings, as a sentence of ours around its reason."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(
                f"index {self.kind!r} must fit the embeddings, got {len(matrix):,} rows of {matrix.shape[1]} columns "
                f"({_reason(error)}). Use 'Flat', or fewer lists, centroids or dimensions; leave IDMap out."
            ) from error

    def _check_enough(self, index: Any, vectors: int) -> None:
        lists = import_faiss().try_extract_index_ivf(index)
        needed = PER_CENTROID * (lists.nlist if lists else 1)
        if vectors < needed:
            fewer = max(1, vectors // PER_CENTROID)
            raise ValueError(
                f"index {self.kind!r} must have at least {needed:,} embeddings to train on, {PER_CENTROID} for each of "
                f"its lists, got {vectors:,}. Use 'Flat', or at most {fewer} lists."
            )

    def _search(self, matrix: Matrix, k: int) -> tuple[Matrix, Ids]:
        """Distances and ids (Q, k), none of which is -1."""
        index = self._started()
        if k > index.ntotal:
            raise ValueError(f"k must be at most {index.ntotal}, what the index holds, got {k}. Ask for fewer.")
        with self._refusals(matrix):
            scores, ids = index.search(matrix, k)
        short = np.flatnonzero(ids[:, -1] < 0)  # faiss fills up with -1
        lists = import_faiss().try_extract_index_ivf(index)
        probed = lists.nprobe if lists else 0
        while lists and len(short) and lists.nprobe < lists.nlist:
            lists.nprobe = min(2 * lists.nprobe, lists.nlist)
            scores[short], ids[short] = index.search(matrix[short], k)
            short = short[ids[short, -1] < 0]
        if lists:
            lists.nprobe = probed
        if len(short):
            raise ValueError(
                f"k must be at most what the index finds, got {k} with too few neighbours for query {short[0]} "
                f"({len(short)} of {len(ids)} queries). Ask for fewer, or use 'Flat'."
            )
        return scores, ids


def _reason(error: RuntimeError) -> str:
    """What faiss says in words, without the C++ around it."""
    return one_line(re.sub(r".*(failed: ?|\.(cpp|h):\d+: )", "", str(error), flags=re.DOTALL)) or "it does not say why"
