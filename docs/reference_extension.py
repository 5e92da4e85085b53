"""How the API reference reads this code: an option's help is its docstring, and errors may be listed by name alone."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

_ERRORS = "dataltt.artifacts_schema.errors"
# A line of "Raises:" that holds nothing but names of errors.
_NAMES = re.compile(r"(?m)^( *Raises:\n)( +)(\w+(?:, \w+)*)$")


class Reference(griffe.Extension):
    """MkDocs loads this by its file; mkdocs.yml names it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """`name: Annotated[type, Option(help="…")]` is shown as an attribute of that type with that docstring."""
        _explain(attr, attr.annotation)

    def on_attribute(self, *, attr: griffe.Attribute, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """The same where the annotation is the name of such a type: `seed: Seed`."""
        if isinstance(attr.annotation, griffe.ExprName):
            try:
                named = loader.modules_collection[attr.annotation.canonical_path]
            except KeyError:  # of Python, or of another package
                return
            if isinstance(named, griffe.Attribute):
                _explain(attr, named.value)

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Gives each name of a bare list of errors a line of its own, with what the error itself says."""
        if obj.docstring is not None and _NAMES.search(obj.docstring.value):
            errors = loader.modules_collection[_ERRORS]
            obj.docstring.value = _NAMES.sub(lambda found: _one_a_line(found, errors), obj.docstring.value)


def _explain(attr: griffe.Attribute, annotation: str | griffe.Expr | None) -> None:
    if not isinstance(annotation, griffe.ExprSubscript) or annotation.canonical_name != "Annotated":
        return
    if not isinstance(annotation.slice, griffe.ExprTuple):
        return
    kind, *extras = annotation.slice.elements
    attr.annotation = kind
    texts = [help_text for extra in extras if (help_text := _help_of(extra))]
    if texts and attr.docstring is None:
        attr.docstring = griffe.Docstring(texts[0], lineno=attr.lineno, parent=attr)


def _help_of(expression: str | griffe.Expr) -> str | None:
    """The help of an `Option(…)`, None of anything else."""
    if not isinstance(expression, griffe.ExprCall) or expression.canonical_path.rsplit(".", 1)[-1] != "Option":
        return None
    for argument in expression.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "help":
            try:
                return str(ast.literal_eval(str(argument.value)))
            except ValueError:  # an f-string: shown without
                return None
    return None


def _one_a_line(found: re.Match[str], errors: griffe.Object) -> str:
    head, indent, names = found.groups()
    return head + "\n".join(f"{indent}{name}: {_summary(errors.members.get(name))}" for name in names.split(", "))


def _summary(error: griffe.Object | griffe.Alias | None) -> str:
    return error.docstring.value.splitlines()[0] if error is not None and error.docstring else ""
