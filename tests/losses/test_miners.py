"""PML's tuple miners with every loss: a sample counts by how many of the tuples it stands in."""

import copy
from collections import Counter

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers

from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

B = 12
WEIGHTINGS = ["max", "normalize", "count"]
MINERS = {
    "AngularMiner": miners.AngularMiner(),
    "BatchEasyHardMiner": miners.BatchEasyHardMiner(),
    "BatchEasyHardMiner of all": miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="all"),
    "BatchHardMiner": miners.BatchHardMiner(),
    "DistanceWeightedMiner": miners.DistanceWeightedMiner(),
    "EmbeddingsAlreadyPackagedAsTriplets": miners.EmbeddingsAlreadyPackagedAsTriplets(),
    "HDCMiner": miners.HDCMiner(),
    "MultiSimilarityMiner": miners.MultiSimilarityMiner(),
    "PairMarginMiner": miners.PairMarginMiner(),
    "TripletMarginMiner": miners.TripletMarginMiner(),
    "UniformHistogramMiner": miners.UniformHistogramMiner(),
}
each_loss = pytest.mark.parametrize("case", CASES, ids=str)
each_miner = pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS)


@pytest.fixture
def batch(generator):
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double)
    return embeddings, torch.arange(B) % (NUM_CLASSES - 1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # some miners draw


def weights(tuples, weighting, size=B):
    """What each sample counts, by the documentation."""
    counts = Counter(int(i) for index in tuples for i in index)
    if not counts:
        return torch.ones(size, dtype=torch.double)
    share = {"max": max(counts.values()), "normalize": sum(counts.values()) / size, "count": 1}[weighting]
    return torch.tensor([counts[i] / share for i in range(size)], dtype=torch.double)


def per_sample(loss, *batch):
    loss.set_reducer(reducers.DoNothingReducer())
    return loss(*batch)["loss"]["losses"]


def test_every_miner_of_pml_is_here():
    here = {type(miner).__name__ for miner in MINERS.values()}
    theirs = {name for name in dir(miners) if name.endswith("Miner") or name.startswith("EmbeddingsAlready")}
    assert here == theirs - {"BaseMiner"}


@each_loss
@each_miner
def test_a_sample_counts_by_the_tuples_that_it_stands_in(case, miner, batch):
    tuples = miner(*batch)
    assert sum(map(len, tuples)) > 0
    losses = per_sample(case.build(), *batch)
    for weighting in WEIGHTINGS:
        weighted = per_sample(case.build(miner_weighting=weighting), *batch, tuples)
        torch.testing.assert_close(weighted, losses * weights(tuples, weighting))
        torch.testing.assert_close(case.build(miner_weighting=weighting)(*batch, tuples), weighted.mean())


@each_miner
def test_max_is_the_weighting_of_pml(miner, batch):
    """PML's own loss of the same name, with the same weights and tuples."""
    theirs = pml_losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE).double()
    case = next(case for case in CASES if str(case) == "CosFaceLoss")
    tuples = miner(*batch)
    torch.testing.assert_close(case.loss.from_pml(theirs)(*batch, tuples), theirs(*batch, tuples))


def test_normalize_takes_the_mean_of_what_was_mined(batch):
    case, tuples = CASES[0], (torch.tensor([0, 1]), torch.tensor([6, 7]), torch.tensor([2, 3]))
    mined = per_sample(case.build(), *batch)[[0, 1, 6, 7, 2, 3]]
    torch.testing.assert_close(case.build(miner_weighting="normalize")(*batch, tuples), mined.mean())


@each_loss
def test_no_tuples_at_all_are_as_no_miner(case, batch):
    value = case.build()(*batch)
    for weighting in WEIGHTINGS:
        for nothing in (torch.zeros(0, dtype=torch.long),) * 3, (torch.tensor([]),) * 4:  # the latter is of floats
            assert torch.equal(case.build(miner_weighting=weighting)(*batch, nothing), value)


@each_loss
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_tuples_with_an_ignored_sample_do_not_count(case, weighting, batch):
    embeddings, labels = batch[0], batch[1].masked_fill(batch[1] == 2, -1)
    kept = (labels != -1).nonzero().squeeze(1)
    tuples = miners.TripletMarginMiner(margin=10)(embeddings, labels)  # all triplets, those of the ignored too
    among = [
        triplet for triplet in zip(*(index.tolist() for index in tuples), strict=True) if {2, 8}.isdisjoint(triplet)
    ]
    assert 0 < len(among) < len(tuples[0])
    others = tuple(torch.searchsorted(kept, torch.tensor(index)) for index in zip(*among, strict=True))
    arguments = {"ignore_index": -1, "miner_weighting": weighting}
    losses = per_sample(case.build(**arguments), embeddings, labels, tuples)
    alone = per_sample(case.build(miner_weighting=weighting), embeddings[kept], labels[kept], others)
    torch.testing.assert_close(losses, alone)
    pairs = (tuples[0], tuples[1], tuples[0][:0], tuples[2][:0])
    assert per_sample(case.build(**arguments), embeddings, labels, pairs).isfinite().all()


@each_loss
def test_only_ignored_samples_in_tuples_are_as_no_miner(case, batch):
    labels = batch[1].masked_fill(batch[1] == 2, -1)
    tuples = torch.tensor([2]), torch.tensor([8]), torch.tensor([0])
    value = case.build(ignore_index=-1)(batch[0], labels, tuples)
    torch.testing.assert_close(value, case.build(ignore_index=-1)(batch[0], labels))


LONG = torch.tensor([0, 1])
WRONG = {
    "two parts": ((LONG, LONG), TypeError, r"three tensors \(triplets\) or four \(pairs\), got 2 parts"),
    "a tensor": (torch.zeros(3, 2), TypeError, r"or four \(pairs\), got Tensor. Pass miner\(embeddings, labels\)"),
    "the miner": (miners.MultiSimilarityMiner(), TypeError, r"or four \(pairs\), got MultiSimilarityMiner"),
    "lists": (([0], [1], [2]), TypeError, r"got a list among them. Convert it with torch.as_tensor"),
    "floats": ((LONG.float(),) * 3, TypeError, r"of integers, got dtype torch.float32 among them"),
    "masks": ((LONG.bool(),) * 3, TypeError, r"of integers, got dtype torch.bool among them"),
    "outside": ((LONG, LONG, LONG + 11), ValueError, r"index the 12 samples of the batch, got 12. Mine the same emb"),
    "negative": ((LONG, LONG, LONG - 1), ValueError, r"index the 12 samples of the batch, got -1"),
    "lengths": ((LONG, LONG, LONG[:1]), ValueError, r"of equal length, got shapes \[\(2,\), \(2,\), \(1,\)\]"),
    "lengths of pairs": ((LONG, LONG[:1], LONG, LONG), ValueError, r"equal length, got shapes \[\(2,\), \(1,\), "),
    "numbers": ((torch.tensor(0),) * 3, ValueError, r"of equal length, got shapes \[\(\), \(\), \(\)\]"),
    "columns": ((LONG.unsqueeze(1),) * 3, ValueError, r"of equal length, got shapes \[\(2, 1\)"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_no_miner_returns_is_answered_and_moves_nothing(mistake, batch):
    tuples, error, message = WRONG[mistake]
    for case in CASES:
        loss = case.build()
        before = copy.deepcopy(loss.state_dict())
        with pytest.raises(error, match=f"indices_tuple must .*{message}"):
            loss(*batch, tuples)
        assert all(torch.equal(loss.state_dict()[name], value) for name, value in before.items())


def test_positives_and_negatives_may_be_different_in_number(batch):
    loss = CASES[0].build()
    tuples = LONG, LONG + 6, LONG[:1], LONG[:1] + 1
    torch.testing.assert_close(loss(*batch, tuples), (per_sample(loss, *batch) * weights(tuples, "max")).mean())


def test_a_miner_with_references_mines_outside_the_batch(batch):
    miner = miners.TripletMarginMiner(margin=10)
    tuples = miner(*batch, torch.cat([batch[0], batch[0]]), torch.cat([batch[1], batch[1]]))
    with pytest.raises(ValueError, match="Mine the same embeddings that the loss gets, without references"):
        CASES[0].build()(*batch, tuples)
