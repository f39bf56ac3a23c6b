"""A month of one node, as rows: all that its owner may ask the audit about has happened in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cmesh.clock import SystemClock
from cmesh.model import Direction, Limits, NodeId, Profile, TaskId, TaskState, Usage
from cmesh.protocol.trace import header, of_group
from cmesh.store.records import (
    AuditRecord,
    DecisionRecord,
    ReceiptRecord,
    Record,
    Selection,
    StepRecord,
    TaskRecord,
    TrustRecord,
)
from cmesh.store.store import Store
from tests.unit.store import support
from tests.unit.store.support import FixedClock, state

__all__ = ["CALL", "MonthClock", "live_a_month"]

IN, OUT = Direction.IN, Direction.OUT
POLICY, OLD_POLICY = "cd" * 32, "dc" * 32
CALL = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""The trace of a call on another machine that led to a task here, and on to a third machine."""

GROUP = "g-0123456789abcdef"
QUESTION = "I found two deploys.\n\nCMESH-QUESTION: which of the two?\n"


class MonthClock(FixedClock):
    """Stands still 30 days ago, since the questions ask for the last days."""

    def __init__(self) -> None:
        super().__init__()
        self.time = SystemClock().now() - timedelta(days=30)


class Month:
    """Writes what happens into a store, as a daemon does."""

    def __init__(self, store: Store, clock: FixedClock) -> None:
        self.store = store
        self.clock = clock

    async def note(self, *records: Record, after_s: float = 1.0) -> None:
        self.clock.advance(after_s)
        await self.store.commit(records)

    async def asked(
        self,
        direction: Direction,
        peer: str,
        *,
        effect: str = "allow",
        rule: str | None = "my machines",
        principal: str = "me@example.com",
        reason: str = "",
        failed: Sequence[Mapping[str, str]] = (),
        **more: Any,
    ) -> TaskRecord:
        """Decide on a task and store it, unless this node's own policy said no."""
        record = a_task(direction, peer, principal=principal if direction is IN else "", **more)
        denied = effect == "deny"
        record = replace(record, rule=None if denied else rule)
        decision = DecisionRecord(
            task_id=None if denied and direction is OUT else record.task_id,
            direction=direction,
            peer_id=record.peer_id,
            peer=record.peer,
            principal=principal,
            operation="follow_up" if record.spec.follows else "task",
            effect=effect,
            rule=record.rule,
            reason=reason or f"rule `{rule}`",
            failed=tuple(failed),
            policy_sha256=POLICY,
        )
        stored = [] if denied and direction is OUT else [record]
        await self.note(decision, *stored, after_s=60)
        return record

    async def ran(self, record: TaskRecord, *, seconds: float = 90.0, **more: Any) -> None:
        """Run a task to its end."""
        names = ("accepted", "intent", "running") if record.direction is IN else ("accepted",)
        for name in names:
            await self.note(state(record, name, witness="the worker committed the row"))
        await self.note(support.event(record, 1, "running"), support.event(record, 2, "tool_call"))
        started = self.clock.now()
        self.clock.advance(seconds)
        await self.ended(record, started_at=started, **more)

    async def ended(
        self,
        record: TaskRecord,
        end: TaskState = TaskState.SUCCEEDED,
        *,
        receipt: bool = True,
        **more: Any,
    ) -> None:
        """End a task; with a receipt when the other side has signed for it."""
        result = support.result(record, end)
        fields: dict[str, Any] = {
            "ended_at": self.clock.now(),
            "started_at": None,
            "output_sha256": "",
            "output_kept": 0,
            "runner_version": "2.1.0",
            "profile_enforced": "landlock",
            **({} if "started_at" in more else {"usage": Usage()}),
        }
        fields |= more
        signed = "c" * 86 if receipt and record.direction is OUT else ""
        await self.note(
            replace(result, result=replace(result.result, **fields), caller_signature=signed)
        )
        if receipt and record.direction is IN:
            await self.note(support.acknowledgement(record))

    async def connected(self, record: TaskRecord, name: str, host: str, verdict: str) -> None:
        allowed = verdict == "allowed"
        data: dict[str, object] = {
            "connection": name,
            "host": host,
            "address": "203.0.113.7" if allowed else "",
            "port": 443,
            "verdict": verdict,
            "code": "model" if allowed else "not_listed",
            "reason": "" if allowed else f"`{host}` is not listed for this task",
            "detail": "",
        }
        await self.note(AuditRecord(kind="connection", task_id=record.task_id, data=data))
        if allowed:
            ended = {"connection": name, "bytes_out": 4096, "bytes_in": 65536, "seconds": 2.5}
            ended |= {"end": "closed", "status": 200}
            await self.note(
                AuditRecord(kind="connection_ended", task_id=record.task_id, data=ended)
            )


def a_task(
    direction: Direction,
    peer: str,
    *,
    runner: str = "claude",
    profile: Profile = Profile.QUERY,
    prompt: str = "why did the deploy fail?",
    limits: Limits | None = None,
    accept: tuple[str, ...] = (),
    origin: tuple[NodeId, ...] = (),
    trace: str = "",
    session: str = "",
    follows: TaskRecord | None = None,
    **more: Any,
) -> TaskRecord:
    spec = replace(
        support.task(direction=direction).spec,
        runner=runner,
        profile=profile,
        prompt=prompt,
        limits=limits or Limits(runtime_s=900, cost_usd=2.0),
        accept=accept,
        origin=origin,
        follows=follows.task_id if follows else None,
    )
    spec = replace(spec, traceparent=header(spec.task_id, within=trace))
    turn = {"thread": follows.first, "turn": follows.turn + 1} if follows else {}
    return replace(
        support.task(spec.task_id, direction=direction, peer_id=NodeId(f"n{peer.upper()}")),
        peer=f"{peer}.example.ts.net",
        spec=spec,
        payload_hash=spec.payload_hash(),
        session=session or ("agent-1" if direction is OUT else ""),
        project="/home/me/myapp" if direction is OUT else "",
        idempotency_key=f"k-{spec.task_id}" if direction is OUT else "",
        **(turn | more),
    )


def told(name: str, **data: object) -> AuditRecord:
    return AuditRecord(kind=name, data=data)


def trusted(peer: str, by: str, *, trusted: bool = True) -> TrustRecord:
    return replace(
        support.trust(NodeId(f"n{peer.upper()}"), key=f"key-of-{peer}", trusted=trusted),
        peer=f"{peer}.example.ts.net",
        by=by,
    )


async def live_a_month(store: Store, clock: FixedClock) -> dict[str, TaskId]:
    """Fill a new store; return the ids of some tasks by what they are."""
    month = Month(store, clock)
    await _set_up(month)
    ids = await _asked_of_others(month)
    clock.advance(timedelta(days=26).total_seconds())
    ids |= await _asked_again(month)
    ids |= await _asked_by_others(month)
    ids |= await _owner_was_asked(month)
    return ids


async def _set_up(month: Month) -> None:
    await month.note(
        told("daemon_started", version="0.1.0", pid=7, policy_sha256=OLD_POLICY),
        told("node_up", node_id="nSELF", key="key-of-self"),
        told("sandbox_found", enforcement="landlock", why=""),
        told("setup_applied", step="inbound", digest="ab" * 32, by="wizard"),
        trusted("buildbox", "pair"),
        trusted("gpu", "owner"),
        trusted("laptop", "delegate"),
        trusted("oldbox", "owner"),
    )
    await month.note(
        told("pairing", what="confirmed", peer_id="nBUILDBOX", peer="buildbox.example.ts.net"),
        told("contact", peer_id="nEVE", peer="eve.example.ts.net", fingerprint="SHA256:x"),
        told(
            "config_changed", policy_sha256=POLICY, config_sha256="ee" * 32, in_force=True, error=""
        ),
        told("config_changed", policy_sha256=POLICY, in_force=False, error="line 7: no such key"),
        told("manifest_written", runner="mine", sha256="aa" * 32),
        told("login_kept", runner="claude", until="2099-01-01"),
        told("runner_asked", runner="claude", cost_usd=0.02, tokens_in=900, tokens_out=80),
        trusted("oldbox", "owner", trusted=False),
    )


async def _asked_of_others(month: Month) -> dict[str, TaskId]:
    first = await month.asked(OUT, "buildbox")
    await month.ran(
        first,
        text=QUESTION,
        follow_up="possible",
        usage=Usage(cost_usd=0.31, tokens_in=9_000, tokens_out=700, turns=4),
    )
    second = await month.asked(OUT, "buildbox", prompt="the second one", follows=first)
    await month.ran(second, usage=Usage(cost_usd=0.12, tokens_in=4_000, tokens_out=300, turns=2))
    slow = await month.asked(OUT, "gpu", runner="codex", limits=Limits(runtime_s=900))
    await month.ran(
        slow,
        end=TaskState.TIMED_OUT,
        seconds=900,
        witness="the limit was reached",
        exit_code=-15,
        usage=Usage(),
    )
    lost = await month.asked(OUT, "gpu", runner="codex")
    await month.ran(
        lost,
        end=TaskState.INTERRUPTED,
        code="interrupted",
        exit_code=None,
        usage=Usage(),
        receipt=False,
    )
    await month.note(
        ReceiptRecord(
            peer_id=NodeId("nBUILDBOX"),
            peer="buildbox.example.ts.net",
            kind="head",
            task_id=None,
            head_seq=41,
            head_hash="ef" * 32,
            signature="h" * 86,
        )
    )
    return {"first": first.task_id, "second": second.task_id, "lost": lost.task_id}


async def _asked_again(month: Month) -> dict[str, TaskId]:
    chosen = Selection(where=("os=linux",), chosen="all that match", group=GROUP)
    several = [
        await month.asked(
            OUT,
            peer,
            runner="command:test",
            profile=Profile.FULL,
            trace=of_group(GROUP),
            selection=chosen,
        )
        for peer in ("buildbox", "gpu")
    ]
    await month.ran(several[0], seconds=40, usage=Usage(), profile_enforced="none")
    await month.ran(
        several[1],
        end=TaskState.FAILED,
        exit_code=2,
        seconds=12,
        usage=Usage(),
        profile_enforced="none",
        error="2 tests fail",
    )
    fix = await month.asked(
        OUT, "buildbox", profile=Profile.EDIT, prompt="fix the test", accept=("make", "test")
    )
    patch = {
        "sha256": "aa" * 32, "bytes": 900, "files": 3,
        "changed": ["M src/app.py", "A .github/workflows/ci.yml", "D old.txt"],
        "flagged": [".github/workflows/ci.yml"], "flagged_count": 1, "base_commit": "ab" * 20,
    }  # fmt: skip
    evidence: dict[str, Any] = {
        "acceptance": {"argv": ["make", "test"], "end": "exited", "exit_code": 2, "passed": False, "runtime_s": 31.5},
        "source": "event_stream", "tool_calls": 0, "commands": [], "commands_count": 0,
    }  # fmt: skip
    await month.ran(
        fix,
        code="acceptance_failed",
        patch=patch,
        evidence=evidence,
        usage=Usage(cost_usd=1.9, tokens_in=90_000, tokens_out=9_000, turns=22),
    )
    asks = await month.asked(OUT, "buildbox", prompt="clean up the branches")
    await month.ran(
        asks,
        text=QUESTION,
        follow_up="possible",
        follow_up_until=SystemClock().now() + timedelta(days=7),
    )
    refused = await month.asked(OUT, "gpu", profile=Profile.FULL)
    await month.note(
        state(
            refused,
            "denied",
            witness="the worker's answer",
            code="policy_denied",
            reason="no rule allows `full`",
        )
    )
    await month.asked(
        OUT, "gpu", effect="deny", reason="the prompt is too long",
        failed=[{"rule": "my machines", "condition": "prompt_bytes", "wanted": "20000", "got": "90000"}],
    )  # fmt: skip
    queued = await month.asked(OUT, "gpu")
    await month.note(
        state(
            queued,
            "expired",
            witness="not_after has passed",
            reason="it could not be started in time",
        )
    )
    waits = await month.asked(OUT, "buildbox", profile=Profile.FULL)
    await month.note(
        state(waits, "accepted", witness="the worker's answer"),
        support.fact(waits, "waiting_approval"),
    )
    return {
        "group": several[0].task_id,
        "fix": fix.task_id,
        "asks": asks.task_id,
        "waits": waits.task_id,
    }


async def _asked_by_others(month: Month) -> dict[str, TaskId]:
    look = await month.asked(IN, "laptop", principal="tag:laptop")
    await month.connected(look, "c-1", "api.example.com", "allowed")
    await month.connected(look, "c-2", "evil.example.net", "refused")
    evidence: dict[str, Any] = {
        "source": "event_stream", "tool_calls": 7, "commands_count": 2, "model": "big-1",
        "commands": [
            {"command": "git log -5", "exit_code": 0, "failed": False},
            {"command": "make deploy", "exit_code": 2, "failed": True},
        ],
        "denials": ["Write: not in this profile"],
    }  # fmt: skip
    await month.ran(
        look,
        evidence=evidence,
        redacted=2,
        credential="gateway",
        usage=Usage(cost_usd=0.44, tokens_in=20_000, tokens_out=1_000, turns=6),
    )
    stranger = await month.asked(
        IN, "eve", effect="deny", principal="eve@example.org", reason="no rule allows `eve`",
        failed=[{"rule": "my machines", "condition": "peers", "wanted": "user:me@example.com", "got": "user:eve@example.org"}],
    )  # fmt: skip
    why = "no rule allows `eve`"
    await month.note(state(stranger, "denied", code="policy_denied", reason=why))
    await month.ended(stranger, TaskState.DENIED, code="policy_denied", error=why)
    parent = await month.asked(IN, "laptop", origin=(NodeId("nPHONE"),), trace=CALL)
    child = await month.asked(
        OUT, "gpu", session=f"task:{parent.task_id}", origin=(NodeId("nPHONE"), NodeId("nLAPTOP"), NodeId("nSELF")), trace=parent.spec.traceparent,
    )  # fmt: skip
    data: dict[str, object] = {"child": child.task_id, "peer": child.peer, "effect": "allow"}
    await month.note(AuditRecord(kind="handed_on", task_id=parent.task_id, data=data))
    await month.ran(child)
    await month.ran(parent)
    secret = await month.asked(IN, "laptop", profile=Profile.BUILD)
    patch = {"sha256": "bb" * 32, "bytes": 300, "files": 1, "changed": ["M .env"], "withheld": "secret_found", "reason": "1 secrets were found in it"}  # fmt: skip
    await month.ran(secret, patch=patch, receipt=False)
    out = {"sha256": "bb" * 32, "bytes": 300, "path": "", "pid": 4711, "program": "cmesh"}
    await month.note(
        StepRecord(
            task_id=secret.task_id,
            direction=IN,
            kind="fact",
            name="patch_released",
            reason="released by this machine's owner",
            data=out,
        )
    )
    unwanted = await month.asked(IN, "laptop")
    await month.note(state(unwanted, "accepted"), support.fact(unwanted, "cancel_wish"))
    await month.ended(
        unwanted, TaskState.CANCELLED, witness="zero processes counted", error="not needed any more"
    )
    return {
        "look": look.task_id,
        "parent": parent.task_id,
        "child": child.task_id,
        "secret": secret.task_id,
    }


async def _owner_was_asked(month: Month) -> dict[str, TaskId]:
    ids: dict[str, TaskId] = {}
    for what in ("approved", "refused", "waiting"):
        record = await month.asked(
            IN,
            "laptop",
            effect="ask",
            rule="after a yes",
            profile=Profile.FULL,
            prompt=f"restart the service ({what})",
        )
        ids[what] = record.task_id
        await month.note(state(record, "waiting", witness="its owner must approve it"))
        month.clock.advance(240)
        by: dict[str, object] = {
            "answer": "denied" if what == "refused" else what,
            "pid": 812,
            "program": "cmesh",
        }
        if what == "refused":
            await month.note(
                state(
                    record,
                    "denied",
                    witness="the owner's word",
                    code="policy_denied",
                    reason="not on a Friday",
                )
            )
            await month.ended(
                record,
                TaskState.DENIED,
                code="policy_denied",
                error="not on a Friday",
                profile_enforced="none",
            )
        if what == "approved":
            await month.note(state(record, "accepted", witness="its owner approved it"))
            changed = support.event(record, 3, "file_change")
            data: dict[str, object] = {
                "id": "t1",
                "tool": "Edit",
                "path": "/etc/app.conf",
                "change": "update",
            }
            changed = replace(changed, event=replace(changed.event, data=data))
            await month.note(state(record, "running"), support.event(record, 1, "running"), changed)
            await month.ended(
                record, started_at=month.clock.now(), credential="exposed", profile_enforced="none"
            )
        if what != "waiting":
            await month.note(AuditRecord(kind="approval", task_id=record.task_id, data=by))
    return ids
