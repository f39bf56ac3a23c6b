"""Which files records name: digests of outputs, patches, artifacts and changes. Pure."""

import re
from collections.abc import Sequence

from cmesh.store.records import Record, ResultRecord, StepRecord, TaskRecord

__all__ = ["digests"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def digests(records: Sequence[Record]) -> set[str]:
    """Return every digest in the parts of records that may name a file, and perhaps others."""
    return {sha for record in records for sha in _SHA256.findall(_parts(record))}


def _parts(record: Record) -> str:
    match record:
        case TaskRecord(spec=spec):
            return f"{spec.changes} {spec.artifacts}"
        case StepRecord(data=data):
            return str(data)
        case ResultRecord(result=r):
            return f"{r.output_sha256} {r.patch} {r.artifacts} {r.evidence} {r.extra}"
        case _:
            return ""
