"""dataltt view"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...stages.options import Group, OnChangedImage, Option, Overwrite, RemoteOptions, Seed
from ..ends import print_json, say
from ..options import takes
from ..progress import reporting

_NUM_IMAGES, _NUM_VIEWS = 200, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig(Group):
    """Options of `dataltt view`."""

    store: Annotated[str, Option(help="A ticket store: a folder, a zip file, or a URL.", is_argument=True)]
    shards: Annotated[
        str | None, Option(help="The images, in quotes. Default: where the store says they are.", is_common=True)
    ] = None
    out: Annotated[Path, Option(help="Folder to write; open its index.html.", is_common=True)] = Path("view")
    images: Annotated[
        int | None,
        Option(
            help=f"How many images, spread evenly over the store. Default: {_NUM_IMAGES}, or all of `only_class`.",
            min=1,
            is_common=True,
        ),
    ] = None
    only_class: Annotated[str | None, Option(help="Images of this class alone: its name or number.")] = None
    num_views: Annotated[int, Option(help="Views of each image, the first ones.", min=1)] = _NUM_VIEWS
    seed: Seed = 0
    on_changed_image: OnChangedImage = "error"
    overwrite: Overwrite = False
    remote: RemoteOptions = RemoteOptions()


@takes(ViewConfig)
def view(config: ViewConfig, as_json: bool) -> None:
    """Write a page to look at tickets: images with their kept patches and ranks, by class, and where tickets lie.

    The page is a folder of plain files, and opens in a browser from disk; nothing is fetched from elsewhere.

    Example: dataltt view store.zarr --shards 'photos/val-*.tar' --out look
    """
    from ...stages.analysis.shown_images import ShownImages
    from ..reports.gallery import check_free, write_gallery

    c = config
    check_free(c.out, c.overwrite)
    store = c.remote.location(c.store)
    images = ShownImages(store, c.shards, num_views=c.num_views, on_changed_image=c.on_changed_image)
    label = None if c.only_class is None else images.label_of(c.only_class)
    count = _NUM_IMAGES if c.images is None and label is None else c.images
    rows = images.choose(count, seed=c.seed, label=label)
    with reporting() as reporter:
        gallery = write_gallery(images, rows, c.out, overwrite=c.overwrite, reporter=reporter)
    if as_json:
        print_json(asdict(gallery))
        return
    views = f" in {gallery.num_views} views" if gallery.num_views > 1 else ""
    say(f"{gallery.index}: {gallery.num_images} images{views}, {gallery.num_bytes / 1e6:.1f} MB; open it in a browser")
