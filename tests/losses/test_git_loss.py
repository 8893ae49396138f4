"""Git loss: which centers repel, and what the authors' code makes of it."""

import pytest
import torch

from pml_center import losses
from tests import golden_io


def of_two_classes(**arguments):
    loss = losses.GitLoss(3, 1, **arguments).double()
    loss.centers.copy_(torch.tensor([[0.0], [3.0], [1.0]]))
    return loss


BATCH = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.double), torch.tensor([0, 0, 1])


def test_only_classes_in_the_batch_repel_once_for_each_of_their_samples():
    expected = (0 + 1 / 10) + (1 / 2 + 1 / 5) + (1 / 2 + 2 / 5)  # the center of class 2, at 1, is nobody's
    torch.testing.assert_close(3 * of_two_classes()(*BATCH).item(), expected)


def test_the_literal_sum_has_the_other_samples_of_the_own_class():
    expected = (0 + 1 / 1 + 1 / 10) + (1 / 2 + 1 / 2 + 1 / 5) + (1 / 2 + 2 / 5)
    torch.testing.assert_close(3 * of_two_classes(same_class=True)(*BATCH).item(), expected)


def test_without_repulsion_it_is_center_loss(generator):
    embeddings = torch.randn(8, 4, generator=generator)
    labels = torch.arange(8) % 3
    git, center = losses.GitLoss(3, 4, repulsion=0), losses.CenterLoss(3, 4)
    for _ in range(2):
        assert torch.equal(git(embeddings, labels), center(embeddings, labels))
        assert torch.equal(git.centers, center.centers)


@pytest.mark.parametrize("same_class", [False, True])
def test_repulsion_does_not_move_the_centers_by_itself(same_class):
    loss, center = of_two_classes(same_class=same_class, repulsion=100), losses.CenterLoss(3, 1).double()
    center.centers.copy_(loss.centers)
    loss(*BATCH)
    center(*BATCH)
    assert torch.equal(loss.centers, center.centers)


def test_repulsion_must_not_be_negative():
    with pytest.raises(ValueError, match="repulsion must be finite and at least 0, got -1"):
        losses.GitLoss(3, 2, repulsion=-1)


@pytest.mark.parametrize("name", golden_io.names("git__kjanjua26_tf__*"))
def test_the_authors_code_is_this_loss_of_one_coordinate_at_a_time(name):
    golden = golden_io.load(name)
    official = golden.meta["hyperparameters"]
    centers = golden.arrays["init/state/centers"]
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
        batch_size, width = embeddings.shape
        first = losses.GitLoss(*centers.shape, repulsion=0, alpha=official["alpha"]).double()
        first.centers.copy_(torch.from_numpy(centers))
        pull = 2 / width * first(embeddings, labels)
        push = torch.zeros((), dtype=torch.double)
        for coordinate in range(width):
            one, none = (losses.GitLoss(len(centers), 1, r, same_class=True).double().eval() for r in (1.0, 0.0))
            for loss in (one, none):
                loss.centers.copy_(torch.from_numpy(centers[:, [coordinate]]))
            column = embeddings[:, [coordinate]]
            push = push + (one(column, labels) - none(column, labels)) / (batch_size * width)
        value = official["lambda_c"] * pull + official["lambda_g"] * (push + 1 / batch_size)
        value.backward()
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/state_after/centers", first.centers)
        centers = step["state_after/centers"]
