"""The settings of a run and the names of the files in its folder: a run continues only with equal settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from cmap_cli.errors import CmapError, SettingsMismatchError, UsageError
from cmap_cli.files import release_lock, take_lock, write_text
from cmap_cli.runs.documents import read_document

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RUN_FILE = "run.json"
"""Settings of ``cmap purify``."""
SETTINGS_FILE = "benchmark.json"
"""Settings and provenance of ``cmap benchmark`` and ``cmap attack``."""
CERTIFY_FILE = "certify.json"
"""Settings and provenance of ``cmap certify``."""
MANIFEST = "manifest"
MANIFEST_FILE = f"{MANIFEST}.jsonl"
RECORDS = "records"
COMPARISON_FILE = "comparison.png"
PATIENCE = 60.0
"""Seconds to wait for another process that is writing the settings."""

Record = dict[str, Any]


class SettingsDocument(msgspec.Struct, frozen=True):
    """The common part of run.json, benchmark.json and certify.json."""

    settings: dict[str, Any]


LARGEST = 1_000_000_000
"""Largest integer in settings: counts, sizes, steps."""


def compared_fields(
    settings: DataclassInstance, uncompared: Collection[str], resolved: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The fields of a settings dataclass that a run's file holds, and that a run which resumes must share.

    Args:
        settings: of the user.
        uncompared: names of the fields that do not change results.
        resolved: for some fields, what the file holds instead of the field, by the field's name: the model's SHA-256
            for its name, the budget of attacks for their steps. A field without an entry is held as it is.
    """
    document: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if field.name not in uncompared:
            document |= resolved.get(field.name, {field.name: getattr(settings, field.name)})
    return document


def claim_settings(path: Path, document: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Write the settings of a run, or make sure that those which are there are equal.

    Processes that start together cannot both be the first.

    Args:
        path: run.json, benchmark.json or certify.json.
        document: what is written, with ``settings``.
        overwrite: whether to replace settings that are there.

    Returns:
        Whether settings were there.

    Raises:
        SettingsMismatchError: other settings are there.
    """
    lock = take_lock(path, PATIENCE)
    if lock is None:
        raise CmapError(f"{path} is locked by another process for more than {PATIENCE:.0f} s")
    try:
        if path.exists() and not overwrite:
            refuse_other_settings(path, document["settings"])
            return True
        write_text(path, json.dumps(document, indent=2) + "\n")
        return False
    finally:
        release_lock(lock)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's file (SettingsMismatchError if there are none)."""
    document = read_document(path, SettingsDocument, SettingsMismatchError, "--overwrite starts again")
    return document.settings


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Name every setting that differs from those in a run's file (SettingsMismatchError)."""
    before, now = read_settings(path), json.loads(json.dumps(settings))
    if changed := differing(before, now):
        listed = ", ".join(f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in changed)
        raise SettingsMismatchError(
            f"{path.parent} holds the results of a run with other settings: {listed}",
            "use the same settings, another --out, or --overwrite to start again",
        )


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the settings that two runs do not share."""
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def unusable_values(settings: object) -> list[CmapError]:
    """One error for each field of a settings dataclass that no run can use.

    That is a value which the field's Literal type does not contain, and an integer above :data:`LARGEST`, except seeds.
    """
    found: list[CmapError] = []
    for name, hint in get_type_hints(type(settings)).items():
        number = getattr(settings, name)
        if isinstance(number, int) and number > LARGEST and name != "seed":
            found.append(UsageError(f"--{name.replace('_', '-')} {number} is above {LARGEST}", "give a smaller number"))
        for kind in (hint, *get_args(hint)):
            value = getattr(settings, name)
            if get_origin(kind) is Literal and value not in get_args(kind) and not (value is None and kind is not hint):
                found.append(UsageError(f"{name} is {value!r}", f"choose one of {', '.join(get_args(kind))}"))
    return found
