"""Images with labels: where they come from, how they are split, how they become tensors."""

from pml_center.names import require

require(__name__, "PIL", "sklearn", "timm", "torchvision", "tqdm")

from pml_center.data.check_data import DataCheck, SameImages, check_data
from pml_center.data.digits import digits
from pml_center.data.image_folder import image_folder
from pml_center.data.image_table import image_table
from pml_center.data.inspect_images import ImageFacts, inspect_images
from pml_center.data.labeled_images import LabeledImages, StoredImage, UnreadableImageError, encode_labels
from pml_center.data.open_images import ImageSplits, open_images, open_splits
from pml_center.data.samplers import EpochBatches
from pml_center.data.splits import split_classes, split_images
from pml_center.data.transforms import eval_transform, train_transform

__all__ = [
    "DataCheck",
    "EpochBatches",
    "ImageFacts",
    "ImageSplits",
    "LabeledImages",
    "SameImages",
    "StoredImage",
    "UnreadableImageError",
    "check_data",
    "digits",
    "encode_labels",
    "eval_transform",
    "image_folder",
    "image_table",
    "inspect_images",
    "open_images",
    "open_splits",
    "split_classes",
    "split_images",
    "train_transform",
]
