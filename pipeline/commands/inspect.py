"""dataltt inspect"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...stages.options import Group, Option, RemoteOptions
from ..ends import numbers, print_json, say
from ..escaping import cell
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...artifacts_schema import Location, Manifest

_BAR_CELLS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig(Group):
    """Options of `dataltt inspect`."""

    store: Annotated[
        str, Option(help="A ticket store: a folder, a zip file, or a URL; or a baked folder.", is_argument=True)
    ]
    shards: Annotated[str | None, Option(help="Draw sample tickets over the images of these shards.")] = None
    png: Annotated[Path | None, Option(help="Write the heat map, and the samples, as a picture.")] = None
    samples: Annotated[int, Option(help="How many samples to draw.", min=1)] = 12
    remote: RemoteOptions = RemoteOptions()


@takes(InspectConfig)
def inspect(config: InspectConfig, as_json: bool) -> None:
    """Show a ticket store: its manifest, bytes per image, and which positions of the grid it keeps; or a baked folder.

    Example: dataltt inspect store.zarr --png tickets.png --shards 'imagenet/train-*.tar'
    """
    from ...artifacts_schema import OptionError, TicketStore
    from ...artifacts_schema.baked import is_baked
    from ...artifacts_schema.summary import kept_share
    from ...stages.data.fetching import fetch_store

    store, shards, png = config.store, config.shards, config.png
    if is_baked(Path(store)):
        if shards is not None or png is not None:
            raise OptionError(f"{store} is baked, and pictures are drawn of ticket stores; leave `shards`, `png` out")
        _inspect_baked(Path(store), as_json)
        return
    if shards is not None and png is None:
        raise OptionError("--shards draws tickets over images, which needs a picture to draw in; pass --png FILE")
    opened = TicketStore.open(config.remote.location(store))
    with reporting() as reporter:
        fetch_store(opened, reporter, ["tickets"])
    share = kept_share(opened)
    stored = opened.num_stored_bytes()
    num_images = opened.manifest.num_images
    if png is not None:
        _draw(opened.location, shards, png, config.samples, share)
    if as_json:
        document: dict[str, Any] = {
            "store": store,
            "manifest": opened.manifest.to_json(),
            "bytes_per_image": {path: size / num_images for path, size in stored.items()},
            "kept_share": share.tolist(),
        }
        print_json(document)
        return
    _print(store, opened.manifest, stored, share)
    if png is not None:
        say(f"picture: {png}")


def _inspect_baked(folder: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ...artifacts_schema.baked import read_baked
    from ...artifacts_schema.space import shown_bytes

    baked = read_baked(folder)
    if as_json:
        print_json({"baked": str(folder), **baked.to_json()})
        return
    t = baked.tickets
    licence = None if t.publication is None else t.publication.data_license
    facts = {
        "baked folder": f"{folder} (format {baked.format_version}, {baked.created}, by dataltt {baked.tool_version})",
        "ticket digest": t.digest,
        "images": f"{baked.num_images} of {t.dataset.name} ({t.dataset.split}), {len(baked.shards)} shard(s) a view",
        "patches": f"{baked.num_baked} of {t.num_patches} ({baked.patches}), of which the ticket keeps {t.num_keep}",
        "views": f"{baked.num_views} of {t.num_views}; {_view(t)}",
        "encoding": baked.encoding if baked.quality is None else f"{baked.encoding}, quality {baked.quality}",
        "bytes": f"{shown_bytes(baked.num_bytes)}, "
        f"{shown_bytes(baked.num_bytes / baked.num_images / baked.num_views)} a view of an image",
        "libraries": ", ".join(f"{name} {version}" for name, version in baked.libraries.items()),
        "licence of the images": licence or "not said",
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(f"[bold]{name}", cell(text))
    Console().print(table)


def _draw(store: Location, shards: str | None, png: Path, count: int, share: npt.NDArray[np.float64]) -> None:
    from ...artifacts_schema import OptionError
    from ...stages.analysis.sample_tickets import sample_tickets
    from ..reports.figures import store_figure, write_png

    if not png.parent.is_dir():
        raise OptionError(f"--png {png}: there is no folder {png.parent}")
    write_png(store_figure(share, sample_tickets(store, shards, count) if shards else []), png)


def _print(store: str, m: Manifest, stored: dict[str, int], share: npt.NDArray[np.float64]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ...artifacts_schema.local_notes import noted_shards
    from ...artifacts_schema.thinning import approximation, kept_in_words

    console = Console()
    facts = {
        "store": f"{store} (schema {m.schema_version}, made {m.created} by dataltt {m.tool_version})",
        "ticket digest": m.digest,
        "images": f"{m.num_images} of {m.dataset.name} ({m.dataset.split}), {len(m.dataset.shards)} shard(s)",
        "source": noted_shards(store, m) or "not known (give --shards)",
        "ticket": f"{kept_in_words(m)}, {m.num_views} view(s)"
        + (", with ranks" if m.has_ranks else ", no ranks")
        + (f"; {said}" if (said := approximation(m)) else ""),
        "grid": f"{m.grid[0]}×{m.grid[1]} patches of {m.patch_px} px ({m.image_px} px)",
        "view": _view(m),
        "selector": _selector(m),
        "weights": f"SHA-256 {m.selector.weights_sha256}" if m.selector.weights_sha256 else "none",
        "token labels": _token_labels(m),
        "skipped": f"{len(m.skipped)} image(s) that could not be decoded" if m.skipped else "none",
    }
    if m.parent:
        facts["made from"] = _parents(m.parent)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a digest whole
    for name, text in facts.items():
        table.add_row(f"[bold]{name}", cell(text))
    console.print(table)
    sizes = Table("array", *numbers("bytes/image", "bytes"), box=None, padding=(0, 2, 0, 0), title_justify="left")
    for path, size in stored.items():
        sizes.add_row(path, f"{size / m.num_images:.2f}", str(size))
    total = sum(stored.values())
    sizes.add_row("[bold]all arrays", f"[bold]{total / m.num_images:.2f}", f"[bold]{total}")
    console.print()
    console.print(sizes)
    console.print(f"\nkept share per grid position, in per cent (mean {share.mean():.1%})")
    console.print(_heat_map(share), highlight=False)


def _selector(m: Manifest) -> str:
    s = m.selector
    dial = f"ratio {s.ratio}" if s.ratio is not None else f"keep rate {s.keep_rate}"
    if m.adaptive is not None:
        dial = f"budget {m.adaptive.budget:g} (the fewest patches that hold {m.adaptive.threshold:.1%} of the weight)"
    plain = f"{s.title}, {dial}, {s.precision}"
    if s.name is None:
        cascade = zip(s.drop_blocks, s.keep_counts, strict=True)
        return f"{plain}; keeps " + ", ".join(f"{kept} after block {block}" for block, kept in cascade)
    settings = [f"{name}={value}" for name, value in (s.settings or {}).items()]
    more = [", ".join(settings), s.package and f"by {s.package}", s.uses_labels and "uses the images' labels"]
    return "; ".join([plain, *(part for part in more if part)])


def _view(m: Manifest) -> str:
    decoded = f"decoded by {m.view.decoder_name}"
    if m.view.kind == "center":
        return f"center: {decoded}, resized to {m.view.resize_px} px ({m.view.interpolation}), cut to {m.image_px} px"
    augment = m.view.augment or {}
    drawn = f"policy {m.view.policy_name!r}, version {augment.get('version')}, seed {m.view.seed}"
    return f"replay: {decoded}, drawn by {drawn}, resized to {m.image_px} px ({m.view.interpolation})"


def _parents(parents: list[dict[str, Any]]) -> str:
    """Operations and stores that a store came from, by the beginnings of their ticket digests."""
    named = [f"{p.get('operation', '?')} of {str(p.get('ticket_digest', '?'))[:12]}" for p in parents]
    more = f" and {len(named) - 4} more" if len(named) > 4 else ""
    return ", ".join(named[:4]) + more


def _token_labels(m: Manifest) -> str:
    labeller = m.token_labels
    if labeller is None:
        return "none"
    return f"by {labeller.model} ({labeller.num_classes} classes, {labeller.precision}), made {labeller.created}"


def _heat_map(share: npt.NDArray[np.float64]) -> str:
    """Rows of coloured cells, a number in each where the grid is small enough to fit, and a bar of the colours."""
    low, high = float(share.min()), float(share.max())
    numbers = share.shape[1] <= 16
    lines = []
    for row in share:
        cells = []
        for value in row:
            text = f"{100 * value:4.0f} " if numbers else "  "
            cells.append(_cell(text, (float(value) - low) / (high - low) if high > low else 0.5))
        lines.append("".join(cells))
    bar = "".join(_cell("  ", step / (_BAR_CELLS - 1)) for step in range(_BAR_CELLS))
    lines += ["", f"{low:.0%} {bar} {high:.0%}"]
    return "\n".join(lines)


def _cell(text: str, level: float) -> str:
    """Text on the colour of a level within [0, 1]."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return f"[{'black' if level > 0.6 else 'white'} on {to_hex(colormaps['viridis'](level))}]{text}[/]"
