"""A baked folder's card: README.md as the hub shows it."""

from __future__ import annotations

import shlex

import yaml

from ...artifacts_schema.baked import BakedManifest
from ...artifacts_schema.publishing.licenses import hub_license
from ...artifacts_schema.space import shown_bytes
from ..escaping import shown
from .card import escaped


def baked_card(baked: BakedManifest, url: str | None = None) -> str:
    """The card's page.

    Args:
        url: where the folder is published, for the commands that the card shows.
    """
    t, publication = baked.tickets, baked.tickets.publication
    license = None if publication is None else publication.data_license
    known = "unknown" if license is None else hub_license(license) or "other"
    matter = {"license": known, "tags": ["dataltt", "webdataset"]}
    quality = "" if baked.quality is None else f", quality {baked.quality}"
    said = f"The pixels are under {escaped(license)}." if license else "Nobody has said here what it is."
    place = shown(shlex.quote(url or "URL"))
    return f"""---
{yaml.safe_dump(matter, sort_keys=False).strip()}
---

# Baked patches of {escaped(t.dataset.name)} ({escaped(t.dataset.split)})

{baked.num_baked} of {t.num_patches} patches ({baked.patches}), {baked.num_views} view(s), {baked.num_images:,} images,
as WebDataset shards: {shown_bytes(baked.num_bytes)}, {baked.encoding}{quality}. `baked.json` says what they are.

```
dataltt pull {place} baked
dataltt train --baked baked
```

Their positions are those of the tickets `{t.digest}`, chosen by {escaped(t.selector.title)}.

## Licence

These are pixels of {escaped(t.dataset.name)}, under the licence of that data set, whatever the tickets' own is. {said}
"""
