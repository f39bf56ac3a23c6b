"""Errors of the store, and of the audit in it."""

from cmesh.errors.base import CmeshError

__all__ = [
    "AuditBroken",
    "AuditUnproven",
    "DiskFull",
    "QueryRefused",
    "SchemaTooNew",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
]


class StoreError(CmeshError):
    """Raised when the store cannot do what was asked."""

    code = "store_failed"
    exit_status = 70


class StoreBusy(StoreError):
    """Raised when another process holds this state directory."""

    code = "store_busy"
    exit_status = 71
    default_hint = "one daemon per state directory; `cmesh status` shows the one that runs"


class SchemaTooNew(StoreError):
    """Raised when the store was written by a newer cmesh."""

    code = "schema_too_new"
    exit_status = 72
    default_hint = "upgrade cmesh"


class StoreDamaged(StoreError):
    """Raised when the store lacks rows that were once acknowledged, or cannot be read."""

    code = "store_damaged"
    exit_status = 73
    default_hint = "keep the files; restore a backup, or move the state directory away"


class DiskFull(StoreError):
    """Raised when there is too little room to accept new work; nothing was changed."""

    code = "disk_full"
    exit_status = 74
    default_hint = "free space on the disk of the state directory, then retry"


class AuditBroken(StoreError):
    """Raised when a row, a receipt or an output of the audit is not as it was written."""

    code = "audit_broken"
    exit_status = 76
    default_hint = "keep the files as they are; compare with what peers hold of this log"


class AuditUnproven(StoreError):
    """Raised when the other side could not be compared with, or can prove nothing yet."""

    code = "audit_unproven"
    exit_status = 77
    default_hint = "nothing was found, and nothing was proved: compare again when the peer is there"


class QueryRefused(StoreError):
    """Raised when a user's SQL fails, or breaks a limit of the confined query process."""

    code = "query_failed"
    exit_status = 75
    default_hint = "run `cmesh schema` for the tables and views"
