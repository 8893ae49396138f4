"""Search: the nearest references of each query, and where all its relevant references stand. Knows vectors and codes.

- ``references``, ``ordering``: rows made ready to compare; scores and rows as integers to sort
- ``exact_search``: the nearest neighbours, exactly; ``index_search``, ``distance_search``: among the candidates of an
  index, by any distance of PML; ``faiss_searcher``: an index for PML itself
- ``ranking``, ``gallery_ranking``: where relevant references stand, in the whole gallery
"""

from pml_center.evaluation.search.distance_search import DistanceSearch, native_similarity
from pml_center.evaluation.search.exact_search import (
    ExactSearch,
    Neighbours,
    check_two_sets,
    duplicates,
    image_named,
    import_faiss,
    nearest_neighbours,
    queries_among,
)
from pml_center.evaluation.search.faiss_searcher import FaissSearcher
from pml_center.evaluation.search.gallery_ranking import Ties, rank_gallery
from pml_center.evaluation.search.index_search import IndexSearch
from pml_center.evaluation.search.ranking import Counts, Ranking, Values
from pml_center.evaluation.search.references import Ids, Matrix, Similarity

__all__ = [
    "Counts",
    "DistanceSearch",
    "ExactSearch",
    "FaissSearcher",
    "Ids",
    "IndexSearch",
    "Matrix",
    "Neighbours",
    "Ranking",
    "Similarity",
    "Ties",
    "Values",
    "check_two_sets",
    "duplicates",
    "image_named",
    "import_faiss",
    "native_similarity",
    "nearest_neighbours",
    "queries_among",
    "rank_gallery",
]
