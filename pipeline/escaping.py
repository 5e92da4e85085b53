"""Names from stores, shards and checkpoints as they may be shown: nothing in them moves a cursor or turns a line.

Control characters, marks that change the direction of text, and what cannot be seen at all stand as Python writes
them: \\x1b, \\u202e. JSON needs none of this: it is printed in ASCII.
"""

from __future__ import annotations

import unicodedata
from typing import Any

# Categories: control, format (bidirectional marks, zero width), half of a pair, line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # parts of words and emoji


def shown(text: object, *, keep: str = "") -> str:
    """The text with everything escaped that a terminal or a page would obey rather than show.

    Args:
        keep: characters that stay, such as the ends of lines of a text of ours.
    """
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(c if c in keep else _escaped(c) for c in plain)


def cell(text: object) -> str:
    """The text for a table or a line of rich, which takes what stands in brackets for markup."""
    from rich.markup import escape

    return escape(shown(text))


def in_page(value: Any) -> Any:
    """A value as an HTML page shows it: jinja's `finalize`, which its own escaping follows. Markup stays as it is."""
    return shown(value, keep="\n") if type(value) is str else value


def in_document(value: Any) -> Any:
    """A document for a page's script, all texts in it as they may be shown."""
    if isinstance(value, dict):
        return {in_document(key): in_document(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [in_document(each) for each in value]
    return in_page(value)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
        return character.encode("unicode_escape").decode()
    return character
