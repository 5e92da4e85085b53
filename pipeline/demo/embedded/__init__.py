"""A small labelled image set that travels with the package, so that a whole run needs no download.

What: 12,000 images of Fashion-MNIST, grey, 28 × 28 px, in ten balanced classes: 10,000 to train on, 2,000 to
test on.

Source: Fashion-MNIST by Zalando Research, https://github.com/zalandoresearch/fashion-mnist (Xiao, Rasul and
Vollgraf, arXiv 1708.07747), as packed by Debian in `dataset-fashion-mnist`.

Licence: MIT, © 2017 Zalando SE; the text is in `LICENSE.fashion-mnist` beside this file.

How: the first 1,000 images of each class in the train file and the first 200 of each class in the test file,
pixels untouched, in the order of the files. `python -m dataltt.pipeline.demo.embedded.build FOLDER OUT` makes the
file again.

It is a subset: accuracies on it do not compare with those published for all of Fashion-MNIST.
"""

from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["CLASSES", "SPLITS", "load_fashion_mnist"]

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Class names; a label is an index into them."""

SPLITS = ("train", "test")


def load_fashion_mnist(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read one split of the embedded images.

    Args:
        split: "train" (10,000 images) or "test" (2,000).

    Returns:
        images: uint8 [n, 28, 28], 0 for the background and 255 for the brightest cloth.
        labels: uint8 [n], 0 to 9.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: the embedded images have {' and '.join(SPLITS)}")
    resource = files(__name__).joinpath("fashion_mnist.npz")
    with resource.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays[f"{split}_images"], arrays[f"{split}_labels"]
