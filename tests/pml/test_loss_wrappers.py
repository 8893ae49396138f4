"""PML's wrappers take losses by a list of names: what they say to ours."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from tests.cases import CASES

NAMES = sorted({case.loss.__name__ for case in CASES})
WRAPPERS = {
    "CrossBatchMemory": lambda loss: pml_losses.CrossBatchMemory(loss, embedding_size=5),
    "SelfSupervisedLoss": pml_losses.SelfSupervisedLoss,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_loss_that_brings_its_own_references_is_refused(wrapper, case):
    with pytest.raises(Exception, match=f"{wrapper} not supported for {case.loss.__name__}"):
        WRAPPERS[wrapper](case.build())


@pytest.mark.parametrize("wrapper", [pml_losses.CrossBatchMemory, pml_losses.SelfSupervisedLoss])
def test_no_loss_of_ours_has_a_name_on_the_list(wrapper):
    """One that had would be taken for PML's."""
    assert len(NAMES) >= 30
    assert not set(NAMES) & set(wrapper.supported_losses())


def test_self_supervision_and_center_loss_are_two_terms(generator):
    """The wrapper makes labels of its own, one per image; classes are for the other term."""
    from pml_center.losses import CenterLoss

    views, others = torch.randn(2, 6, 5, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    alike, center = pml_losses.SelfSupervisedLoss(pml_losses.NTXentLoss()), CenterLoss(3, 5)
    value = alike(views, others) + 0.01 * center(torch.cat([views, others]), torch.cat([labels, labels]))
    both, twice = torch.cat([views, others]), torch.arange(6).repeat(2)
    torch.testing.assert_close(value, pml_losses.NTXentLoss()(both, twice) + 0.005 * both.square().sum(1).mean())
