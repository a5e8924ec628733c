"""MkDocs hook: writes the reference page of all commands from the Typer application, at every build."""

from __future__ import annotations

import inspect
import re
import types
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.models import ArgumentInfo, OptionInfo

from cmap_cli.cli.app import app

PAGE = "reference/commands.md"
INTRODUCTION = """# Commands

Every command writes its result to standard output and everything else (progress, warnings, errors) to standard error.
This page is made from the program; `cmap COMMAND --help` prints the same. The meaning of exit codes is on
[a page of its own](exit-codes.md), as are [the JSON documents](json.md) that `--json` prints.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, PAGE, content=commands_page()))
    return files


def commands_page() -> str:
    """The page in Markdown."""
    sections = [INTRODUCTION]
    for command in app.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__.replace("_", "-")
        sections.append(f"## cmap {name}\n\n{described(inspect.getdoc(command.callback) or '')}")
        sections.append(parameter_tables(command.callback))
    return "\n\n".join(sections) + "\n"


def described(docstring: str) -> str:
    """The docstring of a command, its examples as one block of code."""
    parts: list[str] = []
    examples: list[str] = []
    for paragraph in docstring.split("\n\n"):
        text = paragraph.strip().replace("\b\n", "").replace("\b", "").strip()
        if text.startswith("cmap ") or text.startswith(("find ", "torchrun ")):
            examples += [line.strip() for line in text.splitlines()]
            continue
        if examples:
            parts.append("```\n" + "\n".join(examples) + "\n```")
            examples = []
        parts.append(" ".join(text.split()))
    if examples:
        parts.append("```\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(part for part in parts if part)


def parameter_tables(callback: Any) -> str:
    """One table of options for each panel of the command's help."""
    hints = get_type_hints(callback, include_extras=True)
    panels: dict[str, list[str]] = {}
    for name, parameter in inspect.signature(callback).parameters.items():
        hint = hints[name]
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint, parameter.default)
        info = next((each for each in extras if isinstance(each, ArgumentInfo | OptionInfo)), None)
        if info is None or info.hidden:
            continue
        default = parameter.default if parameter.default is not inspect.Parameter.empty else ...
        panel = "Arguments" if isinstance(info, ArgumentInfo) else info.rich_help_panel or "Options"
        panels.setdefault(str(panel), []).append(row(name, kind, info, default))
    return "\n\n".join(
        f"**{panel}**\n\n| | values | default | |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
        for panel, rows in panels.items()
    )


def row(name: str, kind: Any, info: ArgumentInfo | OptionInfo, default: Any) -> str:
    """One line of a table."""
    declared = [info.default, *(info.param_decls or ())]  # inside Annotated the first spelling is "the default"
    spellings = [f"`{each}`" for each in declared if isinstance(each, str) and each.startswith("-")]
    if isinstance(info, ArgumentInfo):
        spellings = [f"`{info.metavar or name.upper()}`"]
    spellings = spellings or [f"`--{name.replace('_', '-')}`"]
    if isinstance(info.show_default, str):
        value = info.show_default
    elif default is ...:
        value = "required"
    elif isinstance(default, Enum):
        value = f"`{default.value}`"
    else:
        value = "" if default is None or default is False or not info.show_default else f"`{default}`"
    text = " ".join((info.help or "").split())
    if info.envvar:
        text += f" Environment: `{info.envvar}`."
    cells = [", ".join(spellings), values(kind, info), value, text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values(kind: Any, info: ArgumentInfo | OptionInfo) -> str:
    """What an option takes, in words."""
    inner = [each for each in get_args(kind) if each is not types.NoneType]
    if get_origin(kind) in {Union, types.UnionType} and len(inner) == 1:
        return values(inner[0], info)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if get_origin(kind) is list:
        return f"{values(inner[0], info)}, several times"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{each.value}`" for each in kind)
    if kind is bool:
        return "flag"
    names = {int: "whole number", float: "number", str: "text", Path: "path"}
    limits = [f"at least {info.min}"] * (info.min is not None) + [f"at most {info.max}"] * (info.max is not None)
    return " ".join([names.get(kind, "text"), *limits])


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a page that would load something from another host: the site is read offline."""
    loads = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(https?://[^\"' >]+)|url\((https?://[^)]+)"
    )
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in {".html", ".css"} and (found := loads.search(path.read_text(encoding="utf-8"))):
            raise PluginError(f"{path.name} loads {found[1] or found[2]}")
