"""A store's card: README.md as the hub shows it, a picture of where tickets lie, and a gallery if one is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from ...artifacts_schema import Manifest, OptionError, Selector, TicketStore, read_manifest
from ...artifacts_schema.files import write_atomically
from ...artifacts_schema.layout import CARD_FILE, is_card_file
from ...artifacts_schema.manifest import Publication
from ...artifacts_schema.publishing.licenses import EXAMPLES_OF_OPEN, hub_license, lets_pictures_be_shown
from ...artifacts_schema.summary import kept_share
from ...artifacts_schema.thinning import kept_in_words
from ..escaping import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...stages.analysis.sample_tickets import SampleTicket

CARD_PICTURE, CARD_GALLERY = "card.png", "card-gallery.png"
GALLERY_IMAGES = 16  # two rows
_TAGS = ("dataltt", "vision-transformer", "token-pruning", "lottery-ticket", "webdataset")
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
_LARGEST = "10M<n<100M"
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~!])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def card_files(store: TicketStore, *, url: str | None = None, gallery: Sequence[SampleTicket] = ()) -> dict[str, bytes]:
    """The files of a store's card, by name.

    Args:
        url: where the store is published, for the commands that the card shows.
        gallery: images that it shows with their tickets; `refuse_gallery` says whether they may be shown.
    """
    from .figures import heat_map_figure, ticket_figure

    found = {CARD_PICTURE: _png(heat_map_figure(kept_share(store)))}
    if gallery:
        found[CARD_GALLERY] = _png(ticket_figure(gallery))
    found[CARD_FILE] = card_page(store.manifest, store.num_stored_bytes(), url, has_gallery=bool(gallery)).encode()
    return found


def refuse_gallery(publication: Publication | None) -> None:
    """Refuses to show images whose licence is not known to allow it.

    Raises:
        OptionError
    """
    license = publication.data_license if publication is not None else None
    if license is None:
        raise OptionError(
            "`gallery=True` shows images to everybody; say by `data_license` under which licence they are, e.g. "
            f"{EXAMPLES_OF_OPEN}"
        )
    if not lets_pictures_be_shown(license):
        raise OptionError(
            f"`data_license={license!r}` is not known to let images be shown to everybody, as {EXAMPLES_OF_OPEN} are; "
            "leave `gallery=True` out"
        )


def marker(manifest: Manifest) -> str:
    """A line that tells which state of which store a card was written of."""
    return f"dataltt card of {manifest.checksum or manifest.digest}"


def is_outdated(card: bytes, manifest: Manifest) -> bool:
    """Tells whether a card was written by dataltt of another state of the store."""
    return b"<!-- dataltt card of " in card and marker(manifest).encode() not in card


def card_page(m: Manifest, stored: Mapping[str, int], url: str | None = None, *, has_gallery: bool = False) -> str:
    """The card's page, README.md.

    Args:
        stored: bytes of each array, by path.
        url: where the store is published, for the commands that the card shows.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"md": escaped, "link": _link}
    template = environment.from_string((files(__package__) / "README.md.jinja").read_text(encoding="utf-8"))
    publication, place = m.publication or Publication(), url or "URL"
    page = template.render(
        m=m,
        p=publication,
        title=_title(m),
        kept=kept_in_words(m).replace("%", " %"),
        front_matter=_front_matter(m, publication),
        marker=marker(m),
        view=_view(m),
        dial=_dial(m),
        keeps=_keeps(m.selector),
        stored=stored,
        usage=_fenced("\n".join(_usage(shlex.quote(place)))),
        python_place=json.dumps(place),
        command=_fenced(select_command(m)),
        libraries=_libraries(m),
        parents=[_parent(each) for each in m.parent or []],
        citation=_fenced(publication.citation or ""),
        has_gallery=has_gallery,
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def escaped(text: object) -> str:
    """A text as Markdown shows it as it is: on one line, no markup, no HTML."""
    line = shown(" ".join(str(text).split()))
    return _MARKUP.sub(r"\\\1", re.sub("[&<>]", lambda found: _ENTITIES[found[0]], line))


def _link(url: str) -> str:
    """A link that is shown as it is, of what is a URL; else the text."""
    return f"<{url}>" if re.fullmatch(r"https?://[^\s<>]+", url) and shown(url) == url else escaped(url)


def _fenced(text: str) -> str:
    """A block of code, under a fence that the text does not have."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = shown(text.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t")
    return f"{fence}\n{lines}\n{fence}"


def _front_matter(m: Manifest, publication: Publication) -> str:
    """The card's metadata for the hub, as YAML between two lines of dashes."""
    fields: dict[str, Any] = {}
    if publication.license is not None:
        known = hub_license(publication.license)
        fields = {"license": known} if known else {"license": "other", "license_name": shown(publication.license)}
    fields |= {
        "pretty_name": shown(_title(m)),
        "task_categories": ["image-classification"],
        "tags": list(_TAGS),
        "source_datasets": [shown(m.dataset.name)],
        "size_categories": [next((name for limit, name in _SIZES if m.num_images < limit), _LARGEST)],
        "viewer": False,  # it shows tables, and a store is none
        "dataltt": {
            "dataset": shown(m.dataset.name),
            "split": shown(m.dataset.split),
            **_names_of(m.selector),
            "num_keep": m.num_keep,
            "num_patches": m.num_patches,
            "ticket_digest": m.digest,
        },
    }
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"---\n{text}---"


def _title(m: Manifest) -> str:
    kept = f"{m.num_keep}" if m.adaptive is None else f"{m.adaptive.least_keep} to {m.num_keep}"
    return f"{m.dataset.name} ({m.dataset.split}): tickets of {kept}/{m.num_patches} patches by {m.selector.title}"


def _names_of(s: Selector) -> dict[str, str]:
    """The selector's name, model and weights, of which it may lack some."""
    named = {"selector": s.name, "model": s.model, "weights_sha256": s.weights_sha256}
    return {key: shown(value) for key, value in named.items() if value is not None}


def _keeps(s: Selector) -> str:
    """The selector's work in words: what the cascade keeps where, or another's settings and package."""
    if s.name is None:
        cascade = zip(s.drop_blocks, s.keep_counts, strict=True)
        return "keeps " + ", ".join(f"{kept} after block {block}" for block, kept in cascade)
    settings = ", ".join(f"{name}={value}" for name, value in (s.settings or {}).items())
    package = f"by {s.package}" if s.package else ""
    labels = "uses the images' labels" if s.uses_labels else ""
    return "; ".join(["scores all patches once", *(part for part in (settings, package, labels) if part)])


def _dial(m: Manifest) -> str:
    s = m.selector
    if m.adaptive is not None:
        return f"budget {m.adaptive.budget:g} (the fewest patches that hold {m.adaptive.threshold:.1%} of the weight)"
    return f"ratio {s.ratio:g}" if s.ratio is not None else f"keep rate {s.keep_rate:g}"


def _view(m: Manifest) -> str:
    v, augment = m.view, m.view.augment or {}
    if v.kind == "center":
        shown = f"the centre, {m.image_px} px cut from {v.resize_px} px ({v.interpolation})"
    else:
        shown = f"drawn by policy {v.policy_name}, version {augment.get('version')}, seed {v.seed}; replayed"
    return f"{shown}; decoded by {v.decoder_name}"


def _usage(place: str) -> list[str]:
    return [
        f"dataltt train --tickets {place} --shards 'SHARDS'",
        f"dataltt pull {place}",
        f"dataltt verify {place} --shards 'SHARDS'",
    ]


def select_command(m: Manifest) -> str:
    """The call of `dataltt select` that makes these tickets, as the manifest tells it."""
    s, augment = m.selector, m.view.augment or {}
    dials = {"budget": m.adaptive and m.adaptive.budget, "ratio": s.ratio, "keep_rate": s.keep_rate}
    name, value = next((name, value) for name, value in dials.items() if value is not None)
    words = ["dataltt", "select", *_selector_words(s), "--model", s.model or "MODEL"]
    words += ["--checkpoint", "WEIGHTS"] if s.model is not None else []
    words += ["--shards", "SHARDS"]
    words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    words += ["--drop-blocks", ",".join(map(str, s.drop_blocks))] if s.drop_blocks else []
    if m.view.policy_name is not None:
        words += ["--augment", m.view.policy_name, "--seed", str(m.view.seed)]
        scale = (augment.get("parameters") or {}).get("crop_scale")
        words += ["--min-crop", f"{scale[0]:g}"] if isinstance(scale, list) and scale else []
    words += ["--num-views", str(m.num_views)] if m.num_views > 1 or m.view.policy_name is not None else []
    words += ["--decoder", "pillow"] if m.view.decoder_name == "pillow" else []
    words += ["--ranks"] if m.has_ranks else []
    words += ["--precision", s.precision] if s.precision != "fp32" else []
    words += ["--name", m.dataset.name, "--split", m.dataset.split]
    return shlex.join(words)


def _selector_words(s: Selector) -> list[str]:
    given = [f"{name}={value}" for name, value in (s.settings or {}).items()]
    named = [] if s.name is None else ["--selector", s.name]
    return [*named, *(word for pair in given for word in ("--selector-option", pair))]


def _libraries(m: Manifest) -> str:
    found = (m.view.augment or {}).get("libraries") or m.view.decoder_libraries
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) else ""


def _parent(parent: Mapping[str, Any]) -> dict[str, str]:
    digest = str(parent.get("ticket_digest"))
    is_digest = re.fullmatch("[0-9a-f]{64}", digest) is not None
    return {"operation": str(parent.get("operation", "?")), "ticket_digest": digest if is_digest else "?"}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def write_card(store: Path, files: Mapping[str, bytes]) -> None:
    """Writes a card into a store's folder, the page last; a gallery that it does not have any more goes."""
    for name in sorted(files, key=lambda name: name == CARD_FILE):
        write_atomically(store / name, files[name])
    if CARD_GALLERY not in files:
        (store / CARD_GALLERY).unlink(missing_ok=True)


def _is_own_file(path: Path) -> bool:
    """Tells whether this is a file, and no link: of a store from elsewhere, a link's file is not what is published."""
    return path.is_file() and not path.is_symlink()


def card_of(store: Path, url: str | None) -> tuple[dict[str, bytes], str]:
    """The card that goes with a store: the one in its folder, else one that is written now.

    Returns:
        Its files by name, and what there is to say about it; nothing if all is well.

    Raises:
        StoreNotFoundError, SchemaError: there is no store, or it is damaged.
    """
    if _is_own_file(store / CARD_FILE):
        found = {p.name: p.read_bytes() for p in sorted(store.iterdir()) if is_card_file(p.name) and _is_own_file(p)}
        if is_outdated(found[CARD_FILE], read_manifest(store)):
            return found, f"note: the card was written of an earlier state; dataltt card {store} writes it anew"
        return found, ""
    opened = TicketStore.open(store)
    made = card_files(opened, url=url)
    with contextlib.suppress(OSError):  # of a folder that may not be written, the card travels all the same
        write_card(store, made)
    if opened.manifest.publication is None or opened.manifest.publication.license is None:
        return made, f"note: the store has no licence; give it one: dataltt card {store} --license CC-BY-4.0"
    return made, ""
