"""What a user may give as data, said once for the help of every command that takes some."""

DATA = (
    "'digits'; a folder with one sub-folder of images per class, or with such folders in train/, val/ and test/; a zip "
    "file of either; a CSV file with columns path, label and, if wanted, group and split; or a data set by name: "
    "torchvision/CIFAR10, pml/CUB, or timm's torch/..., hfds/..., wds/..., tfds/.... One split of it is photos/test, "
    "images.csv/test, pml/CUB/test."
)
