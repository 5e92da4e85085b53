"""Check that shards hold the images that a store's tickets are of."""

from __future__ import annotations

from ...artifacts_schema import DatalttError, Location, read_manifest
from ...artifacts_schema.verify import Check
from ..data.join import JoinConfig, TicketJoin
from ..data.shards import iter_samples, resolve_shards
from ..runtime.reporting import Reporter

_SHOWN = 5


def verify_shards(store: str | Location, shards: str, reporter: Reporter) -> Check:
    """Joins every sample of the shards with its ticket, by key and image digest, and counts both sides."""
    wrong: list[str] = []
    num_joined = 0
    try:
        manifest = read_manifest(store)
        num_images, skipped_keys = manifest.num_images, manifest.skipped_keys
        join = TicketJoin(JoinConfig(store=store, on_missing_ticket="skip"))
        found = resolve_shards(shards, Location.of(store).access)
        reporter.start("comparing shards", num_images, "images")
        for shard in found:
            try:
                samples = (s for s in iter_samples(shard) if s.key not in skipped_keys)
                for _ in join.join(shard, samples):
                    num_joined += 1
                    reporter.advance(1)
            except DatalttError as error:
                wrong.append(str(error))
        reporter.finish()
    except DatalttError as error:
        return Check(name="shards", ok=False, detail=str(error))
    if join.num_missing:
        wrong.append(f"{join.num_missing} of {num_joined + join.num_missing} images in the shards have no ticket")
    if not wrong and num_joined != num_images:
        wrong.append(f"{num_joined} images in the shards, {num_images} tickets in the store")
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    detail = "; ".join(wrong[:_SHOWN]) + more
    return Check(name="shards", ok=not wrong, detail=detail or f"{num_joined} images in {len(found)} shard(s)")
