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

from typing import ClassVar

__all__ = [
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


class CmeshError(Exception):
    """Raised for any failure cmesh explains to its user.

    Attributes:
        code: stable snake_case name; on the wire, in `--json`, in audit rows.
        exit_status: what the CLI exits with.
        hint: the default next step, one literal command or sentence.
        retry_after_s: seconds after which the same may be asked again; None = not known,
            or time alone does not help.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = "run `cmesh status`; the daemon's log has the details"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.retry_after_s = retry_after_s


class UsageError(CmeshError):
    """Raised when a call's arguments are not of the command's form."""

    code = "bad_arguments"
    exit_status = 2
    default_hint = "see `cmesh --help`"


class ConfigError(CmeshError):
    """Raised when the configuration cannot be used; names file, line and key."""

    code = "bad_config"
    exit_status = 10
    default_hint = "edit the file, then `cmesh policy show`"


class UnsafePermissions(ConfigError):
    """Raised when a file that grants authority is writable or owned by others."""

    code = "unsafe_permissions"
    exit_status = 11
    default_hint = "make the file yours and writable by you alone (chmod go-w)"


class SetupBusy(ConfigError):
    """Raised when another wizard has a change that waits for its person."""

    code = "setup_busy"
    exit_status = 12
    default_hint = "run `cmesh confirm` in a terminal of your own: answer it there, yes or no"


class PlanGone(ConfigError):
    """Raised when the change of a confirmation waits no more, or is not the one that was shown."""

    code = "plan_gone"
    exit_status = 13
    default_hint = "make the step again: `setup_step`, or `cmesh setup`"


class SettingsChanged(ConfigError):
    """Raised when another program wrote a settings file while cmesh was about to change it."""

    code = "settings_changed"
    exit_status = 14
    default_hint = "repeat it; if that does not help, close the agent first"


class EntryTaken(ConfigError):
    """Raised when another MCP server has cmesh's name in an agent's settings; it stays."""

    code = "entry_taken"
    exit_status = 15
    default_hint = "rename or remove that entry, then repeat"


class NodeError(CmeshError):
    """Raised when the embedded tailnet node fails."""

    code = "node_failed"
    exit_status = 20


class LoginRequired(NodeError):
    """Raised when the node has no login on the tailnet yet."""

    code = "login_required"
    exit_status = 21
    default_hint = "run `cmesh login`"


class PeerUnreachable(NodeError):
    """Raised when a peer is known but does not answer in time."""

    code = "peer_unreachable"
    exit_status = 22
    first_step = "check that the machine is on and `cmesh status` there says up"
    default_hint = (
        f"{first_step}; then retry, or let the task wait for it with `--if-offline queue`"
    )


class IdentityUnknown(NodeError):
    """Raised when whois cannot say who a connection belongs to."""

    code = "identity_unknown"
    exit_status = 23


class UnknownPeer(NodeError):
    """Raised when no peer has the given name; carries the nearest names."""

    code = "unknown_peer"
    exit_status = 24
    default_hint = "run `cmesh peers`"


class NoPeerMatches(NodeError):
    """Raised when no peer is as the call asks for; says of each what is not."""

    code = "no_peer_matches"
    exit_status = 29
    default_hint = "ask for less, or name a peer; `cmesh peers` shows what each is like"


class NodeClosed(NodeError):
    """Raised when a call needs a node that was closed or never started."""

    code = "node_closed"
    exit_status = 25


class KeyExpired(NodeError):
    """Raised when this node's or the peer's node key has expired."""

    code = "key_expired"
    exit_status = 26
    default_hint = "run `cmesh login` on the machine whose key expired"


class WrongMachine(NodeError):
    """Raised when a peer's name now belongs to another node than the pinned one."""

    code = "wrong_machine"
    exit_status = 27
    default_hint = "compare `cmesh peers`; if the change is yours, `cmesh peers trust NAME`"


class ControlUnreachable(NodeError):
    """Raised when the tailnet's control server does not answer, or not as one."""

    code = "control_unreachable"
    exit_status = 28
    default_hint = "check `control_url` in config.toml and the network; the node keeps trying"


class PolicyDenied(CmeshError):
    """Raised when a rule, or the absence of one, denies an operation."""

    code = "policy_denied"
    exit_status = 30
    default_hint = "run `cmesh policy explain`"


class PeerUntrusted(PolicyDenied):
    """Raised when a peer's cmesh key is not trusted by the other side's owner yet."""

    code = "peer_untrusted"
    exit_status = 31
    default_hint = "run `cmesh pair` on both machines; or `cmesh peers trust NAME` on the other one"


class PairingRefused(PolicyDenied):
    """Raised when a machine is refused for a while, because too many codes were wrong."""

    code = "pairing_refused"
    exit_status = 32
    default_hint = "wait, then run `cmesh pair PEER` on both machines"


class PairingEnded(PolicyDenied):
    """Raised when a pairing is over without a confirmation; nothing was trusted or allowed."""

    code = "pairing_ended"
    exit_status = 33
    default_hint = "run `cmesh pair PEER` on both machines again"


class PairingBusy(PolicyDenied):
    """Raised when another pairing of this machine is under way."""

    code = "pairing_busy"
    exit_status = 34
    default_hint = "finish it, or end it with Ctrl-C, then repeat"


class TaskError(CmeshError):
    """Raised when a task cannot be handled."""

    code = "task_failed"
    exit_status = 40


class TaskNotFound(TaskError):
    """Raised when no task has the given id, or the asker may not see it."""

    code = "task_not_found"
    exit_status = 41
    default_hint = "run `cmesh tasks`"


class TaskConflict(TaskError):
    """Raised when an id or idempotency key was used before with other content."""

    code = "task_conflict"
    exit_status = 42
    default_hint = "use a new idempotency key"


class TaskRefused(TaskError):
    """Raised when the task's state does not allow the operation."""

    code = "task_refused"
    exit_status = 43


class AcceptanceFailed(TaskError):
    """Raised when the agent succeeded, by its word and exit, and the acceptance command did not."""

    code = "acceptance_failed"
    exit_status = 65
    default_hint = "see what it said: `cmesh result ID --part acceptance`"


class SecretFound(TaskRefused):
    """Raised when a patch or file is withheld because a secret was found in it."""

    code = "secret_found"
    exit_status = 56
    default_hint = "the worker's owner can release it: `cmesh release ID` there"


class ChangesRefused(TaskRefused):
    """Raised when uncommitted changes cannot be sent so that they arrive exactly."""

    code = "changes_refused"
    default_hint = "commit and push, or delegate without them"


class PatchRefused(TaskRefused):
    """Raised when a patch holds what no patch of a task may: paths, links, kinds, sizes."""

    code = "patch_refused"
    exit_status = 57
    default_hint = "look at it with `cmesh result ID --part patch`; do not apply it by other means"


class PatchConflict(TaskRefused):
    """Raised when a patch does not fit the tree; nothing was changed."""

    code = "patch_conflict"
    exit_status = 58
    default_hint = (
        "save it with `cmesh result ID --patch FILE`; `git apply --3way FILE` may merge it"
    )


class WrongBase(PatchConflict):
    """Raised when a tree is not that which a patch was made of: no repository, another commit."""

    code = "wrong_base"
    default_hint = "fetch the task's base commit, or name another clone with -C DIR"


class DirtyTree(PatchConflict):
    """Raised when paths that a patch touches have uncommitted changes."""

    code = "dirty_tree"
    default_hint = "commit or stash these changes, or use `--branch NAME`, then repeat"


class BranchExists(PatchConflict):
    """Raised when a branch that a patch is to make cannot be made."""

    code = "branch_exists"
    default_hint = "name another branch"


class PatchApplied(TaskRefused):
    """Raised when a patch is in the tree already."""

    code = "already_applied"
    exit_status = 59
    default_hint = "look at `git status` and `git log`"


class QueueFull(TaskError):
    """Raised when a limit on waiting or running tasks is reached."""

    code = "busy"
    exit_status = 44
    default_hint = "wait for a running task to end, then retry"


class TaskUnfinished(TaskRefused):
    """Raised when a task must have ended first, as before a follow-up turn."""

    code = "task_unfinished"
    default_hint = "wait for its end (`cmesh wait ID`), then retry"


class RunnerError(CmeshError):
    """Raised when a runner cannot do its work."""

    code = "runner_failed"
    exit_status = 50


class AnswerInvalid(RunnerError):
    """Raised when a task ended without an answer that fits the JSON Schema it was asked for."""

    code = "answer_invalid"
    exit_status = 68
    default_hint = "`cmesh reply ID --same-schema PROMPT` asks the same agent again"


class RunnerUnavailable(RunnerError):
    """Raised when a runner's program or login is missing on the worker."""

    code = "runner_unavailable"
    exit_status = 51
    default_hint = "install the agent CLI on the worker, or name another runner"


class LoginExpired(RunnerUnavailable):
    """Raised when the account's login of a runner has expired, or was refused by its provider."""

    code = "login_expired"
    default_hint = "its owner runs `cmesh runners login NAME` on the worker"


class SandboxUnavailable(RunnerError):
    """Raised when a profile needs a sandbox, or a part of one, that this machine lacks."""

    code = "sandbox_unavailable"
    exit_status = 52
    default_hint = "use `query`, or `full` with its own rule on the worker"


class RootRefused(RunnerError):
    """Raised when a worker would run a task as uid 0 without being told to."""

    code = "root_refused"
    exit_status = 53
    default_hint = "run the worker's daemon as an ordinary user"


class RunnerCannot(RunnerError):
    """Raised when a runner keeps no conversation that a follow-up turn could continue."""

    code = "runner_cannot"
    exit_status = 54
    default_hint = "delegate a new task that says all it needs"


class SessionGone(RunnerError):
    """Raised when the worker no longer has the conversation a follow-up turn would continue."""

    code = "session_gone"
    exit_status = 55
    default_hint = "delegate a new task that says all it needs"


class PathRefused(RunnerError):
    """Raised when a path of a directory that a profile narrows to cannot be shown to a task."""

    code = "path_refused"
    exit_status = 52
    default_hint = "the worker's owner sees which path it is in the view `decisions` there"


class LinkError(CmeshError):
    """Raised when a link to a peer fails."""

    code = "link_failed"
    exit_status = 60


class LocalProtocolError(LinkError):
    """Raised when this side would break the link protocol; a bug of ours."""

    code = "local_protocol_error"
    exit_status = 61


class RemoteProtocolError(LinkError):
    """Raised when the peer broke the link protocol."""

    code = "remote_protocol_error"
    exit_status = 62
    default_hint = "compare `cmesh version` on both machines"


class VersionMismatch(LinkError):
    """Raised when the two sides share no protocol version."""

    code = "version_mismatch"
    exit_status = 63
    default_hint = "upgrade cmesh on the older machine (`cmesh version` on both)"


class PeerOutdated(VersionMismatch):
    """Raised when a task asks for what an older worker does not take."""

    code = "peer_outdated"
    default_hint = "upgrade cmesh on that machine, or ask for it without"


class NotCmesh(LinkError):
    """Raised when a tailnet peer answers, but not as cmesh."""

    code = "not_cmesh"
    exit_status = 64
    default_hint = "start cmesh on that machine (`cmesh up`), or name another peer"


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


class DaemonError(CmeshError):
    """Raised when the local daemon cannot serve a call."""

    code = "daemon_failed"
    exit_status = 80


class DaemonNotRunning(DaemonError):
    """Raised when no daemon serves this state directory."""

    code = "daemon_not_running"
    exit_status = 81
    default_hint = "run `cmesh up`"


class DaemonRestarted(DaemonError):
    """Raised when the daemon went away during a call; tasks are unaffected."""

    code = "daemon_restarted"
    exit_status = 82
    default_hint = "repeat the call"


class DaemonTimeout(DaemonError):
    """Raised when the daemon does not answer within the call's limit."""

    code = "daemon_timeout"
    exit_status = 83


class DaemonRestarting(DaemonError):
    """Raised when the daemon takes no call any more because another takes its place."""

    code = "daemon_restarting"
    exit_status = 84
    default_hint = "repeat the call in a moment"


class ReplaceFailed(DaemonError):
    """Raised when `cmesh up --replace` did not bring up the new daemon; says which one runs."""

    code = "replace_failed"
    exit_status = 85


class ServiceFailed(DaemonError):
    """Raised when the service manager cannot keep the daemon, or there is none."""

    code = "service_failed"
    exit_status = 86
    default_hint = "cmesh service status"


class DoctorWarning(CmeshError):
    """Raised when `cmesh doctor` found something to mend, and nothing that does not work."""

    code = "doctor_warning"
    exit_status = 90
    default_hint = "`cmesh doctor` has the next step beside each finding"


class DoctorProblem(CmeshError):
    """Raised when `cmesh doctor` found something that does not work, or lets others in."""

    code = "doctor_problem"
    exit_status = 91
    default_hint = "`cmesh doctor` has the next step beside each finding"


class DemoFailed(CmeshError):
    """Raised when something that the demo shows did not happen."""

    code = "demo_failed"
    default_hint = "this is a bug of cmesh or of this machine's set-up; the logs say more"


def by_code(code: str) -> type[CmeshError]:
    """Return the class that owns `code`, or `CmeshError` for an unknown one."""
    return _BY_CODE.get(code, CmeshError)


def _walk(cls: type[CmeshError]) -> list[type[CmeshError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _walk(sub))]


_BY_CODE = {cls.code: cls for cls in _walk(CmeshError)}
