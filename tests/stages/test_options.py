"""Options declared once: making, changing and writing down configs, and every kind of check."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from dataltt.artifacts_schema import OptionError
from dataltt.stages.options import (
    Group,
    Option,
    checked_value,
    nearest,
    options_of,
    parsed_value,
    seed_numbers,
    shares,
    whole_numbers,
)
from dataltt.stages.training.config import FitSelectorConfig, TrainConfig
from dataltt.stages.training.groups import Recipe
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Group):
    """A group."""

    panel: ClassVar[str] = "Inside"

    size: Annotated[int, Option(help="A size.", min=1)] = 3
    share: Annotated[float | None, Option(help="A share.", above=0, max=1)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Group):
    """A config."""

    source: Annotated[Path, Option(help="A path.")]
    colour: Annotated[Literal["red", "green"], Option(help="A colour.")] = "red"
    numbers: Annotated[tuple[int, ...], Option(help="Numbers.", parser=whole_numbers)] = (1, 2)
    inner: Inner = Inner(size=5)


# Making and changing


def test_configs_are_made_of_names_that_they_have() -> None:
    """A wrong name is an error only where it is run, and some of these places take hours to come to."""
    root = Path(__file__).parents[2]
    files = [file for folder in ("artifacts_schema", "stages", "pipeline") for file in (root / folder).rglob("*.py")]
    known = {cls.__name__: {declared.name for declared in options_of(cls)} for cls in _configs(Group)}
    made = [
        (f"{file.relative_to(root)}:{node.lineno}", node.func.value.id, {k.arg for k in node.keywords if k.arg})
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "of"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in known
    ]
    assert {"LabelConfig", "TrainConfig", "SelectConfig", "FitSelectorConfig", "EvalConfig"} <= {
        name for _, name, _ in made
    }
    assert [(place, given - known[name]) for place, name, given in made if given - known[name]] == []


def _configs(cls: type[Group]) -> list[type[Group]]:
    import dataltt.stages.baking.config
    import dataltt.stages.selection.config  # noqa: F401

    found = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("dataltt")]
    return [*found, *(below for sub in found for below in _configs(sub))]


def test_a_config_of_plain_names() -> None:
    config = Outer.of(source="a/b", share=0.5, numbers=[4, 5])
    assert config == Outer(source=Path("a/b"), numbers=(4, 5), inner=Inner(size=5, share=0.5))
    assert config.numbers == (4, 5)
    assert isinstance(config.source, Path)


def test_but_changes_plain_names_alone() -> None:
    config = Outer.of(source="a")
    changed = config.but(size=7, colour="green")
    assert changed == Outer.of(source="a", size=7, colour="green")
    assert config.inner.size == 5
    assert config.but() is config
    assert config.but(colour="green").inner is config.inner


def test_what_a_config_says() -> None:
    config = Outer.of(source="a", share=0.5)
    assert config.flat() == {"source": Path("a"), "colour": "red", "numbers": (1, 2), "size": 5, "share": 0.5}
    assert config.to_json() == {
        "source": "a",
        "colour": "red",
        "numbers": [1, 2],
        "inner": {"size": 5, "share": 0.5},
    }
    assert Outer.of(**config.flat()) == config


def test_options_in_the_order_of_their_declaration() -> None:
    declared = options_of(Outer)
    assert [(d.name, d.groups, d.panel) for d in declared] == [
        ("source", (), ""),
        ("colour", (), ""),
        ("numbers", (), ""),
        ("size", ("inner",), "Inside"),
        ("share", ("inner",), "Inside"),
    ]
    assert [d.default for d in declared[1:]] == ["red", (1, 2), 5, None]  # 5: as the config has it, not the group
    assert [d.name for d in declared if d.is_required] == ["source"]


def test_defaults_of_a_group_may_differ_between_configs() -> None:
    assert TrainConfig.of().recipe == Recipe()
    assert FitSelectorConfig.of(model="deit_s", batch_size=7).recipe == Recipe(
        epochs=30,
        lr=2e-5,
        min_lr=2e-6,
        warmup_epochs=0,
        weight_decay=1e-6,
        drop_path=0.0,
        ema_decay=0.0,
        batch_size=7,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Outer needs `source`"),
        ({"source": "a", "colours": "red"}, "Outer has no option 'colours'; did you mean 'colour'?"),
        ({"source": "a", "inner": Inner()}, "Outer has no option 'inner'"),
        ({"source": "a", "size": 0}, "`size=0` should be at least 1"),
        ({"source": "a", "share": 0}, "`share=0` should be above 0 and at most 1"),
        ({"source": "a", "colour": "reed"}, "`colour='reed'` should be one of red, green; did you mean 'red'?"),
        ({"source": 3}, "`source=3` should be a path"),
        ({"source": "a", "numbers": 3}, "`numbers=3` should be a list"),
        ({"source": "a", "numbers": [1, "2"]}, "`numbers='2'` should be a whole number"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as error:
        Outer.of(**options)
    assert str(error.value).startswith(said)


def test_but_refuses_as_well() -> None:
    config = Outer.of(source="a")
    with pytest.raises(OptionError, match="Outer has no option 'sizes'; did you mean 'size'"):
        config.but(sizes=1)
    with pytest.raises(OptionError, match="`share=2` should be above 0 and at most 1"):
        config.but(share=2)


def test_a_group_alone_is_checked() -> None:
    with pytest.raises(OptionError, match="`lr=-1` should be at least 0"):
        Recipe(lr=-1)


def test_declarations_that_cannot_be_meant() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Bare(Group):
        lr: float = 1.0

    with pytest.raises(TypeError, match=r"Bare\.lr should be Annotated"):
        options_of(Bare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice(Group):
    """The same plain name at two places."""

    size: Annotated[int, Option(help="Another size.")] = 1
    inner: Inner = Inner()


def test_a_plain_name_belongs_to_one_option() -> None:
    with pytest.raises(TypeError, match="Twice has options of the same name: size"):
        options_of(Twice)


# Values


@pytest.mark.parametrize(
    ("value", "kind", "checked"),
    [
        (None, int | None, None),
        (3, int | None, 3),
        (3, float, 3),
        (True, bool, True),
        ("x", Path | None, Path("x")),
        ("x", str, "x"),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("a", Literal["a", "b"] | None, "a"),
    ],
)
def test_values_of_the_right_type(value: Any, kind: Any, checked: Any) -> None:
    assert checked_value("x", value, kind, Option(help="")) == checked


@pytest.mark.parametrize(
    ("value", "kind", "should"),
    [
        (None, int, "a whole number"),
        (1.0, int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        ("1", float, "a number"),
        (1, bool, "true or false"),
        (1, str, "text"),
        (["a"], Literal["a", "b"], "one of a, b"),
        (None, Literal["a", "b"], "one of a, b"),
        ({}, tuple[int, ...], "a list"),
    ],
)
def test_values_of_another_type(value: Any, kind: Any, should: str) -> None:
    with pytest.raises(OptionError) as error:
        checked_value("x", value, kind, Option(help=""))
    assert str(error.value).startswith(f"`x={value!r}` should be {should}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(OptionError, match=f"`lr={value:g}` should be a finite number"):
        TrainConfig.of(lr=value)


_BOUNDS = st.none() | st.integers(-5, 5)


@given(value=st.integers(-8, 8), low=_BOUNDS, above=_BOUNDS, high=_BOUNDS, below=_BOUNDS)
def test_bounds(value: int, low: int | None, above: int | None, high: int | None, below: int | None) -> None:
    option = Option(help="", min=low, above=above, max=high, below=below)
    fits = (
        (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
        and (below is None or value < below)
    )
    if fits:
        assert checked_value("x", value, int, option) == value
    else:
        with pytest.raises(OptionError, match=f"`x={value}` should "):
            checked_value("x", value, int, option)


@given(st.lists(st.integers(), min_size=1))
def test_whole_numbers_of_a_text(numbers: list[int]) -> None:
    assert whole_numbers(",".join(map(str, numbers))) == tuple(numbers)
    assert whole_numbers(numbers) == tuple(numbers)


@pytest.mark.parametrize("value", ["", "3,", "3;6", "3,x", "3.5", [], [1.0], [True], 3, {}])
def test_no_whole_numbers(value: Any) -> None:
    option = Option(help="", parser=whole_numbers)
    with pytest.raises(OptionError) as error:
        parsed_value("drop_blocks", value, option)
    assert str(error.value) == f"`drop_blocks={value!r}` should be whole numbers such as 3,6,9"


def test_seeds_are_different_numbers() -> None:
    assert seed_numbers("0,2,1") == (0, 2, 1)
    with pytest.raises(ValueError, match=r"^different whole numbers such as 0,1,2$"):
        seed_numbers("0,1,0")


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1))
def test_shares_of_a_text(numbers: list[float]) -> None:
    assert shares(",".join(map(repr, numbers))) == tuple(numbers)
    assert shares(numbers) == tuple(numbers)
    assert shares(numbers[0]) == (numbers[0],)


@pytest.mark.parametrize("value", ["", "0.5,", "0.5,,0.3", "0.5;0.3", "x", "nan", "0", "1.1", [], [True], {}, None])
def test_no_shares(value: Any) -> None:
    with pytest.raises(ValueError, match="shares in"):
        shares(value)


def test_nearest() -> None:
    assert nearest("batchsize", ["lr", "batch_size"]) == "; did you mean 'batch_size'?"
    assert nearest("colour", ["lr", "batch_size"]) == ""


_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.floats(0, 1),
        "batch_size": st.integers(1, 512),
        "control": st.sampled_from(["ticket", "random", "dense"]),
        "clip_grad": st.none() | st.floats(0.1, 10),
        "compile": st.booleans(),
        "out": st.just(Path("runs/a")),
        "workers": st.none() | st.integers(0, 8),
    },
)


@given(_CHANGES, _CHANGES)
def test_of_then_but_is_of_both(first: dict[str, Any], second: dict[str, Any]) -> None:
    config = TrainConfig.of(**first).but(**second)
    assert config == TrainConfig.of(**{**first, **second})
    assert config.but(**TrainConfig.of(**first).flat()) == TrainConfig.of(**first)
    assert TrainConfig.of(**config.flat()) == config
