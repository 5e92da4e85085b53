"""JPEGs by torchvision: the same pixels and the same refusals as by Pillow, and only where the header is plain."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import BadImageError, OptionError, View
from dataltt.artifacts_schema.geometry import BoxPx
from dataltt.stages.data import images as images_module
from dataltt.stages.data.augment import AugmentConfig, PhotometricAugment, cut_view
from dataltt.stages.data.decoders import decoded_by, shown_by
from dataltt.stages.data.images import center_crop, decode_bytes, decode_image, to_pillow, to_tensor
from dataltt.stages.data.jpeg import JpegSize, decode_jpeg, plain_jpeg
from dataltt.stages.data.shards import RawSample
from dataltt.stages.data.tensor_colours import TENSOR_OPS
from dataltt.stages.runtime.randomness import isolated_rng
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from timm.data.auto_augment import AugmentOp

from ...helpers import encode, encode_image

_WIDTH, _HEIGHT = 150, 110
_VIEW = View(kind="center", resize_px=64, crop_share=0.875, interpolation="bicubic", mean=[0.5] * 3, std=[0.25] * 3)


def _photo(channels: int = 3) -> npt.NDArray[np.uint8]:
    """Smooth colours, as photographs have them, with some noise."""
    rng = np.random.default_rng(channels)
    shape = (9, 12, 3) if channels == 3 else (9, 12)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize(
        (_WIDTH, _HEIGHT), Image.Resampling.BICUBIC
    )
    noise = rng.integers(-8, 9, np.asarray(coarse).shape)
    return np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8)


def _jpeg(channels: int = 3, **options: Any) -> bytes:
    return encode(_photo(channels), "JPEG", **{"quality": 90, **options})


PLAIN = {
    "4:2:0": _jpeg(),
    "4:2:2": _jpeg(subsampling="4:2:2"),
    "4:4:4": _jpeg(subsampling=0),
    "progressive": _jpeg(progressive=True),
    "restarts": _jpeg(restart_marker_blocks=4),
    "grey": _jpeg(1),
    "exif": _jpeg(exif=b"Exif\0\0" + bytes(500)),
    "comment": _jpeg(comment=b"\xff\xda\xff\xc0 of no account"),
}


def _as_rgb_jpeg(jpeg: bytes) -> bytes:
    """The same scan, with an Adobe marker in JFIF's place that says its components are red, green and blue."""
    length = int.from_bytes(jpeg[4:6])
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    return jpeg[:2] + adobe + jpeg[4 + length :]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_jpeg_is_known_by_its_header(name: str) -> None:
    assert plain_jpeg(PLAIN[name]) == JpegSize(_HEIGHT, _WIDTH, 1 if name == "grey" else 3)


@pytest.mark.parametrize(
    "other",
    [
        encode_image(Image.fromarray(_photo()).convert("CMYK"), "JPEG"),
        _as_rgb_jpeg(_jpeg(subsampling=0)),
        encode(_photo()),
        b"",
        b"\xff\xd8",
        _jpeg()[:60],
        _jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1),  # arithmetic coding
        _jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1),  # 12 bits
        _jpeg()
        .replace(b"JFIF", b"JFXX", 1)
        .replace(b"\x01\x22\x00\x02\x11\x01\x03", b"\x52\x22\x00\x47\x11\x01\x42", 1),
    ],
    ids=["cmyk", "rgb", "png", "empty", "start", "cut", "arithmetic", "12 bits", "components R, G, B"],
)
def test_anything_else_is_pillows(other: bytes) -> None:
    assert plain_jpeg(other) is None


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_pillows(name: str, mode: str) -> None:
    """Both have libjpeg-turbo, whose defaults they take; another version of it may round otherwise, hence the bound."""
    ours, theirs = (to_tensor(decode_bytes(PLAIN[name], mode, d)).int() for d in ("torchvision", "pillow"))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 2


def test_torchvision_decodes_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    by_pillow = images_module._decoded_by_pillow

    def counted(encoded: bytes, mode: str) -> Image.Image:
        opened.append(encoded)
        return by_pillow(encoded, mode)

    monkeypatch.setattr(images_module, "_decoded_by_pillow", counted)
    for encoded in PLAIN.values():
        decode_bytes(encoded, "RGB", "torchvision")
    decode_bytes(PLAIN["grey"], "L", "torchvision")
    assert opened == []
    decode_bytes(PLAIN["4:2:0"], "L", "torchvision")  # grey of colours is Pillow's
    assert opened == [PLAIN["4:2:0"]]


@pytest.mark.parametrize("kind", ["png", "cmyk", "palette", "16 bits", "rgb jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_pictures_are_decoded_by_the_one_rule(kind: str, mode: str) -> None:
    image = Image.fromarray(_photo())
    encoded = {
        "png": encode_image(image),
        "cmyk": encode_image(image.convert("CMYK"), "JPEG"),
        "palette": encode_image(image.quantize(32), transparency=3),
        "16 bits": encode_image(Image.fromarray(_photo(1).astype(np.uint16) * 257)),
        "rgb jpeg": _as_rgb_jpeg(_jpeg(subsampling=0)),
    }[kind]
    ours, theirs = (decode_bytes(encoded, mode, d) for d in ("torchvision", "pillow"))
    assert isinstance(ours, torch.Tensor)
    assert torch.equal(ours, to_tensor(theirs))
    assert to_pillow(ours).mode == mode


def _refusal(encoded: bytes, decoder: Any) -> str | None:
    sample = RawSample(shard="t-000003.tar", key="some/key", image=encoded, label=0)
    try:
        decode_image(sample, "RGB", decoder, "mend the shard")
    except BadImageError as error:
        return str(error)
    return None


@given(name=st.sampled_from(sorted(PLAIN)), share=st.floats(0, 1), tail=st.integers(1, 40), near_end=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_cut_jpeg_is_refused_in_the_same_words(name: str, share: float, tail: int, near_end: bool) -> None:
    encoded = PLAIN[name]
    cut = encoded[:-tail] if near_end else encoded[: int(share * (len(encoded) - 1))]
    ours, theirs = _refusal(cut, "torchvision"), _refusal(cut, "pillow")
    assert ours == theirs
    assert ours is not None
    assert ours.startswith("t-000003.tar: image of sample 'some/key' cannot be decoded (")


@given(
    name=st.sampled_from(sorted(PLAIN)),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    value=st.binary(min_size=1, max_size=1),
)
@settings(max_examples=60, deadline=None)
def test_a_damaged_jpeg_is_the_same_to_both(name: str, places: list[float], value: bytes) -> None:
    damaged = bytearray(PLAIN[name])
    for place in places:
        damaged[2 + int(place * (len(damaged) - 3))] = value[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        ours, theirs = _refusal(bytes(damaged), "torchvision"), _refusal(bytes(damaged), "pillow")
        assert ours == theirs
        if ours is None:
            found = [to_tensor(decode_bytes(bytes(damaged), "RGB", d)).int() for d in ("torchvision", "pillow")]
            assert found[0].shape == found[1].shape
            assert (found[0] - found[1]).abs().max() <= 2


@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
def test_a_size_that_no_photograph_has_is_refused_before_decoding(
    decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = _jpeg().index(b"\xff\xc0")
    claim = _jpeg()[: begin + 5] + (65_500).to_bytes(2) * 2 + _jpeg()[begin + 9 :]
    monkeypatch.setattr(images_module, "decode_jpeg", None)  # is not reached
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning; the limit here is our own
        refusal = _refusal(claim, decoder)
    assert refusal is not None
    assert "65500×65500 pixels" in refusal or "exceeds limit" in refusal


# Views


def test_the_centre_view_is_near_pillows() -> None:
    """Both resize with antialiasing and round once; weights have other numbers of bits."""
    for size in ((150, 110), (64, 64), (70, 300), (31, 20)):
        image = Image.fromarray(_photo()).resize(size)
        ours = to_tensor(center_crop(to_tensor(image), decoded_by(_VIEW, "torchvision"), 56)).int()
        theirs = to_tensor(center_crop(image, _VIEW, 56)).int()
        assert ours.shape == theirs.shape == (3, 56, 56)
        assert (ours - theirs).abs().max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_cut_view_is_near_pillows(interpolation: Any, flip: bool) -> None:
    pixels = decode_jpeg(_jpeg(), 3)
    for box in (BoxPx(0, 0, 110, 150), BoxPx(13, 40, 17, 90), BoxPx(90, 3, 5, 4)):
        view = View(
            kind="center",
            resize_px=56,
            crop_share=1.0,
            interpolation=interpolation,
            mean=_VIEW.mean,
            std=_VIEW.std,
        )
        ours, theirs = (
            to_tensor(cut_view(pixels, box, flip=flip, view=each, image_px=56)).int()
            for each in (decoded_by(view, "torchvision"), view)
        )
        assert (ours - theirs).abs().max() <= 2


@pytest.mark.parametrize("name", sorted(set(TENSOR_OPS) - {"GaussianBlurRand"}))
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_is_timms_give_or_take_one_level(name: str, channels: int) -> None:
    image = Image.fromarray(_photo(channels))
    pixels = to_tensor(image)
    before = pixels.clone()
    for magnitude in (0, 2.5, 5, 9, 10):
        op = AugmentOp(name, prob=1.0, magnitude=magnitude)
        bits = name == "PosterizeIncreasing" and magnitude == 10  # of which Pillow wants one
        theirs = ImageOps.posterize(image, 1) if bits else _of_state(op, image)
        op.aug_fn = TENSOR_OPS[name]
        ours = _of_state(op, pixels)
        assert ours.dtype == torch.uint8
        assert (ours.int() - to_tensor(theirs).int()).abs().max() <= 1
    assert torch.equal(pixels, before)  # what is given is not altered


def _of_state(op: AugmentOp, picture: Any) -> Any:
    with isolated_rng(0, "operation"):
        return op(picture)


@pytest.mark.parametrize("spec", ["rand-m9-mstd0.5-inc1", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_colours_are_drawn(spec: str, channels: int) -> None:
    config = AugmentConfig(auto_augment=spec, color_jitter=0.3)
    image = Image.fromarray(_photo(channels))
    by_pillow, by_torchvision = (PhotometricAugment(config, [0.5] * channels, d) for d in ("pillow", "torchvision"))
    for i in range(40):
        ours, theirs = to_tensor(by_torchvision(to_tensor(image), i)), to_tensor(by_pillow(image, i))
        assert (ours.int() - theirs.int()).abs().float().mean() < 2.5


def test_the_three_of_deit_3_are_near_pillows() -> None:
    """Pillow's blur is made of boxes, so that it differs more."""
    config = AugmentConfig(auto_augment="3a", color_jitter=0.0)
    image = Image.fromarray(_photo())
    by_pillow, by_torchvision = (PhotometricAugment(config, [0.5] * 3, d) for d in ("pillow", "torchvision"))
    for i in range(20):
        near = (to_tensor(by_torchvision(to_tensor(image), i)).int() - to_tensor(by_pillow(image, i)).int()).abs()
        assert near.float().mean() < 3


@pytest.mark.parametrize("side", [4, 17])
@pytest.mark.parametrize("spec", ["rand-m9-mstd0.5-inc1", "rand-m20-n10-p1.0", "3a"])
def test_no_draw_fails(spec: str, side: int) -> None:
    for channels in (1, 3):
        augment = PhotometricAugment(AugmentConfig(auto_augment=spec), [0.5] * channels, "torchvision")
        pixels = to_tensor(Image.fromarray(_photo(channels)[:side, :side]))
        assert all(to_tensor(augment(pixels, i)).shape == pixels.shape for i in range(60))


# What a view says of its decoder


def test_a_view_names_its_decoder_and_libraries() -> None:
    view = decoded_by(_VIEW, "torchvision")
    assert view.decoder == "torchvision"
    assert set(view.decoder_libraries or {}) == {"pillow", "torch", "torchvision"}
    assert decoded_by(view, "pillow") == _VIEW


def test_views_are_cut_by_their_own_decoder_whatever_is_given() -> None:
    pixels = decode_jpeg(_jpeg(), 3)
    for view in (decoded_by(_VIEW, "torchvision"), _VIEW):
        for picture in (pixels, to_pillow(pixels)):
            box = BoxPx(3, 4, 50, 60)
            cut = cut_view(picture, box, flip=True, view=view, image_px=32), center_crop(picture, view, 56)
            right = torch.Tensor if view.decoder else Image.Image
            assert all(isinstance(each, right) for each in cut)


def test_lanczos_is_pillows_alone() -> None:
    view = View(kind="center", resize_px=8, crop_share=1.0, interpolation="lanczos", mean=[0.5], std=[0.5])
    with pytest.raises(OptionError, match="`decoder='pillow'`"):
        decoded_by(view, "torchvision")


def test_tickets_are_shown_by_their_own_decoder() -> None:
    theirs = decoded_by(_VIEW, "torchvision")
    assert shown_by(_VIEW, None, known=theirs, whose="s.zarr") == theirs
    assert shown_by(theirs, None, known=_VIEW, whose="s.zarr") == _VIEW
    assert shown_by(_VIEW, None, known=None, whose="") == theirs
    assert shown_by(_VIEW, "pillow", known=None, whose="") == _VIEW
    with pytest.raises(
        OptionError, match=r"`decoder='pillow'`: the tickets of s\.zarr are of pictures that torchvision"
    ):
        shown_by(_VIEW, "pillow", known=theirs, whose="s.zarr")


def test_an_image_without_colours_is_one_channel() -> None:
    grey = decode_bytes(PLAIN["grey"], "L", "torchvision")
    assert to_tensor(grey).shape == (1, _HEIGHT, _WIDTH)
    with Image.open(io.BytesIO(PLAIN["grey"])) as image:
        assert np.abs(np.asarray(to_pillow(grey)).astype(int) - np.asarray(image)).max() <= 2
