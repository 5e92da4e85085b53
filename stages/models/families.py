"""Kinds of network that can be students, and how tickets reach each: one list, one way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import is_model_in_modules

from ...artifacts_schema import ModelError, OptionError
from ..options import PatchInput
from . import lvvit_student, pruned_vit, swin, zeroed
from .registry import create_network, entry_of
from .student import Family, Student

FAMILIES: tuple[Family, ...] = (pruned_vit.FAMILY, lvvit_student.FAMILY, swin.FAMILY, zeroed.FAMILY)


def family_of(name: str) -> Family:
    """The family of a model, by its alias or timm name.

    Raises:
        ModelError: an unknown name, or a network that no family covers.
    """
    entry = entry_of(name)
    for family in FAMILIES:
        known = (
            entry.module in family.modules
            if entry.module
            else is_model_in_modules(entry.timm_name, tuple(family.modules))
        )
        if known:
            return family
    raise ModelError(
        f"`model={name!r}`: tickets reach {', '.join(f.name for f in FAMILIES)} models, and this is none; try deit_s, "
        "or add a family (stages/models/families.py)"
    )


def resolve_input(name: str, patch_input: PatchInput | None) -> PatchInput | None:
    """Resolves how patches reach this model: as asked, else the family's way; None where kept tokens are gathered.

    Raises:
        OptionError: the family does not have it.
    """
    inputs = family_of(name).inputs
    if patch_input is None:
        return inputs[0] if inputs else None
    if patch_input not in inputs:
        known = "is given zeroed patches in any case" if inputs else "computes on kept patches alone"
        known += "; it is for Swin, so leave it out"
        raise OptionError(f"`swin_input={patch_input!r}`: {name} {known}")
    return patch_input


def size_kwargs(name: str, image_px: int) -> Mapping[str, Any]:
    """Arguments that a network is created with for images of `image_px` a side; none if it takes one size alone."""
    sizes = family_of(name).size_kwargs
    return {} if sizes is None else sizes(image_px)


def create_student(
    name: str,
    *,
    num_keep: int | None = None,
    patch_input: PatchInput | None = None,
    image_px: int | None = None,
    **kwargs: Any,
) -> Student:
    """Creates a student with random weights.

    Args:
        name: an alias or a timm name.
        num_keep: K, which some students are built for; None for all patches.
        image_px: side of the images that it takes; None for the network's own.
        kwargs: passed to the network (num_classes, drop_path_rate, …).

    Raises:
        ModelError, OptionError
    """
    family, patch_input = family_of(name), resolve_input(name, patch_input)
    sizes = {} if image_px is None else size_kwargs(name, image_px)
    net = create_network(name, **{**family.network_kwargs(patch_input, num_keep), **sizes, **kwargs})
    student = family.wrap(net, name, patch_input)
    if image_px not in (None, student.geometry.image_px):
        raise OptionError(
            f"`image_px={image_px}`: {name} takes images of {student.geometry.image_px} px alone; train a plain ViT, "
            "or on tickets of that size"
        )
    return student
