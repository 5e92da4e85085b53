"""Augmentation policies: what is drawn for a view of an image, by name and version.

A policy's version changes whenever the same seed would give another view. What a store was made with stands in its
manifest, with a digest of the pixels that the policy gives for a built-in picture: another version of a library that
draws or rounds differently is noticed by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import xxhash
from torch import Tensor

from ...artifacts_schema import OptionError, TicketMismatchError, View
from ...artifacts_schema.geometry import BoxPx
from .augment import AugmentConfig, PhotometricAugment, cut_view
from .images import decode_bytes, size_of

_LIBRARIES = ("numpy", "pillow", "timm", "torch", "torchvision")
_PROBE_VIEWS = 96  # enough that every operation is drawn
_PROBE_PX = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules by which a view is drawn: crop box, mirroring, colours.

    `crop_scale` (share of the image's area) and `crop_ratio` (width over height) are RandomResizedCrop's; without them
    the view is the whole image, squeezed into a square. `augment` leaves the patch grid in place.
    """

    name: str
    version: int
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augment: AugmentConfig

    def to_json(self) -> dict[str, Any]:
        """The policy's numbers, as JSON types."""
        scale = None if self.crop_scale is None else list(self.crop_scale)
        colours = asdict(self.augment)
        return {"crop_scale": scale, "crop_ratio": list(self.crop_ratio), **colours}


_ALL = (
    # Touvron et al. 2021 (DeiT), as timm's transforms_imagenet_train draws it, without RandAugment's operations that
    # shear, rotate or translate: those would move patches against the box.
    Policy(name="deit", version=1, augment=AugmentConfig()),
    # Touvron et al. 2022 (DeiT III): grey, solarised or blurred, and colour jitter; timm's "3a".
    Policy(name="deit3", version=1, augment=AugmentConfig(auto_augment="3a", color_jitter=0.3)),
    Policy(name="crop", version=1, augment=AugmentConfig(auto_augment="none")),
    # One map of the whole image, for tickets that are warped to fresh crops.
    Policy(name="whole", version=1, crop_scale=None, augment=AugmentConfig(auto_augment="none", hflip=0.0)),
)
POLICIES = {policy.name: policy for policy in _ALL}


def policy_of(name: str, *, min_crop: float | None = None) -> Policy:
    """The policy of a name.

    Args:
        min_crop: the smallest crop, as a share of the image's area, instead of the policy's own.

    Raises:
        OptionError: there is no such policy, or it does not crop.
    """
    if name not in POLICIES:
        raise OptionError(f"`augment={name!r}` is not a policy of this version; it has {', '.join(POLICIES)}")
    policy = POLICIES[name]
    if min_crop is None:
        return policy
    if policy.crop_scale is None:
        raise OptionError(f"`min_crop={min_crop}`: `augment={name!r}` shows whole images; choose another policy")
    if not 0 < min_crop <= 1:
        raise OptionError(f"`min_crop={min_crop}` lies outside (0, 1]; deit crops at least 0.08 of an image's area")
    return replace(policy, crop_scale=(float(min_crop), policy.crop_scale[1]))


def describe(policy: Policy, view: View, seed: int) -> dict[str, Any]:
    """Describes, for a manifest, how its views were drawn."""
    return {
        "name": policy.name,
        "version": policy.version,
        "seed": seed,
        "parameters": policy.to_json(),
        "pixels_xxh3": pixels_digest(policy, view),
        "libraries": _libraries(),
    }


def replayed_policy(view: View, store: str, *, allow_other_pixels: bool = False) -> Policy:
    """The policy that a store's views were drawn by, if this installation draws the same pixels.

    Raises:
        TicketMismatchError: the policy, its version or its numbers are not known here, or it gives other pixels here.
    """
    found = view.augment or {}
    name, number = view.policy_name, found.get("version")
    way_out = "train with `view_mode='warp'` if it has ranks, or select again: dataltt select --augment deit"
    if name not in POLICIES:
        raise TicketMismatchError(
            f"{store} holds views of policy {name!r}, which this version does not know (it has {', '.join(POLICIES)}); "
            f"install a dataltt that has it, {way_out}"
        )
    policy = POLICIES[name]
    if number != policy.version:
        raise TicketMismatchError(
            f"{store} holds views of version {number} of policy {name!r}, and this dataltt draws version "
            f"{policy.version}; install a dataltt that has it, {way_out}"
        )
    numbers = found.get("parameters")
    policy = _with_min_crop(policy, numbers)
    if policy.to_json() != numbers:
        raise TicketMismatchError(
            f"{store} holds views of policy {name!r} with numbers that are not this version's; {way_out}"
        )
    if not allow_other_pixels and pixels_digest(policy, view) != found.get("pixels_xxh3"):
        raise TicketMismatchError(
            f"{store}: policy {name!r} gives other pixels here than where its views were drawn "
            f"({_differences(found.get('libraries'))}); install those versions, pass `on_other_pixels='allow'` "
            f"(boxes and flips still fit, colours differ), or {way_out}"
        )
    return policy


def _with_min_crop(policy: Policy, numbers: Any) -> Policy:
    """The policy with the smallest crop that a manifest gives, if it is one that `min_crop` could have asked for."""
    scale = numbers.get("crop_scale") if isinstance(numbers, dict) else None
    if policy.crop_scale is None or not isinstance(scale, list) or len(scale) != 2 or type(scale[0]) is not float:
        return policy
    return replace(policy, crop_scale=(scale[0], policy.crop_scale[1])) if 0 < scale[0] <= 1 else policy


def pixels_digest(policy: Policy, view: View) -> str:
    """XXH3-64 (hex) of views of a built-in picture: decoding, cutting, resizing, mirroring and colours."""
    image = decode_bytes(files(__package__).joinpath("probe.jpg").read_bytes(), view.mode, view.decoder_name)
    width, height = size_of(image)
    photometric = PhotometricAugment(policy.augment, view.mean, view.decoder_name)
    digest = xxhash.xxh3_64()
    for i in range(_PROBE_VIEWS):
        px = BoxPx(top=i % 7, left=i % 5, height=height - i // 2, width=width - i // 3)
        px = BoxPx(px.top, px.left, min(px.height, height - px.top), min(px.width, width - px.left))
        cut = cut_view(image, px, flip=i % 2 == 1, view=view, image_px=_PROBE_PX)
        shown = photometric(cut, "probe", i)
        digest.update(shown.numpy().tobytes() if isinstance(shown, Tensor) else shown.tobytes())
    return digest.hexdigest()


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _differences(theirs: Any) -> str:
    """Lists library versions that differ, for people."""
    theirs, ours = theirs if isinstance(theirs, dict) else {}, _libraries()
    # Somebody else's text: a version is short and has no control characters.
    named = {k: v if isinstance(v, str) and v.isprintable() and len(v) < 40 else "unknown" for k, v in theirs.items()}
    different = [f"{k} {named.get(k, 'unknown')} there, {v} here" for k, v in ours.items() if named.get(k) != v]
    return "; ".join(different) or "with the same library versions"
