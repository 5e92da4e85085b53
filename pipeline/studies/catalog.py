"""The studies by name. A recipe is a plain function; its docstring is what `dataltt study NAME --describe` prints."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping

from ...artifacts_schema import OptionError
from ...stages.runtime.reporting import Reporter
from . import paper
from .compare_views import views_fashion, views_photos
from .engine import Study, StudyInputs
from .fashion import fashion
from .photos import photos

Recipe = Callable[[StudyInputs, Reporter], Study]

RECIPES: Mapping[str, Recipe] = {
    "fashion": fashion,
    "photos": photos,
    "views-fashion": views_fashion,
    "views-photos": views_photos,
    **{recipe.__name__: recipe for recipe in paper.RECIPES},
}


def recipe_named(name: str) -> Recipe:
    """A recipe by name; dashes and underscores are alike.

    Raises:
        OptionError: there is none.
    """
    wanted = name.replace("-", "_")
    for known, recipe in RECIPES.items():
        if known.replace("-", "_") == wanted:
            return recipe
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]}?" if near else "all of them: dataltt study list"
    raise OptionError(f"there is no study {name!r}; {hint}")


def describe(recipe: Recipe) -> str:
    """A recipe's docstring, and what the paper's rows have in common after one of theirs."""
    own = inspect.getdoc(recipe) or ""
    common = inspect.getdoc(paper) or ""
    return f"{own}\n\n{common}" if recipe in paper.RECIPES else own
