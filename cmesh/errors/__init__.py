"""Every error cmesh raises on purpose, with its stable code, exit status and hint.

    CmeshError 1
    ├── UsageError 2             ├── TaskError 40            ├── LinkError 60
    ├── ConfigError 10           │   ├── TaskNotFound 41     │   ├── LocalProtocolError 61
    │   ├── UnsafePermissions 11,│   ├── TaskConflict 42     │   ├── RemoteProtocolError 62
    │   └── SettingsChanged 14,  │   ├── TaskRefused 43      │   ├── VersionMismatch 63
    │       EntryTaken 15        │   │                       │   │
    ├── NodeError 20             │   │                       │   │
    │   ├── LoginRequired 21     │   │   └── SecretFound 56, │   └── NotCmesh 64
    │   │                        │   │       PatchRefused 57, PatchConflict 58, PatchApplied 59
    │   ├── PeerUnreachable 22   │   └── QueueFull 44        ├── StoreError 70
    │   ├── IdentityUnknown 23   ├── RunnerError 50          │   ├── StoreBusy 71
    │   ├── UnknownPeer 24       │   ├── RunnerUnavailable 51│   ├── SchemaTooNew 72
    │   │                        │   │   └── LoginExpired 51 │   │
    │   ├── NodeClosed 25        │   ├── SandboxUnavailable 52   ├── StoreDamaged 73
    │   ├── KeyExpired 26        │   ├── RootRefused 53      │   ├── DiskFull 74
    │   ├── WrongMachine 27      │   └── PathRefused 52      │   ├── QueryRefused 75
    │   ├── ControlUnreachable 28├── PolicyDenied 30         │   └── AuditBroken 76
    │   └── NoPeerMatches 29     │   ├── PeerUntrusted 31, PairingRefused 32
    │                            │   └── PairingEnded 33, PairingBusy 34
    ├── DaemonError 80: DaemonNotRunning 81, DaemonRestarted 82, DaemonTimeout 83
    ├── DoctorWarning 90, DoctorProblem 91
    └── DemoFailed 1             (below ConfigError also SetupBusy 12, PlanGone 13)

The code is on the wire, in MCP results, in `--json` and in audit rows; its
meaning never changes. Nothing here does I/O.
"""

from cmesh.errors.base import (
    CmeshError,
    UsageError,
)
from cmesh.errors.config import (
    ConfigError,
    EntryTaken,
    PlanGone,
    SettingsChanged,
    SetupBusy,
    UnsafePermissions,
)
from cmesh.errors.daemon import (
    DaemonError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonRestarting,
    DaemonTimeout,
    ReplaceFailed,
    ServiceFailed,
)
from cmesh.errors.link import (
    LinkError,
    LocalProtocolError,
    NotCmesh,
    PeerOutdated,
    RemoteProtocolError,
    VersionMismatch,
)
from cmesh.errors.node import (
    ControlUnreachable,
    IdentityUnknown,
    KeyExpired,
    LoginRequired,
    NodeClosed,
    NodeError,
    NoPeerMatches,
    PeerUnreachable,
    UnknownPeer,
    WrongMachine,
)
from cmesh.errors.policy import (
    PairingBusy,
    PairingEnded,
    PairingRefused,
    PeerUntrusted,
    PolicyDenied,
)
from cmesh.errors.runner import (
    AnswerInvalid,
    LoginExpired,
    PathRefused,
    RootRefused,
    RunnerCannot,
    RunnerError,
    RunnerUnavailable,
    SandboxUnavailable,
    SessionGone,
)
from cmesh.errors.store import (
    AuditBroken,
    AuditUnproven,
    DiskFull,
    QueryRefused,
    SchemaTooNew,
    StoreBusy,
    StoreDamaged,
    StoreError,
)
from cmesh.errors.surface import (
    DemoFailed,
    DoctorProblem,
    DoctorWarning,
)
from cmesh.errors.task import (
    AcceptanceFailed,
    BranchExists,
    ChangesRefused,
    DirtyTree,
    PatchApplied,
    PatchConflict,
    PatchRefused,
    QueueFull,
    SecretFound,
    TaskConflict,
    TaskError,
    TaskNotFound,
    TaskRefused,
    TaskUnfinished,
    WrongBase,
)

__all__ = [
    "AcceptanceFailed",
    "AnswerInvalid",
    "AuditBroken",
    "AuditUnproven",
    "BranchExists",
    "ChangesRefused",
    "CmeshError",
    "ConfigError",
    "ControlUnreachable",
    "DaemonError",
    "DaemonNotRunning",
    "DaemonRestarted",
    "DaemonRestarting",
    "DaemonTimeout",
    "DemoFailed",
    "DirtyTree",
    "DiskFull",
    "DoctorProblem",
    "DoctorWarning",
    "EntryTaken",
    "IdentityUnknown",
    "KeyExpired",
    "LinkError",
    "LocalProtocolError",
    "LoginExpired",
    "LoginRequired",
    "NoPeerMatches",
    "NodeClosed",
    "NodeError",
    "NotCmesh",
    "PairingBusy",
    "PairingEnded",
    "PairingRefused",
    "PatchApplied",
    "PatchConflict",
    "PatchRefused",
    "PathRefused",
    "PeerOutdated",
    "PeerUnreachable",
    "PeerUntrusted",
    "PlanGone",
    "PolicyDenied",
    "QueryRefused",
    "QueueFull",
    "RemoteProtocolError",
    "ReplaceFailed",
    "RootRefused",
    "RunnerCannot",
    "RunnerError",
    "RunnerUnavailable",
    "SandboxUnavailable",
    "SchemaTooNew",
    "SecretFound",
    "ServiceFailed",
    "SessionGone",
    "SettingsChanged",
    "SetupBusy",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "TaskConflict",
    "TaskError",
    "TaskNotFound",
    "TaskRefused",
    "TaskUnfinished",
    "UnknownPeer",
    "UnsafePermissions",
    "UsageError",
    "VersionMismatch",
    "WrongBase",
    "WrongMachine",
    "by_code",
]


def by_code(code: str) -> type[CmeshError]:
    """Return the class that owns `code`, or `CmeshError` for an unknown one."""
    return _BY_CODE.get(code, CmeshError)


def _walk(cls: type[CmeshError]) -> list[type[CmeshError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _walk(sub))]


_BY_CODE = {cls.code: cls for cls in _walk(CmeshError)}
