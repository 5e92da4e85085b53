"""Draws README's picture: photographs, each above its ticket, as a JPEG.

    python docs/tickets_on_photographs.py STORE SHARDS OUT.jpg

docs/how-it-works.md has the commands that make the store.
"""

from __future__ import annotations

import sys

from dataltt.pipeline.reports.figures import ticket_figure
from dataltt.stages.analysis.sample_tickets import sample_tickets

_COUNT = 16
_DPI = 130
_QUALITY = 82


def main() -> None:
    """Draws the first photographs of the shards."""
    store, shards, out = sys.argv[1:]
    figure = ticket_figure(sample_tickets(store, shards, _COUNT))
    figure.savefig(out, format="jpg", dpi=_DPI, pil_kwargs={"quality": _QUALITY, "optimize": True})


if __name__ == "__main__":
    main()
