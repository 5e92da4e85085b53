"""Licences: names as the hub spells them, and which let pictures be shown."""

from __future__ import annotations

import pytest
from dataltt.artifacts_schema.publishing.licenses import hub_license, lets_pictures_be_shown


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("CC-BY-4.0", "cc-by-4.0"),
        ("CC BY 4.0", "cc-by-4.0"),
        (" cc_by_sa_4.0 ", "cc-by-sa-4.0"),
        ("CC0-1.0", "cc0-1.0"),
        ("cc0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT", "mit"),
        ("ODC-By-1.0", "odc-by"),
        ("GPL-3.0-only", "gpl-3.0"),
        ("AGPL-3.0-or-later", "agpl-3.0"),
        ("LGPL-2.1+", "lgpl-2.1"),
        ("ImageNet terms of access", None),
        ("CC-BY-9.0", None),
    ],
)
def test_names_on_the_hub(given: str, known: str | None) -> None:
    assert hub_license(given) == known


@pytest.mark.parametrize(
    "license", ["CC0-1.0", "CC-BY-4.0", "CC BY-SA 3.0", "MIT", "Apache-2.0", "ODC-By-1.0", "PDM-1.0"]
)
def test_pictures_may_be_shown(license: str) -> None:
    assert lets_pictures_be_shown(license)


@pytest.mark.parametrize(
    "license",
    ["CC-BY-NC-4.0", "CC-BY-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY", "ImageNet terms", "unknown", "other", "MIT or so", ""],
)
def test_pictures_may_not_be_shown(license: str) -> None:
    assert not lets_pictures_be_shown(license)
