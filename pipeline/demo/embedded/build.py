"""Build the embedded image file from a folder with the four files of Fashion-MNIST (IDX format, gzip).

    python -m dataltt.pipeline.demo.embedded.build FOLDER OUT

FOLDER is where Debian's package `dataset-fashion-mnist` installs them, or any folder with the same four
files. The same input gives the same bytes for the same versions of NumPy and zlib; the arrays are the same in
any case.
"""

import argparse
import gzip
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import CLASSES

IMAGES_PER_CLASS = {"train": 1_000, "test": 200}
IDX_STEM = {"train": "train", "test": "t10k"}
IDX_UINT8 = 0x08
IMAGE_SHAPE_PX = (28, 28)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes.

    The format: two zero bytes, the type's code, the number of dimensions, each dimension as a big-endian
    32-bit number, then the values in C order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no gzip file, or not an IDX file of unsigned bytes, or has the wrong length.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, IDX_UINT8]):
        raise ValueError(f"{path}: not an IDX file of unsigned bytes (starts with {content[:4].hex(' ')})")
    num_dims = content[3]
    header_bytes = 4 + 4 * num_dims
    if len(content) < header_bytes:
        raise ValueError(f"{path}: ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=num_dims, offset=4))
    values = np.frombuffer(content, np.uint8, offset=header_bytes)
    num_expected = int(np.prod(shape, dtype=np.int64))
    if values.size != num_expected:
        raise ValueError(f"{path}: holds {values.size} values where its header {shape} says {num_expected}")
    return values.reshape(shape)


def read_split(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read all images [n, 28, 28] and labels [n] of one split, both uint8.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file cannot be read as what its name says, or the two do not belong together.
    """
    images_path = folder / f"{IDX_STEM[split]}-images-idx3-ubyte.gz"
    labels_path = folder / f"{IDX_STEM[split]}-labels-idx1-ubyte.gz"
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != IMAGE_SHAPE_PX:
        raise ValueError(f"{images_path}: expected images of 28 × 28 px, found shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{labels_path}: labels of shape {labels.shape} for {len(images)} images")
    return images, labels


def first_of_each_class(labels: npt.NDArray[np.uint8], images_per_class: int) -> npt.NDArray[np.int64]:
    """Positions of the first `images_per_class` of every class, ascending.

    Raises:
        ValueError: A class has fewer.
    """
    positions = []
    for label, name in enumerate(CLASSES):
        of_class = np.flatnonzero(labels == label)
        if len(of_class) < images_per_class:
            raise ValueError(f"class {label} ({name}) has {len(of_class)} images, not {images_per_class}")
        positions.append(of_class[:images_per_class])
    return np.sort(np.concatenate(positions))


def build(folder: Path, out: Path) -> None:
    """Write the balanced subset of the four files in `folder` to `out`, whole or not at all.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: The files in `folder` are not those of Fashion-MNIST.
    """
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    for split, images_per_class in IMAGES_PER_CLASS.items():
        images, labels = read_split(folder, split)
        chosen = first_of_each_class(labels, images_per_class)
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = labels[chosen]

    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("wb") as file:  # a handle, because NumPy adds a suffix to a name that lacks it
            np.savez_compressed(
                file,
                train_images=arrays["train_images"],
                train_labels=arrays["train_labels"],
                test_images=arrays["test_images"],
                test_labels=arrays["test_labels"],
            )
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dataltt.pipeline.demo.embedded.build",
        description="Build the embedded subset of Fashion-MNIST: 1,000 train and 200 test images a class.",
    )
    parser.add_argument("folder", type=Path, help="folder with the four .gz files of Fashion-MNIST")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    arguments = parser.parse_args(argv)
    try:
        build(arguments.folder, arguments.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
