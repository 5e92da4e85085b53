"""dataltt cache"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from ...stages.options import CacheOptions, Group, Option
from ..ends import print_json, say
from ..options import takes


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig(Group):
    """Options of `dataltt cache`."""

    clear: Annotated[bool, Option(help="Remove everything in it.", is_common=True)] = False
    downloads: CacheOptions = CacheOptions()


@takes(CacheConfig)
def cache(config: CacheConfig, as_json: bool) -> None:
    """Show, or clear, the cache of downloaded tickets: where it is, and how much is in it.

    Example: dataltt cache --clear
    """
    from ...artifacts_schema.access.cache import ObjectCache

    folder = config.downloads.access.cache_folder
    store = ObjectCache(folder, config.downloads.access.cache_bytes)
    usage = store.clear() if config.clear else store.usage()
    document = {"folder": str(folder), "limit_gb": config.downloads.cache_gb, "cleared": config.clear, **asdict(usage)}
    if as_json:
        print_json(document)
        return
    size = f"{usage.num_objects} objects, {usage.num_bytes / 1e9:.3f} GB"
    if config.clear:
        say(f"{folder}: {size} removed")
    else:
        limit = config.downloads.cache_gb
        say(f"{folder}: {size} of at most {limit:g} GB; clear it with: dataltt cache --clear")
