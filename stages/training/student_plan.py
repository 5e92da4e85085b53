"""The student that a run trains: made with random or given weights, with targets for its tokens."""

from __future__ import annotations

from ...artifacts_schema import Manifest, OptionError, TicketMismatchError
from ...artifacts_schema.thinning import mean_kept
from ...artifacts_schema.token_labels import no_token_labels
from ..data.class_list import listed_classes
from ..data.shards import Shard
from ..models.checkpoints import find_weights
from ..models.families import create_student, family_of
from ..models.resizing import check_resizable
from ..models.student import Student
from ..models.weight_bounds import sketched
from ..models.weights import check_initial_weights, initial_in_words, load_initial_weights, read_weights
from ..options import TokenTargets
from ..runtime.randomness import isolated_rng
from ..runtime.reporting import Reporter
from .config import TrainConfig
from .view_plan import ViewPlan


def check_student(student: Student, config: TrainConfig, name: str) -> None:
    """Refuses a student that cannot be shown what the run is to show it.

    Raises:
        OptionError: smaller pictures, or all patches at the end.
    """
    if config.control == "resize":
        check_resizable(student, name, "`control='resize'`")
    if config.dense_epochs and student.fixed_num_keep not in (None, student.geometry.num_patches):
        raise OptionError(
            f"`dense_epochs={config.dense_epochs}` shows {student.geometry.num_patches} patches, and this student "
            f"(`swin_input='small-dense'`) is built for images packed from {student.fixed_num_keep}; leave it out"
        )


def make_student(config: TrainConfig, name: str, manifest: Manifest | None, reporter: Reporter) -> Student:
    """A student with random weights, or those of `init`."""
    num_keep = None if manifest is None or config.control == "dense" else mean_kept(manifest)

    image_px = config.student.image_px or _size_of_tickets(name, manifest)

    def make() -> Student:
        return create_student(
            name,
            num_keep=num_keep,
            patch_input=config.student.swin_input,
            image_px=image_px,
            num_classes=config.data.num_classes,
            drop_path_rate=config.recipe.drop_path,
        )

    if config.student.init is not None:
        weights = find_weights(config.student.init)
        initial = read_weights(weights)
        check_initial_weights(sketched(make).net, initial, str(weights), name)
    with isolated_rng(config.run.seed, "initialisation"):
        student = make()
    if config.student.init is not None:
        fresh = load_initial_weights(student.net, initial, str(weights), name)
        reporter.message(initial_in_words(student.net, initial, weights, fresh))
    return student


def _size_of_tickets(name: str, manifest: Manifest | None) -> int | None:
    """Side of the images that tickets are of, if a student with their patches can be made for it; None for its own."""
    if manifest is None or family_of(name).size_kwargs is None:
        return None
    patch_px = sketched(lambda: create_student(name)).geometry.patch_px
    return manifest.image_px if patch_px == manifest.patch_px else None


def token_targets(
    config: TrainConfig, manifest: Manifest | None, views: ViewPlan, shards: list[Shard]
) -> TokenTargets | None:
    """Resolves where a student with an auxiliary head has its targets from.

    Raises:
        OptionError, TicketMismatchError: they are not to be had, or belong to something else.
    """
    assert config.student.model is not None
    if not family_of(config.student.model).learns_token_labels:
        if config.student.token_labels is not None:
            raise OptionError(f"`token_labels`: {config.student.model} has no head that would learn them; leave it out")
        return None
    if config.student.token_labels == "image":
        return "image"
    image = "or give `token_labels='image'` (every token learns the image's label)"
    if manifest is None:
        raise OptionError(
            f"{config.student.model} learns token labels; give `tickets` with a store that has them, {image}"
        )
    labels = manifest.token_labels
    if labels is None:
        assert config.tickets is not None
        raise no_token_labels(config.tickets, f", {image}")
    of_images = listed_classes(shards) or config.data.num_classes
    if labels.num_classes != of_images or labels.num_classes != config.data.num_classes:
        raise TicketMismatchError(
            f"{config.tickets} has token labels of {labels.num_classes} classes ({labels.model}), and the images have "
            f"{of_images}; label with a model of these classes, {image}"
        )
    if views.mode == "warp":
        raise OptionError(
            f"token labels in {config.tickets} belong to its own views; train on replayed or static views "
            f"(`view_mode`), {image}"
        )
    return "store"
