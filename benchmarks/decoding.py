"""Measures decoding of benchmark records with msgspec and with pydantic, and how long importing each takes.

    python benchmarks/decoding.py --records 1000000

The record is a line of records.jsonl as `cmap benchmark` writes it, with five draws.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import msgspec
import pydantic

from cmap_cli.benchmarking.documents import BenchmarkRecord

LINE = (
    b'{"image":7,"key":"cifar10/test/2308","label":3,"label_is_prediction":false,"defense":"cmap","attack":"pgd",'
    b'"method":"PGD","access":"white-box","norm":"Linf","eps":"8/255","eps_value":0.03137254901960784,"control":false,'
    b'"distance":0.03137254901960784,"unchanged":false,"undefended":3,"draws":[3,3,5,3,3],"reported_success":true,'
    b'"gradient":{"zero":0.01,"not_finite":0,"cosine":0.6},"flags":[],"seconds":1.25,"forward":800,"backward":80,'
    b'"file":"adversarial/cmap/pgd/0.safetensors","row":7,"item":"cmap/pgd@white-box"}'
)


class PydanticGradient(pydantic.BaseModel, frozen=True):
    zero: float | None
    not_finite: int
    cosine: float | None


PydanticRecord = pydantic.create_model(  # the same fields
    "PydanticRecord",
    __config__=pydantic.ConfigDict(frozen=True),
    **{
        field.name: (PydanticGradient | None if field.name == "gradient" else field.type, ...)
        for field in msgspec.structs.fields(BenchmarkRecord)
    },
)


def seconds_for(decode: object, records: int) -> float:
    """CPU seconds to decode one line that many times."""
    began = time.process_time()
    for _ in range(records):
        decode(LINE)  # type: ignore[operator]
    return time.process_time() - began


def import_seconds(statement: str) -> float:
    """Least wall time of five fresh processes that run an import, less that of empty ones."""

    def least(code: str) -> float:
        times = []
        for _ in range(15):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.monotonic() - began)
        return min(times)

    return least(statement) - least("pass")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
    print(f"msgspec {msgspec.__version__}, pydantic {pydantic.VERSION}; {records:,} records of {len(LINE)} bytes")
    ours = seconds_for(msgspec.json.Decoder(BenchmarkRecord).decode, records)
    theirs = seconds_for(PydanticRecord.model_validate_json, records)
    print(f"decoding: msgspec {ours:.2f} s, pydantic {theirs:.2f} s, ratio {theirs / ours:.1f}")
    ours, theirs = import_seconds("import msgspec.json"), import_seconds("from pydantic import BaseModel")
    print(f"import: msgspec {ours * 1000:.0f} ms, pydantic {theirs * 1000:.0f} ms")


if __name__ == "__main__":
    main()
