"""Selectors by name: dataltt's own, and those that other packages add as entry points of the group below."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import DatalttError, ModelError, OptionError
from ..models.selector import Ordered
from .scorers import SHIPPED, Scorer

GROUP = "dataltt.selectors"
CASCADE = "cascade"
Setting = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSelector:
    """A selector that was asked for, before it has its ViT.

    Attributes:
        make: makes it of a ViT and its settings.
        settings: all of them, given or not.
        package: name and version of the package that it comes from; None of dataltt's own.
    """

    name: str
    make: Callable[..., Scorer]
    settings: Mapping[str, Setting]
    package: str | None

    @property
    def needs_weights(self) -> bool:
        """True where the ViT's weights play a part."""
        return bool(getattr(self.make, "needs_weights", True))

    @property
    def gives_weights(self) -> bool:
        """True where its scores are non-negative weights, of which a share can say how many patches an image needs."""
        return bool(getattr(self.make, "gives_weights", False))


def named_selector(name: str, options: Sequence[str]) -> NamedSelector | None:
    """The selector of a name with its settings; None of the cascade.

    Args:
        options: NAME=VALUE each.

    Raises:
        OptionError: there is no such selector, or it has no such setting, or not with such a value.
    """
    if name == CASCADE:
        if options:
            raise OptionError(
                f"`selector_option={options[0]!r}`: the cascade takes none; its options are `ratio`, `keep_rate` and "
                "`drop_blocks`"
            )
        return None
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in SHIPPED and name not in others:
        names = [CASCADE, *SHIPPED, *sorted(set(others) - set(SHIPPED))]
        near = difflib.get_close_matches(name, names, n=1)
        raise OptionError(
            f"`selector={name!r}` is not known; there are {', '.join(names)}"
            + (f"; did you mean {near[0]}?" if near else "; others come with packages that add them")
        )
    entry = None if name in SHIPPED else others[name]
    make = SHIPPED[name] if entry is None else _loaded(entry)
    package = f"{entry.dist.name} {entry.dist.version}" if entry is not None and entry.dist is not None else None
    return NamedSelector(name=name, make=make, settings=_settings(name, make, options), package=package)


def _loaded(entry: EntryPoint) -> Callable[..., Scorer]:
    try:
        made: Callable[..., Scorer] = entry.load()
    except Exception as error:
        raise OptionError(
            f"`selector={entry.name!r}` cannot be loaded from {entry.value} ({type(error).__name__}: {error}); "
            "mend or reinstall the package that adds it"
        ) from error
    return made


def _settings(name: str, make: Callable[..., Scorer], options: Sequence[str]) -> dict[str, Setting]:
    parameters = inspect.signature(make).parameters.values()
    known: dict[str, Setting] = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if other := next((key for key, value in known.items() if not isinstance(value, Setting)), None):
        raise OptionError(
            f"`selector={name!r}`: its setting {other} has no default that is true or false, a number or text; give it "
            "one where it is written"
        )
    has = f"it has {', '.join(f'{n}={v}' for n, v in known.items())}" if known else "it has none"
    settings, given = dict(known), set[str]()
    for option in options:
        key, is_pair, text = option.partition("=")
        if key in given:
            raise OptionError(f"`selector_option={option!r}`: {key} is given twice; give it once")
        given.add(key)
        if not is_pair or key not in known:
            raise OptionError(f"`selector_option={option!r}` is no setting of the selector {name!r}; {has}")
        try:
            settings[key] = _parsed(text, type(known[key]))
        except ValueError:
            raise OptionError(
                f"`selector_option={option!r}` should be of the kind of {key}={known[key]}, the default"
            ) from None
    return settings


def _parsed(text: str, kind: type[Any]) -> Setting:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    value: Setting = kind(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def ordered(
    scorer: Scorer,
    name: str,
    images: Tensor,
    labels: Tensor | None,
    num_keep: int,
    num_patches: int,
    names: Sequence[str],
) -> Ordered:
    """Patches from the highest score to the lowest, of equals the first, and these scores.

    Args:
        images: float [B, channels, H, W], normalised.
        name: of the selector, for the sentence.

    Raises:
        ModelError: scores of another shape, not finite, or below zero where they are to be weights.
    """
    with torch.no_grad():
        scores = scorer.scores(images, labels, num_keep, names=names)
    if not isinstance(scores, Tensor):
        raise ModelError(
            f"the selector {name!r} gave {type(scores).__name__} for scores; they should be a torch tensor"
        )
    if scores.shape != (len(images), num_patches):
        raise ModelError(
            f"the selector {name!r} gave scores of shape {list(scores.shape)}; they should be "
            f"[{len(images)}, {num_patches}], one per image and patch"
        )
    if not scores.isfinite().all():
        raise ModelError(f"the selector {name!r} gave scores that are not finite; its weights may be damaged")
    if getattr(scorer, "gives_weights", False) and (scores < 0).any():
        raise ModelError(f"the selector {name!r} gave scores below zero, which are no weights")
    return Ordered(*reversed(scores.sort(dim=1, descending=True, stable=True)))


def without_labels(named: NamedSelector) -> str:
    """Way out for a selector that chooses by labels where it may not."""
    if named.settings.get("labels") is True:
        return "leave `selector_option='labels=true'` out"
    return "take a selector that needs no labels"


def made(named: NamedSelector, vit: VisionTransformer) -> Scorer:
    """The selector with its ViT, whose weights are frozen.

    Raises:
        ModelError: the selector of another package failed, here or when it scores.
    """
    vit = vit.eval().requires_grad_(False)
    return named.make(vit, **named.settings) if named.name in SHIPPED else _Foreign(named, vit)


class _Foreign:
    """Selector of another package: what goes wrong in it is said to be its own."""

    def __init__(self, named: NamedSelector, vit: VisionTransformer) -> None:
        self._named = named
        with self._blamed():
            self._scorer = named.make(vit, **named.settings)
        self.uses_labels = bool(getattr(self._scorer, "uses_labels", False))
        self.gives_weights = bool(getattr(self._scorer, "gives_weights", False))

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Scores of the other package's."""
        with self._blamed():
            return self._scorer.scores(images, labels, num_keep, names=names)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except DatalttError:
            raise
        except Exception as error:
            whose = self._named.package or "another package"
            raise ModelError(
                f"the selector {self._named.name!r} of {whose} failed ({type(error).__name__}: {error}); mend it "
                "there, or take another"
            ) from error
