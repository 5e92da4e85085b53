"""Configs as typer commands: an option per field, panels per group, configuration files, --print-config and --json.

Where a value comes from, the later over the earlier: defaults, ./dataltt.toml, the record of a run that goes on,
`--config FILE`, the environment, the command line.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand

from ..artifacts_schema.errors import OptionError
from ..stages.options import Declared, Group, jsonable, options_of, parsed_value
from .messages import as_flags
from .settings import Setting, file_settings, project_settings, record_settings

C = TypeVar("C", bound=Group)

_COMMON_PANEL = "Options"
_OUTPUT_PANEL = "Configuration and output"
# Of one call, so a run that goes on does not take them from its record.
_NOT_TAKEN_OVER = frozenset({"max_steps"})


def takes(config: type[C]) -> Callable[[Callable[[C, bool], None]], Callable[..., None]]:
    """Makes `run(config, as_json)` a typer command that takes the config's options."""
    declared = options_of(config)

    def decorate(run: Callable[[C, bool], None]) -> Callable[..., None]:
        def command(ctx: typer.Context, **given: Any) -> None:
            as_json, print_config = given.pop("json"), given.pop("print_config")
            del given["config"]
            asked = config.of(**given)
            if print_config:
                typer.echo(_as_toml(ctx, asked, declared), nl=False)
                return
            run(asked, as_json)

        parameters = [_parameter(d) for d in sorted(declared, key=_place)]
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        command.__signature__ = inspect.Signature([context, *parameters, *_COMMON_PARAMETERS])  # type: ignore[attr-defined]
        command.__doc__ = run.__doc__
        command.__name__ = run.__name__
        command.runs = run  # type: ignore[attr-defined]
        command.takes_config = config  # type: ignore[attr-defined]
        return command

    return decorate


def _place(declared: Declared) -> tuple[bool, bool]:
    """Sort key that puts first what is usually given."""
    return not declared.option.is_argument, not declared.option.is_common


def _parameter(declared: Declared) -> inspect.Parameter:
    o, kind = declared.option, declared.kind
    default: Any = inspect.Parameter.empty if declared.is_required else declared.default
    if o.parser is not None:
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        kind = str if default is not None else str | None
    elif is_repeatable(declared):
        kind = list[str]
        default = default if declared.is_required else list(default)
    note: Any
    if o.is_argument:
        note = typer.Argument(help=as_flags(o.help))
    else:
        flag = f"--{declared.name.replace('_', '-')}"
        is_flag = kind is bool
        note = typer.Option(
            f"{flag}/--no-{flag[2:]}" if is_flag else flag,
            help=as_flags(o.help),
            rich_help_panel=_COMMON_PANEL if o.is_common else declared.panel or _COMMON_PANEL,
            metavar=o.metavar or _metavar(declared),
            envvar=o.variable,
            show_envvar=False,
            show_default=_is_worth_showing(declared),
        )
    return inspect.Parameter(
        declared.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, note], default=default
    )


def is_repeatable(declared: Declared) -> bool:
    """Tells whether an option may be given several times, each time with one more value."""
    return get_origin(declared.kind) is tuple and declared.option.parser is None


def _metavar(declared: Declared) -> str | None:
    """Bounds as typer shows them. They are checked by the config, alike on the command line, in files and in Python."""
    o = declared.option
    low = f"x>={o.min:g}" if o.min is not None else f"x>{o.above:g}" if o.above is not None else ""
    high = f"x<={o.max:g}" if o.max is not None else f"x<{o.below:g}" if o.below is not None else ""
    if not low and not high:
        return None
    kind = "int" if int in (declared.kind, *get_args(declared.kind)) else "float"
    return f"<{kind}> [{', '.join(part for part in (low, high) if part)}]"


def _is_worth_showing(declared: Declared) -> bool:
    return declared.default not in (None, MISSING, ()) and declared.default is not False


def _common(name: str, kind: Any, default: Any, flag: str, help: str) -> inspect.Parameter:
    note = typer.Option(flag, help=help, rich_help_panel=_OUTPUT_PANEL, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, note], default=default)


_COMMON_PARAMETERS = (
    _common("config", Path | None, None, "--config", "Options from a TOML file, or from a run's config.json."),
    _common("print_config", bool, False, "--print-config", "Print all options and where they come from, and stop."),
    _common("json", bool, False, "--json", "Print the result as JSON on standard output."),
)


class ConfiguredCommand(TyperCommand):
    """A command whose defaults come from configuration files."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Leaves out --no-X of flags that are off anyway, which a file's `true` alone calls for."""
        negations = {p: p.secondary_opts for p in self.params if p.secondary_opts and p.default is False}
        for parameter in negations:
            parameter.secondary_opts = []
        try:
            super().format_help(ctx, formatter)
        finally:
            for parameter, flags in negations.items():
                parameter.secondary_opts = flags

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the files that the arguments name, then parses the arguments over them."""
        config: type[Group] = self.callback.takes_config  # type: ignore[union-attr]
        settings: dict[str, Setting] = {}
        if not ctx.resilient_parsing and not {"--help", "-h"} & set(args):
            _refuse_repeated(self, ctx, args)
            settings = _settings_of(self, ctx, config, args)
            ctx.meta["settings"] = settings
            repeatable = {d.name for d in options_of(config) if is_repeatable(d)}
            ctx.default_map = {
                k: list(s.value) if k in repeatable else _as_default(s.value)
                for k, s in settings.items()
                if s.value is not None
            }
        rest: list[str] = super().parse_args(ctx, args)
        for name, setting in settings.items():
            if setting.value is None and _source_name(ctx, name) == "DEFAULT":
                ctx.params[name] = None
        for d in options_of(config):
            if d.name in ctx.params:
                ctx.params[d.name] = parsed_value(d.name, ctx.params[d.name], d.option)
        return rest


def _refuse_repeated(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuses an option that is given twice, where only the last would count.

    Raises:
        OptionError: such an option.
    """
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    for parameter, count in Counter(order).items():
        if count > 1 and not parameter.multiple and parameter.param_type_name == "option":
            spelled = "/".join((parameter.opts[0], *parameter.secondary_opts))
            raise OptionError(f"{spelled} is given {count} times, and one value counts; give it once")


def _settings_of(command: Any, ctx: Any, config: type[Group], args: list[str]) -> dict[str, Setting]:
    typed, _, _ = command.make_parser(ctx).parse_args(args=list(args))
    name, commands = _name_of(ctx), list(_commands_of(ctx.find_root().command))
    settings = project_settings(name, config, commands)
    explicit = file_settings(Path(typed["config"]), name, config, commands) if typed.get("config") else {}
    settings |= explicit
    known = {d.name: d.default for d in options_of(config)} | {k: s.value for k, s in settings.items()} | typed
    if known.get("resume") or known.get("auto_resume"):
        out = known["out"] or config.default_out(known | _numbers(config, typed))  # type: ignore[attr-defined]
        settings |= _recorded(Path(out), name, config) | explicit
    return settings


def _name_of(ctx: Any) -> str:
    """The words by which a command is called: of one in a group, the group's first."""
    words: list[str] = []
    while ctx is not None and ctx.parent is not None:
        words.insert(0, ctx.command.name)
        ctx = ctx.parent
    return " ".join(words) or str(ctx.command.name)


def _commands_of(command: Any) -> Iterator[str]:
    """Names of all commands of the command line."""
    for name, each in getattr(command, "commands", {}).items():
        yield from (f"{name} {inner}" for inner in each.commands) if hasattr(each, "commands") else (name,)


def _numbers(config: type[Group], typed: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among texts of the command line; what is none is left to its option's check."""
    found: dict[str, float] = {}
    for d in options_of(config):
        if d.name in typed and float in (d.kind, *get_args(d.kind)):
            with contextlib.suppress(ValueError):
                found[d.name] = float(typed[d.name])
    return found


def _recorded(out: Path, command: str, config: type[Group]) -> dict[str, Setting]:
    """The options of the run that goes on, if there is one."""
    path = out / "config.json"
    found = record_settings(path, command, config) if path.exists() else {}
    return {name: setting for name, setting in found.items() if name not in _NOT_TAKEN_OVER}


def _as_default(value: Any) -> Any:
    """A checked value as typer takes it for a default."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else jsonable(value)


def _as_toml(ctx: Any, config: Group, declared: tuple[Declared, ...]) -> str:
    """Writes all options as TOML, each with where it comes from; what has no value is a comment."""
    values, settings = config.flat(), ctx.meta.get("settings", {})
    lines: list[str] = []
    table: tuple[str, ...] = ()
    tables = [(), *dict.fromkeys(d.groups for d in declared)]  # TOML has tables last, and each of them once
    for d in sorted(declared, key=lambda d: tables.index(d.groups)):
        if d.groups != table:
            table = d.groups
            lines += ["", f"[{'.'.join(table)}]"] if table else [""]
        source = _source(ctx, d, settings)
        note = f"  # {source}" if source else ""
        value = values[d.name]
        lines.append(f"# {d.name} =" if value is None else f"{d.name} = {_toml_value(value)}{note}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _source(ctx: Any, declared: Declared, settings: Mapping[str, Setting]) -> str:
    name = _source_name(ctx, declared.name)
    if name == "DEFAULT_MAP":
        return settings[declared.name].source
    return {"COMMANDLINE": "command line", "ENVIRONMENT": f"${declared.option.variable}"}.get(name, "")


def _source_name(ctx: Any, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return "" if source is None else str(source.name)


def _toml_value(value: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False)
