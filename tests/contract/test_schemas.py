"""The published JSON Schemas are those of the types."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_schemas_are_up_to_date() -> None:
    assert runpy.run_path(str(ROOT / "docs/schemas.py"))["stale"]() == [], "python docs/schemas.py"
