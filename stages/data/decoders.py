"""Decoders by name: which one a view is of, and what the view says of it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from ...artifacts_schema import OptionError, View
from ..options import DEFAULT_DECODER, Decoder

_LIBRARIES = ("pillow", "torch", "torchvision")


def decoded_by(view: View, decoder: Decoder) -> View:
    """The view as this installation's decoder shows it; a view of Pillow names none, as those before schema 2.0.

    Raises:
        OptionError: the decoder cannot resize as the view says.
    """
    if decoder == "pillow":
        return replace(view, decoder=None, decoder_libraries=None)
    if view.interpolation == "lanczos":
        raise OptionError(
            "`decoder='torchvision'`: this model's views are resized by lanczos, which not every torchvision has; pass "
            "`decoder='pillow'`"
        )
    return replace(view, decoder=decoder, decoder_libraries={name: version(name) for name in _LIBRARIES})


def shown_by(view: View, asked: Decoder | None, *, known: View | None, whose: str) -> View:
    """The view by the decoder that is to show it: that of tickets, where there are some, else the one asked for.

    Args:
        asked: None for the default.
        known: the view that tickets are of; they are shown by its own decoder alone.
        whose: the store of the known view, for the sentence.

    Raises:
        OptionError: another decoder is asked for than that of the known view.
    """
    if known is None:
        return decoded_by(view, asked or DEFAULT_DECODER)
    if asked is not None and asked != known.decoder_name:
        raise OptionError(
            f"`decoder={asked!r}`: the tickets of {whose} are of pictures that {known.decoder_name} decoded; leave it "
            f"out, or select again with `decoder={asked!r}`"
        )
    return replace(view, decoder=known.decoder, decoder_libraries=known.decoder_libraries)
