"""The embedded images: what is in the file, that it equals its source, and the script that builds it."""

import gzip
import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from dataltt.pipeline.demo import embedded
from dataltt.pipeline.demo.embedded import build

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist installs
needs_debian_files = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="no dataset-fashion-mnist here")

IMAGES_PER_CLASS = {"train": 1_000, "test": 200}

GOLDEN_SHA256 = {
    "train_images": "e1427044c614fabc29feeff0f27e6b68f88a9ee2f2cfe7d783b9157159864883",
    "train_labels": "2c02745d4ad8b4511333d0eca662ac5664a371860abaa4588b1670e7be59fbdf",
    "test_images": "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83",
    "test_labels": "b2095bc797d1201e84da76c94012c02d0e6f07af0938df4e00120a3b42d1aa4c",
}


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def write_small_source(folder: Path, images_per_class: int) -> None:
    """The four files with `images_per_class` blank images a class: too few for the real subset."""
    labels = np.tile(np.arange(10, dtype=np.uint8), images_per_class)
    for stem in ("train", "t10k"):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", np.zeros((len(labels), 28, 28), np.uint8))
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_shapes_dtypes_and_balance(split: str) -> None:
    images, labels = embedded.load_fashion_mnist(split)
    num_images = 10 * IMAGES_PER_CLASS[split]
    assert images.shape == (num_images, 28, 28)
    assert labels.shape == (num_images,)
    assert images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [IMAGES_PER_CLASS[split]] * 10
    assert images.min() == 0
    assert images.max() == 255


@pytest.mark.parametrize("split", ["train", "test"])
def test_bytes_are_the_golden_ones(split: str) -> None:
    images, labels = embedded.load_fashion_mnist(split)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN_SHA256[f"{split}_images"]
    assert hashlib.sha256(labels.tobytes()).hexdigest() == GOLDEN_SHA256[f"{split}_labels"]


def test_class_names() -> None:
    assert len(set(embedded.CLASSES)) == 10
    assert embedded.CLASSES[0] == "T-shirt/top"
    assert embedded.CLASSES[9] == "Ankle boot"


@pytest.mark.parametrize("split", ["", "val", "Train", "train_images"])
def test_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match="unknown split"):
        embedded.load_fashion_mnist(split)


def test_file_is_small() -> None:
    content = files(embedded).joinpath("fashion_mnist.npz").read_bytes()
    assert len(content) < 8_000_000


def test_licence_travels_with_the_images() -> None:
    text = files(embedded).joinpath("LICENSE.fashion-mnist").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text


@needs_debian_files
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_images_are_the_first_of_each_class_in_debians_files(split: str, stem: str) -> None:
    # Read without the build script: the header is 16 bytes for images and 8 for labels.
    all_images = gzip.decompress((DEBIAN_FOLDER / f"{stem}-images-idx3-ubyte.gz").read_bytes())[16:]
    all_labels = gzip.decompress((DEBIAN_FOLDER / f"{stem}-labels-idx1-ubyte.gz").read_bytes())[8:]
    num_seen = [0] * 10
    wanted = []
    for position, label in enumerate(all_labels):
        if num_seen[label] < IMAGES_PER_CLASS[split]:
            num_seen[label] += 1
            wanted.append(position)

    images, labels = embedded.load_fashion_mnist(split)
    assert labels.tobytes() == bytes(all_labels[position] for position in wanted)
    assert images.tobytes() == b"".join(all_images[784 * index : 784 * index + 784] for index in wanted)


@needs_debian_files
def test_building_again_gives_the_same_arrays(tmp_path: Path) -> None:
    out = tmp_path / "again.npz"
    assert build.main([str(DEBIAN_FOLDER), str(out)]) == 0
    with np.load(out, allow_pickle=False) as arrays:
        digests = {name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in arrays.files}
    assert digests == GOLDEN_SHA256
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def test_build_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([str(tmp_path), str(tmp_path / "out.npz")]) == 1
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_build_refuses_too_few_images(tmp_path: Path) -> None:
    write_small_source(tmp_path, images_per_class=2)
    with pytest.raises(ValueError, match=r"class 0 \(T-shirt/top\) has 2 images, not 1000"):
        build.build(tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_build_refuses_labels_of_another_set(tmp_path: Path) -> None:
    write_small_source(tmp_path, images_per_class=2)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(7, np.uint8))
    with pytest.raises(ValueError, match=r"labels of shape \(7,\) for 20 images"):
        build.build(tmp_path, tmp_path / "out.npz")


def test_build_refuses_images_of_another_size(tmp_path: Path) -> None:
    write_small_source(tmp_path, images_per_class=2)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((20, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="expected images of 28 × 28 px"):
        build.build(tmp_path, tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"plain bytes", "not a whole gzip file"),
        # Without a time, so that the names of the tests are the same in every process that collects them.
        (gzip.compress(b"0123456789" * 100, mtime=0)[:-12], "not a whole gzip file"),
        (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", mtime=0), "not an IDX file of unsigned bytes"),
        (gzip.compress(b"", mtime=0), "not an IDX file of unsigned bytes"),
        (gzip.compress(b"\x00\x00\x08\x03\x00\x00\x00\x01", mtime=0), "ends within its header"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc", mtime=0), "holds 3 values"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        build.read_idx(path)
