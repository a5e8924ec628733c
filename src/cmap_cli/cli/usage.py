"""All mistakes in a command line, reported together; Typer alone stops at the first one."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typer import TyperException
from typer.models import ParameterInfo

from cmap_cli.errors import PROBLEMS_SHOWN, CmapError, UsageError, suggestion

CHECKS = "cmap_cli.cli.problems"
"""The module with functions that find further mistakes in the values of a command, by the command's name."""
EMPTY = "(nothing)"
REQUIRES = "requires an argument"
NO_VALUE = "does not take a value"
NUMBERS: dict[type, tuple[Callable[[str], float], str]] = {int: (int, "whole number"), float: (float, "number")}


def problems_of(command: Any, ctx: Any, args: Sequence[str]) -> list[CmapError]:
    """Every mistake in the arguments of a command, also those that the command itself would find."""
    hint = f"cmap {command.name} --help"
    problems: list[CmapError] = []
    left, dropped = list(args), set[str]()
    while True:
        try:
            values, rest, _ = command.make_parser(ctx).parse_args(args=list(left))
            break
        except TyperException as error:
            name = getattr(error, "option_name", None)
            problems.append(unparsed(command, error, name, hint))
            at = next((at for at, each in enumerate(left) if each.partition("=")[0] == name), None)
            if at is None or len(problems) == PROBLEMS_SHOWN:
                return problems
            dropped.add(left.pop(at).partition("=")[0])
    for parameter in command.get_params(ctx):
        if parameter.is_eager or dropped.intersection(parameter.opts):
            continue
        try:
            _, rest = parameter.handle_parse_result(ctx, values, rest)
        except TyperException as error:
            problems.append(worded(command, parameter, values.get(parameter.name), error, hint))
    if rest and not dropped:  # else it may be the value of an option that there is not
        problems.append(UsageError(f"{' '.join(map(str, rest))} is too much: there is no such argument", hint))
    right = {name: value for name, value in ctx.params.items() if not (dropped and isinstance(value, list | tuple))}
    return problems + own_problems(command, right)


def own_problems(command: Any, right: Mapping[str, Any]) -> list[CmapError]:
    """The mistakes that the command would find in the values that Typer accepts, with defaults for the others."""
    checks = importlib.import_module(CHECKS)
    check: Callable[[dict[str, Any]], list[CmapError]] | None = getattr(
        checks, f"{command.name.replace('-', '_')}_problems", None
    )
    if check is None:
        return []
    parameters = inspect.signature(command.callback).parameters
    defaults = {
        name: None if each.default is inspect.Parameter.empty else each.default for name, each in parameters.items()
    }
    given = {name: value for name, value in right.items() if value not in ((), [])}
    return [each for problem in check(defaults | given) for each in problem.problems or [problem]]


def unparsed(command: Any, error: TyperException, name: str | None, hint: str) -> CmapError:
    """The error for the argument at which a parser stopped."""
    text = plain(error)
    if name is None:
        return UsageError(text, hint)
    if REQUIRES in text:
        return UsageError(f"{name} needs a value", hint)
    if NO_VALUE in text:
        return UsageError(f"{name} takes no value", f"{name} alone")
    known = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    near = suggestion(name, known)
    return UsageError(f"there is no option {name}", near if near.startswith("did you") else hint)


def worded(command: Any, parameter: Any, value: Any, error: TyperException, hint: str) -> CmapError:
    """The error for a value that Typer refused, worded with what the option accepts."""
    is_argument = parameter.param_type_name == "argument"
    name = str(parameter.metavar).rstrip(".") if is_argument else max(parameter.opts, key=len)
    if value is None or value == ():
        return UsageError(f"{name} is missing", hint)
    kind, info = declared(command.callback, parameter.name)
    for given in value if isinstance(value, list | tuple) else [value]:
        if message := refused(name, str(given), kind, info):
            near = suggestion(str(given), map(str, get_args(kind))) if get_origin(kind) is Literal else hint
            return UsageError(message, near)
    return UsageError(f"{name} {value} cannot be used: {plain(error)}", hint)


def refused(name: str, given: str, kind: Any, info: ParameterInfo | None) -> str:
    """Why an option does not accept a value; empty if it does."""
    if get_origin(kind) is Literal:
        choices = list(map(str, get_args(kind)))
        return "" if given in choices else f"{name} {given or EMPTY} is none of {', '.join(choices)}"
    if kind in NUMBERS:
        parse, noun = NUMBERS[kind]
        try:
            number = parse(given)
        except ValueError:
            return f"{name} {given or EMPTY} is no {noun}"
        if info is not None and info.min is not None and not number >= info.min:
            return f"{name} {given} is below {info.min:g}"
        if info is not None and info.max is not None and not number <= info.max:
            return f"{name} {given} is above {info.max:g}"
    if kind is Path and info is not None and info.exists:
        what = "file" if info.dir_okay is False else "folder" if info.file_okay is False else "file or folder"
        return f"{name} {given} is no {what} that exists"
    return ""


def declared(callback: Any, name: str) -> tuple[Any, ParameterInfo | None]:
    """The type of one value of an option, without None and list, and its declaration for Typer."""
    kind = get_type_hints(callback, include_extras=True).get(name)
    info = None
    if get_origin(kind) is Annotated:
        kind, *extras = get_args(kind)
        info = next((each for each in extras if isinstance(each, ParameterInfo)), None)
    while get_origin(kind) is not Literal and (inner := [each for each in get_args(kind) if each is not type(None)]):
        kind = inner[0]
    return kind, info


def unknown_command(text: str, commands: Sequence[str]) -> CmapError | None:
    """The error for an unknown command; None if the text is about something else."""
    match = re.match(r"No such command '(.*?)'", text, re.DOTALL)
    return UsageError(f"there is no command {match[1]!r}", suggestion(match[1], commands)) if match else None


def plain(error: TyperException) -> str:
    """The message of an error without its full stop."""
    return error.format_message().strip().rstrip(".")
