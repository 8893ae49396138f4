"""Images with labels: where they come from, how they are split, how they become tensors."""

from pml_center.data.digits import digits
from pml_center.data.image_folder import image_folder
from pml_center.data.labeled_images import LabeledImages, UnreadableImageError, encode_labels
from pml_center.data.open_images import ImageSplits, open_images, open_splits
from pml_center.data.samplers import EpochBatches
from pml_center.data.splits import split_classes, split_images
from pml_center.data.transforms import eval_transform, train_transform

__all__ = [
    "EpochBatches",
    "ImageSplits",
    "LabeledImages",
    "UnreadableImageError",
    "digits",
    "encode_labels",
    "eval_transform",
    "image_folder",
    "open_images",
    "open_splits",
    "split_classes",
    "split_images",
    "train_transform",
]
