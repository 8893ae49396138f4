"""Losses, one file a paper, each a first-class loss of pytorch-metric-learning, whose own are here by their names."""

from pytorch_metric_learning import losses as _pml_losses

from pml_center.losses.adacos_loss import AdaCosLoss
from pml_center.losses.adaface_loss import AdaFaceLoss
from pml_center.losses.adaptiveface_loss import AdaptiveFaceLoss
from pml_center.losses.angular_center_loss import AngularCenterLoss
from pml_center.losses.angular_triplet_center_loss import AngularTripletCenterLoss
from pml_center.losses.arcface_loss import ArcFaceLoss
from pml_center.losses.arcnegface_loss import ArcNegFaceLoss
from pml_center.losses.base_center_loss import BaseCenterLoss
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss
from pml_center.losses.broadface_loss import BroadFaceLoss
from pml_center.losses.cac_loss import CACLoss
from pml_center.losses.center_contrastive_loss import CenterContrastiveLoss
from pml_center.losses.center_loss import CenterLoss
from pml_center.losses.centroid_triplet_loss import CentroidTripletLoss
from pml_center.losses.circle_softmax_loss import CircleSoftmaxLoss
from pml_center.losses.coco_loss import COCOLoss
from pml_center.losses.combined_margin_loss import CombinedMarginLoss
from pml_center.losses.contrastive_center_loss import ContrastiveCenterLoss
from pml_center.losses.cosface_loss import CosFaceLoss
from pml_center.losses.curricularface_loss import CurricularFaceLoss
from pml_center.losses.dynamic_arcface_loss import DynamicArcFaceLoss
from pml_center.losses.elasticface_loss import ElasticFaceLoss
from pml_center.losses.git_loss import GitLoss
from pml_center.losses.hetero_center_loss import HeteroCenterLoss
from pml_center.losses.island_loss import IslandLoss
from pml_center.losses.kappaface_loss import KappaFaceLoss
from pml_center.losses.large_margin_softmax_loss import LargeMarginSoftmaxLoss
from pml_center.losses.ldam_loss import LDAMLoss
from pml_center.losses.lgm_loss import LGMLoss
from pml_center.losses.li_arcface_loss import LiArcFaceLoss
from pml_center.losses.magface_loss import MagFaceLoss
from pml_center.losses.marginal_loss import MarginalLoss
from pml_center.losses.mv_softmax_loss import MVSoftmaxLoss
from pml_center.losses.normalized_softmax_loss import NormalizedSoftmaxLoss
from pml_center.losses.npcface_loss import NPCFaceLoss
from pml_center.losses.p2sgrad_loss import P2SGradLoss
from pml_center.losses.range_loss import RangeLoss
from pml_center.losses.sface_loss import SFaceLoss
from pml_center.losses.softmax_center_loss import SoftmaxCenterLoss
from pml_center.losses.softmax_loss import SoftmaxLoss
from pml_center.losses.sphereface2_loss import SphereFace2Loss
from pml_center.losses.sphereface_loss import SphereFaceLoss
from pml_center.losses.subcenter_arcface_loss import SubCenterArcFaceLoss
from pml_center.losses.triplet_center_loss import TripletCenterLoss
from pml_center.losses.uniface_loss import UniFaceLoss
from pml_center.losses.vpl_loss import VPLLoss

__all__ = [
    "AdaCosLoss",
    "AdaFaceLoss",
    "AdaptiveFaceLoss",
    "AngularCenterLoss",
    "AngularTripletCenterLoss",
    "ArcFaceLoss",
    "ArcNegFaceLoss",
    "BaseCenterLoss",
    "BaseSoftmaxLoss",
    "BroadFaceLoss",
    "CACLoss",
    "COCOLoss",
    "CenterContrastiveLoss",
    "CenterLoss",
    "CentroidTripletLoss",
    "CircleSoftmaxLoss",
    "CombinedMarginLoss",
    "ContrastiveCenterLoss",
    "CosFaceLoss",
    "CurricularFaceLoss",
    "DynamicArcFaceLoss",
    "ElasticFaceLoss",
    "GitLoss",
    "HeteroCenterLoss",
    "IslandLoss",
    "KappaFaceLoss",
    "LDAMLoss",
    "LGMLoss",
    "LargeMarginSoftmaxLoss",
    "LiArcFaceLoss",
    "MVSoftmaxLoss",
    "MagFaceLoss",
    "MarginalLoss",
    "NPCFaceLoss",
    "NormalizedSoftmaxLoss",
    "P2SGradLoss",
    "RangeLoss",
    "SFaceLoss",
    "SoftmaxCenterLoss",
    "SoftmaxLoss",
    "SphereFace2Loss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "TripletCenterLoss",
    "UniFaceLoss",
    "VPLLoss",
]


def __getattr__(name: str) -> type:
    """PML's losses of pairs and triplets, so that the import is all that changes in a program that takes both."""
    found = getattr(_pml_losses, name, None)
    if isinstance(found, type):
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
