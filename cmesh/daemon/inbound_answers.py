"""What the worker says of one task: the message that each `Send` of a step stands for."""

from cmesh.daemon.draft import Draft, retry_in_s
from cmesh.daemon.happening import Happening
from cmesh.daemon.parts import Parts
from cmesh.model import TaskId
from cmesh.protocol.facts import WAITING
from cmesh.protocol.messages import Accepted, Denied, StillWanted
from cmesh.protocol.state import Send

__all__ = ["answer"]


def answer(parts: Parts, task_id: TaskId, send: Send, one: Happening, draft: Draft) -> None:
    """Send one message that a step asks for, to whoever is to be answered."""
    record = draft.record
    if send is Send.ACCEPTED and record is not None:
        rule = one.admission.rule if one.admission else record.rule
        answer = Accepted(
            task_id=task_id,
            payload_hash=record.payload_hash,
            waiting=draft.state == WAITING,
            rule=rule or "",
        )
    elif send is Send.DENIED:
        change = one.admission.change if one.admission else ""
        answer = Denied(
            task_id=task_id,
            code=one.code or "policy_denied",
            reason=one.reason[:2_000],
            change=change[:2_000],
            retry_after_s=retry_in_s(draft.facts, parts.clock.now()),
        )
    elif send is Send.CONFLICT:
        reason = "this task id is known with another content"
        answer = Denied(task_id=task_id, code="task_conflict", reason=reason)
    elif send is Send.STILL_WANTED:
        answer = StillWanted(task_id=task_id)
    else:  # what welcome lists is read from the store when a link opens
        return
    if one.reply_to is not None:
        parts.post(one.reply_to, answer)
