"""Decoding, the centre view against timm's own transform, and augmentations that depend on names alone."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import BadImageError, OptionError, View
from dataltt.stages.data import images as images_module
from dataltt.stages.data.augment import AugmentConfig, PhotometricAugment, mirror_image
from dataltt.stages.data.images import MAX_IMAGE_PIXELS, center_crop, converted, decode_image, normalize, to_tensor
from dataltt.stages.data.shards import RawSample
from dataltt.stages.models.registry import center_view_of, create_vit
from dataltt.stages.runtime.randomness import generator_of, isolated_rng, seed_of
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from ...helpers import encode, encode_image, fashion, fashion_samples

_DEIT_VIEW = View(
    kind="center",
    resize_px=248,
    crop_share=0.9,
    interpolation="bicubic",
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)
_GREY_VIEW = View(kind="center", resize_px=28, crop_share=1.0, interpolation="bicubic", mean=[0.2860], std=[0.3530])


def _sample(image: bytes, key: str = "some/key") -> RawSample:
    return RawSample(shard="t-000003.tar", key=key, image=image, label=0)


def _decode(image: bytes, mode: str = "RGB") -> Image.Image:
    return decode_image(_sample(image), mode, "pillow", "mend the shard")


def _noise(width_px: int, height_px: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Smooth noise, so that interpolation has something to do."""
    rng = np.random.default_rng([width_px, height_px])
    shape = (height_px, width_px, channels) if channels > 1 else (height_px, width_px)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _timms(view: View, image_px: int, channels: int, **changes: Any) -> Any:
    return create_transform(
        (channels, image_px, image_px),
        is_training=False,
        interpolation=view.interpolation,
        mean=tuple(view.mean),
        std=tuple(view.std),
        crop_pct=view.crop_share,
        **changes,
    )


def _check_against_timm(image: Image.Image, view: View, image_px: int) -> None:
    channels = len(image.getbands())
    ours = to_tensor(center_crop(image, view, image_px))
    theirs = _timms(view, image_px, channels, use_prefetcher=True)(image)  # uint8, before any normalisation
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, torch.as_tensor(theirs))
    normalized: Tensor = _timms(view, image_px, channels)(image)
    torch.testing.assert_close(normalize(ours[None], view)[0], normalized, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("width_px", "height_px"),
    [(224, 224), (248, 248), (500, 375), (375, 500), (60, 47), (249, 1000), (1200, 30), (16, 16), (1, 1), (3, 2)],
)
@pytest.mark.parametrize("crop_share", [0.9, 0.875, 1.0])
def test_the_centre_view_is_timms(width_px: int, height_px: int, crop_share: float) -> None:
    view = replace(_DEIT_VIEW, crop_share=crop_share, resize_px=int(224 / crop_share))
    _check_against_timm(Image.fromarray(_noise(width_px, height_px)), view, 224)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_the_centre_view_is_timms_for_every_interpolation(interpolation: Any) -> None:
    view = replace(_DEIT_VIEW, interpolation=interpolation)
    _check_against_timm(Image.fromarray(_noise(301, 263)), view, 224)


@pytest.mark.parametrize(("width_px", "height_px"), [(28, 28), (40, 28), (28, 31), (64, 48), (13, 17)])
def test_the_grey_centre_view_is_timms(width_px: int, height_px: int) -> None:
    _check_against_timm(Image.fromarray(_noise(width_px, height_px, channels=1)), _GREY_VIEW, 28)


def _rgba() -> bytes:
    return encode(_noise(90, 70, channels=4))


def _palette() -> bytes:
    return encode_image(Image.fromarray(_noise(90, 70)).quantize(64))


def _cmyk() -> bytes:
    return encode_image(Image.fromarray(_noise(90, 70)).convert("CMYK"), "JPEG", quality=95)


def _bilevel() -> bytes:
    return encode_image(Image.fromarray(_noise(90, 70, channels=1)).convert("1"))


def _grey_and_alpha() -> bytes:
    return encode_image(Image.fromarray(_noise(90, 70, channels=1)).convert("LA"))


_ENCODED = {
    "png": encode(_noise(90, 70)),
    "jpeg": encode(_noise(90, 70), "JPEG", quality=90),
    "progressive jpeg": encode(_noise(90, 70), "JPEG", progressive=True),
    "webp": encode(_noise(90, 70), "WEBP"),
    "rgba": _rgba(),
    "palette": _palette(),
    "cmyk": _cmyk(),
    "bilevel": _bilevel(),
    "grey": encode(_noise(90, 70, channels=1)),
    "grey jpeg": encode(_noise(90, 70, channels=1), "JPEG"),
    "grey and alpha": _grey_and_alpha(),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", _ENCODED)
def test_every_kind_of_image_becomes_what_timm_would_see(name: str, mode: str) -> None:
    image = _decode(_ENCODED[name], mode)
    assert image.mode == mode
    expected = Image.open(io.BytesIO(_ENCODED[name])).convert(mode)  # as timm's and torchvision's data sets do
    assert image.tobytes() == expected.tobytes()
    view = _DEIT_VIEW if mode == "RGB" else replace(_DEIT_VIEW, mean=[0.5], std=[0.5])
    _check_against_timm(image, view, 224)


# Modes beyond 8 bits, and what is dropped


def _deep(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """The 8-bit values as 16-bit ones, as editors scale them: 255 becomes 65535."""
    return values.astype(np.uint16) * 257


def _deep_colour_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG of [H, W, channels] (2: grey and alpha, 3: RGB, 4: RGBA), which Pillow cannot write."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content) for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("format", ["PNG", "PPM", "TIFF", "JPEG2000"])
def test_sixteen_bit_grey_is_the_same_picture(format: str, mode: str) -> None:
    grey = _noise(90, 70, channels=1)
    deep = encode_image(Image.fromarray(_deep(grey)), format)
    assert _decode(deep, mode).tobytes() == _decode(encode(grey), mode).tobytes()


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    values = np.array([[0, 255, 256, 511, 512, 32767, 32768, 65279, 65280, 65535]], dtype=np.uint16)
    found = np.asarray(_decode(encode_image(Image.fromarray(values)), "L"))
    assert found.tolist() == [[0, 0, 1, 1, 2, 127, 128, 254, 255, 255]]
    of_big_endian = Image.frombytes("I;16B", (10, 1), values.astype(">u2").tobytes())
    assert np.asarray(converted(of_big_endian, "L")).tolist() == found.tolist()


@pytest.mark.parametrize("channels", [3, 4, 2])
def test_sixteen_bit_colour_keeps_its_high_bytes(channels: int) -> None:
    deep = np.random.default_rng(channels).integers(0, 65536, (70, 90, channels), dtype=np.uint16)
    colours = deep[..., [0, 0, 0]] if channels == 2 else deep[..., :3]
    assert np.array_equal(np.asarray(_decode(_deep_colour_png(deep))), colours >> 8)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)), r"32-bit numbers \(mode I\)"),
        (Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), r"32-bit numbers \(mode F\)"),
        (Image.new("LAB", (4, 4)), "no rule for pictures of mode LAB"),
    ],
    ids=["I", "F", "LAB"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_mode_without_a_rule_is_a_bad_image(image: Image.Image, reason: str, mode: str) -> None:
    with pytest.raises(BadImageError, match=rf"t-000003\.tar: image of sample 'some/key' .*{reason}"):
        _decode(encode_image(image, "TIFF"), mode)


def test_the_adobe_marker_of_a_cmyk_jpeg_makes_no_difference() -> None:
    """Pillow reads every CMYK JPEG as Adobe writes them, inverted."""
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[..., 0], ink[..., 3] = 255, 51  # cyan, a fifth of black
    jpeg = encode_image(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    begin = jpeg.index(b"\xff\xee")
    length = int.from_bytes(jpeg[begin + 2 : begin + 4], "big")
    assert jpeg[begin + 4 : begin + 9] == b"Adobe"
    unmarked = jpeg[:begin] + jpeg[begin + 2 + length :]
    assert _decode(jpeg).getpixel((8, 8)) == (0, 204, 204)
    assert _decode(unmarked).tobytes() == _decode(jpeg).tobytes()


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])], ids=["one colour", "of each colour"])
def test_transparent_pixels_have_the_colour_that_they_are_stored_with(transparency: int | bytes) -> None:
    palette = Image.fromarray(_noise(90, 70)).quantize(64)
    expected = palette.convert("RGB").tobytes()
    assert _decode(encode_image(palette, transparency=transparency)).tobytes() == expected  # and nobody is warned
    hidden = np.full((4, 4, 4), (200, 100, 50, 0), dtype=np.uint8)
    assert _decode(encode(hidden)).getpixel((0, 0)) == (200, 100, 50)


def test_a_given_picture_is_left_as_it_was() -> None:
    palette = Image.fromarray(_noise(90, 70)).quantize(64)
    palette.info["transparency"] = b"\0"
    assert converted(palette, "RGB").mode == "RGB"
    assert palette.info["transparency"] == b"\0"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_ignored(orientation: int) -> None:
    """As by timm's and torchvision's loaders of folders."""
    image = Image.fromarray(_noise(90, 70))
    exif = image.getexif()
    exif[0x0112] = orientation
    assert _decode(encode_image(image, exif=exif)).tobytes() == image.tobytes()


@pytest.mark.parametrize(("model", "image_px"), [("deit_t", 224), ("vit_fashion", 28)])
def test_the_view_of_a_model_is_the_one_that_timm_evaluates_it_with(model: str, image_px: int) -> None:
    from timm.data import resolve_model_data_config

    vit = create_vit(model)
    view = center_view_of(vit)
    pixels = _noise(100, 80, channels=len(view.mean))
    theirs = create_transform(**resolve_model_data_config(vit), is_training=False)(Image.fromarray(pixels))
    ours = normalize(to_tensor(center_crop(Image.fromarray(pixels), view, image_px))[None], view)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    pixels = fashion("train")[0][0]
    view = to_tensor(center_crop(_decode(encode(pixels), "L"), _GREY_VIEW, 28))
    assert torch.equal(view, torch.from_numpy(pixels.copy())[None])


# Images that cannot be decoded


def _png_that_claims(width_px: int, height_px: int) -> bytes:
    """A well-formed PNG header with a claim, and hardly any data behind it."""

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


_JPEG = encode(_noise(300, 200), "JPEG", quality=90)
_BAD = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "half a jpeg": _JPEG[: len(_JPEG) // 2],
    "a jpeg without its last byte but ten": _JPEG[:-12],
    "only a jpeg header": _JPEG[:20],
    "half a png": encode(_noise(300, 200))[:9000],
    "half a webp": encode(_noise(300, 200), "WEBP")[:3000],
    "a png with a wrong checksum": encode(_noise(30, 20))[:40] + b"\xff\xff" + encode(_noise(30, 20))[42:],
    "a huge claim": _png_that_claims(100_000, 100_000),
}


@pytest.mark.parametrize("name", _BAD)
def test_an_image_that_cannot_be_decoded_is_named(name: str) -> None:
    with pytest.raises(BadImageError) as caught:
        _decode(_BAD[name])
    error = caught.value
    assert (error.shard, error.key) == ("t-000003.tar", "some/key")
    assert str(error).startswith("t-000003.tar: image of sample 'some/key' cannot be decoded (")
    assert str(error).endswith("; mend the shard")
    assert error.reason
    assert "\n" not in str(error)
    assert "0x" not in str(error)


@pytest.mark.parametrize("side_px", [11_586, 13_000])
def test_a_size_that_no_photograph_has_is_refused_before_decoding(side_px: int) -> None:
    assert side_px * side_px > MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning; the limit here is our own
        with pytest.raises(BadImageError, match=f"it claims {side_px}×{side_px} pixels"):
            _decode(_png_that_claims(side_px, side_px))


# Augmentation

_RAND = AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1")
_JITTER = AugmentConfig(auto_augment="none", color_jitter=0.4)


def _photo(channels: int) -> Image.Image:
    return Image.fromarray(_noise(24, 24, channels=channels) // 2 + 50)


@pytest.mark.parametrize("config", [_RAND, _JITTER], ids=["randaugment", "jitter"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_names_give_the_same_pixels(config: AugmentConfig, channels: int) -> None:
    mean = [0.5] * channels
    image = _photo(channels)
    one, two = PhotometricAugment(config, mean), PhotometricAugment(config, mean)
    for i in range(20):
        first = one(image, 0, i, "key")
        random.random(), np.random.random(), torch.rand(1)  # what happened in between makes no difference
        two(image, 0, i, "other key")
        assert two(image, 0, i, "key").tobytes() == first.tobytes()
        assert (first.mode, first.size) == (image.mode, image.size)


@pytest.mark.parametrize("config", [_RAND, _JITTER], ids=["randaugment", "jitter"])
@pytest.mark.parametrize("channels", [1, 3])
def test_epochs_and_keys_differ(config: AugmentConfig, channels: int) -> None:
    augment = PhotometricAugment(config, [0.5] * channels)
    image = _photo(channels)
    assert len({augment(image, 0, epoch, "key").tobytes() for epoch in range(30)}) > 8
    assert len({augment(image, 0, 0, f"key {i}").tobytes() for i in range(30)}) > 8


@pytest.mark.parametrize(
    "spec", ["rand-m9-mstd0.5-inc1", "rand-m10-n10-p1.0-inc1", "rand-m0-n10-p1.0", "rand-m20-n10-p1.0"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_draw_fails(spec: str, channels: int) -> None:
    """Magnitudes are drawn around the one asked for, up to what an operation cannot do."""
    augment = PhotometricAugment(AugmentConfig(auto_augment=spec), [0.5] * channels)
    image = Image.fromarray(_noise(4, 4, channels=channels))
    assert all(augment(image, i).size == (4, 4) for i in range(2000 if "mstd" in spec else 100))


def test_none_leaves_the_pixels_alone() -> None:
    augment = PhotometricAugment(AugmentConfig(auto_augment="none"), [0.5])
    image = _photo(1)
    assert all(augment(image, 0, epoch, "key").tobytes() == image.tobytes() for epoch in range(10))


@pytest.mark.parametrize("spec", ["", "nonsense", "augmix-m5", "rand-x9", "rand-mhigh9", "rand-m9.5"])
def test_an_augmentation_that_timm_does_not_know(spec: str) -> None:
    with pytest.raises(OptionError, match="`auto_augment="):
        PhotometricAugment(AugmentConfig(auto_augment=spec), [0.5])


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 50_001)])
def test_a_strip_is_shown_in_bounded_memory(size: tuple[int, int], decoder: Any) -> None:
    strip, view = Image.fromarray(_noise(*size)), replace(_DEIT_VIEW, decoder=decoder)
    short, long = sorted(images_module.size_of(images_module._middle(strip, view)))
    assert short == min(size)
    assert view.resize_px**2 * long / short < MAX_IMAGE_PIXELS / 100
    assert to_tensor(center_crop(strip, view, 224)).shape == (3, 224, 224)


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize("size", [(9, 401), (401, 10), (60, 600)])
def test_the_middle_of_a_strip_is_all_that_its_centre_view_shows(
    size: tuple[int, int], decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = size
    waves = np.sin(np.arange(height) / 3)[:, None] + np.sin(np.arange(width) / 3)[None]
    strip = Image.fromarray((127 + 60 * waves).astype(np.uint8)).convert("RGB")
    view = replace(_DEIT_VIEW, decoder=decoder)
    whole = to_tensor(center_crop(strip, view, 224)).int()
    monkeypatch.setattr(images_module, "MAX_IMAGE_PIXELS", 248 * 248)
    assert images_module.size_of(images_module._middle(strip, view)) != size
    middle = to_tensor(center_crop(strip, view, 224)).int()
    assert (whole - middle).abs().max() <= 5  # sides are rounded to whole pixels: they are half of one apart


def test_mirroring() -> None:
    image = fashion_samples(1)[0].image
    assert np.array_equal(np.asarray(mirror_image(_decode(image, "L"))), fashion("train")[0][0][:, ::-1])


# Generators


def _states() -> tuple[object, ...]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()


def test_global_generators_are_left_as_they_were() -> None:
    before = _states()
    with isolated_rng(0, "key"):
        drawn = random.random(), float(np.random.random()), float(torch.rand(1)), float(torch.randn(1))
        assert _states() != before
    assert _states() == before
    with isolated_rng(0, "key"):
        assert (random.random(), float(np.random.random()), float(torch.rand(1)), float(torch.randn(1))) == drawn
    with isolated_rng(1, "key"):
        assert random.random() != drawn[0]


def _draw_and_fail() -> None:
    with isolated_rng(0, "key"):
        random.random(), np.random.random(), torch.rand(1)
        raise RuntimeError("within")


def test_global_generators_are_left_as_they_were_after_an_error() -> None:
    before = _states()
    with pytest.raises(RuntimeError, match="within"):
        _draw_and_fail()
    assert _states() == before


def test_augmenting_leaves_global_generators_alone() -> None:
    before = _states()
    for config in (_RAND, _JITTER):
        PhotometricAugment(config, [0.5, 0.5, 0.5])(_photo(3), 0, 0, "key")
    generator_of("x").random()
    assert _states() == before


def test_seeds_depend_on_every_name_and_its_place() -> None:
    names: list[tuple[object, ...]] = [(), (0,), (1,), (0, 1), (1, 0), ("0", "1", ""), (0, "shuffle", 1), ("01",)]
    seeds = [seed_of(*n) for n in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert seed_of(0, "a") == seed_of("0", "a")
