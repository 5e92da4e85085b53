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
            "`decoder='torchvision'` has no lanczos, which this model's views need; pass `decoder='pillow'`"
        )
    return replace(view, decoder=decoder, decoder_libraries={name: version(name) for name in _LIBRARIES})


def chosen_decoder(asked: Decoder | None, known: View | None, whose: str) -> Decoder:
    """The decoder that is asked for, else that of a view that is known, else the default.

    Args:
        known: the view that tickets are of, which can be shown by its own decoder alone; None where there is none.
        whose: the view's, for the sentence.

    Raises:
        OptionError: another one is asked for than that of the known view.
    """
    if known is None:
        return asked or DEFAULT_DECODER
    if asked is not None and asked != known.decoder_name:
        raise OptionError(
            f"`decoder={asked!r}`: {whose} is of pictures that {known.decoder_name} decoded; leave it out, or select "
            f"again with `decoder={asked!r}`"
        )
    return known.decoder_name
