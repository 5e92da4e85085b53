"""Licences by their names: which the hub knows, and which let pictures be shown."""

from __future__ import annotations

import re

# As https://huggingface.co/docs/hub/repositories-licenses has them, those for models alone left out.
_HUB = re.compile(
    r"afl-3\.0|a?gpl-3\.0|apache-2\.0|artistic-2\.0|bsd(-[23]-clause)?|bsd-3-clause-clear|bsl-1\.0|c-uda|cc|cc0-1\.0|"
    r"cc-by-(2\.0|2\.5|3\.0|4\.0)|cc-by-nc-[234]\.0|cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0|cc-by-nd-4\.0|"
    r"cc-by-sa-[34]\.0|cdla-permissive-[12]\.0|cdla-sharing-1\.0|ecl-2\.0|epl-[12]\.0|etalab-2\.0|eupl-1\.[12]|gfdl|"
    r"gpl|gpl-2\.0|isc|lgpl(-2\.1|-3\.0)?|lppl-1\.3c|mit|mpl-2\.0|ms-pl|ncsa|odbl|odc-by|ofl-1\.1|openrail|osl-3\.0|"
    r"other|pddl|postgresql|unknown|unlicense|wtfpl|zlib"
)
# SPDX writes some with a version or an ending that the hub leaves out.
_SPELLINGS = {
    "cc0": "cc0-1.0",
    "odc-by-1.0": "odc-by",
    "odbl-1.0": "odbl",
    "pddl-1.0": "pddl",
    "apache": "apache-2.0",
    "apache2": "apache-2.0",
}
# Licences that let anybody pass copies on: public domain, attribution, share-alike, permissive. Some want the source
# named, which a card does. Not those that forbid commerce or changes: a gallery changes the pictures.
_OPEN = re.compile(
    r"cc0(-1\.0)?|cc-pdm(-1\.0)?|pdm(-1\.0)?|public-domain|cc-by(-sa)?-[1-4]\.\d|mit(-0)?|apache-2\.0|"
    r"bsd-[23]-clause|odc-by|odbl|pddl|unlicense|isc|zlib|cdla-(permissive|sharing)-[12]\.0|etalab-2\.0|wtfpl"
)
EXAMPLES_OF_OPEN = "CC0-1.0, CC-BY-4.0, CC-BY-SA-4.0, MIT, Apache-2.0 or ODC-By-1.0"


def plain_name(license: str) -> str:
    """A licence's name as the hub spells it, if it knows it: `CC BY 4.0` is cc-by-4.0, `GPL-3.0-only` is gpl-3.0."""
    name = re.sub(r"[\s_]+", "-", license.strip().lower())
    name = re.sub(r"-(only|or-later)$|(?<=\d)\+$", "", name)
    return _SPELLINGS.get(name, name)


def hub_license(license: str) -> str | None:
    """The hub's identifier of a licence, or None if it has none."""
    name = plain_name(license)
    return name if _HUB.fullmatch(name) else None


def lets_pictures_be_shown(license: str) -> bool:
    """Tells whether a licence of images is known to let anybody show changed copies of them."""
    return _OPEN.fullmatch(plain_name(license)) is not None
