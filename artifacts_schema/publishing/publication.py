"""Licence, citation, authors and homepage of a finished store, put into its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..access.location import Location
from ..errors import OptionError
from ..identity import version_of
from ..local_notes import keep_source
from ..manifest import Manifest, Publication
from ..manifest_file import read_root
from ..manifest_parsing import parse_manifest
from ..writing.new_store import object_sizes
from ..writing.root import replace_manifest


def publish_as(store: Path, publication: Publication) -> Manifest:
    """Puts licence, citation, authors and homepage into a store's manifest, in one step; returns the new manifest.

    The ticket digest stays. A store of before schema 1.2 becomes one of this version; where its shards lie then stands
    in a file beside the manifest, which does not travel.

    Raises:
        StoreNotFoundError, SchemaError: there is no store, or it is damaged.
        OptionError: it is in no folder, or a text is too long.
    """
    location = Location.of(store)
    if location.is_zip:
        raise OptionError(f"{store} is a zip file, which is not written to; fetch it first: dataltt pull {store}")
    manifest = read_root(location).manifest
    if manifest.publication == publication:
        return manifest
    if version_of({"schema_version": manifest.schema_version}) < (1, 2):
        upgraded = manifest.upgraded(object_sizes(store, manifest.objects))
        keep_source(store, manifest)
    else:
        upgraded = manifest
    changed = replace(upgraded, publication=publication)
    parse_manifest(changed.to_json(), str(store))  # what no reader would open is refused here
    replace_manifest(store, changed)
    return read_root(location).manifest
