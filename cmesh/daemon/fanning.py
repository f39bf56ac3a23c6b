"""One task asked of several peers: each has a task of its own, all of them are a group.

A peer that is refused or away stops no other. INVARIANT: each task's key is made of the call's
and the peer, so that a call that is repeated, or was cut off half-way, starts nothing twice.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import uuid_utils

from cmesh.daemon.answers import GroupView, RefusedView
from cmesh.daemon.arguments import PEERS_MOST, Context, DelegateArguments, FanOutArguments
from cmesh.daemon.asking import Asking
from cmesh.daemon.choosing import chosen_all
from cmesh.daemon.core import Daemon
from cmesh.daemon.groups import Groups
from cmesh.errors import CmeshError, TaskConflict, UsageError
from cmesh.model import NodeId, TaskId, host_label
from cmesh.node.whois import Peer
from cmesh.store.records import Refused, Selection, TaskRecord

__all__ = ["FanOut", "group_name"]

_KEY_HEX, _GROUP_HEX = 40, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A peer of the group, and what it is asked for."""

    peer: Peer
    arguments: DelegateArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """What came of one call before anything is waited for."""

    group: str
    records: tuple[TaskRecord, ...] = ()
    refused: tuple[RefusedView, ...] = ()
    repeated: bool = False


class FanOut:
    """What local callers ask of several machines at once."""

    def __init__(self, daemon: Daemon, asking: Asking, groups: Groups) -> None:
        self._daemon = daemon
        self._asking = asking
        self._groups = groups
        self._beginning = asyncio.Lock()

    async def ask(self, context: Context, arguments: FanOutArguments) -> GroupView:
        """Ask each peer for the task, once; wait up to `wait_s` for all their ends.

        Raises:
            UsageError: a peer is named twice, or there are too many.
            UnknownPeer: a name means nobody; nothing was asked.
            NoPeerMatches: `where` holds for none.
            TaskConflict: the key belongs to a group of other peers or another content.
            CmeshError: no peer at all was given the task; the first one's reason.
        """
        clock = self._daemon.settings.clock
        until = clock.monotonic() + arguments.wait_s
        prompt, hits = self._daemon.secrets.redactor().text(arguments.prompt)
        arguments = arguments.model_copy(update={"prompt": prompt})
        await self._daemon.presence.rising()
        async with self._beginning:  # of two calls with one key, the second is the repetition
            begun = await self._begin(context, arguments)
        queue = arguments.if_offline == "queue"
        late = await asyncio.gather(*(self._sent(record, queue=queue) for record in begun.records))
        refused = [*begun.refused, *(one for one in late if one is not None)]
        wait_s = max(0.0, until - clock.monotonic())
        view = await self._groups.waited(context, begun.group, wait_s)
        more: dict[str, object] = {"prompt_redacted": hits, "repeated": begun.repeated}
        told = {one.peer for one in view.refused}
        more["refused"] = [*view.refused, *(one for one in refused if one.peer not in told)]
        return view.model_copy(update=more)

    async def _begin(self, context: Context, arguments: FanOutArguments) -> _Begun:
        key = arguments.idempotency_key or f"fan-{uuid_utils.uuid7()}"
        group = group_name(key)
        known = await self._groups.selection(group)
        if known is not None:
            return await self._again(context, arguments, key, known)
        targets, chosen = await self._targets(context, arguments)
        twins = await self._twins(context, targets)
        fresh = [one for one in targets if one.peer.node_id not in twins]
        if not fresh and (whole := await self._one_group(twins.values())):
            return _Begun(group=whole, repeated=True)
        refused = await self._refusals(context, fresh)
        selection = Selection(
            where=tuple(arguments.where),
            chosen=chosen,
            group=group,
            peers=tuple(one.peer.node_id for one in targets),
            refused=tuple(
                Refused(
                    peer=one.peer.label, node_id=one.peer.node_id, code=why.code, reason=why.message
                )
                for one, why in refused
            ),
            also=tuple(twins.values()),
        )
        denied = {one.peer.node_id for one, _why in refused}
        allowed = [one for one in fresh if one.peer.node_id not in denied]
        if not allowed:
            raise _nobody(refused, twins)
        begun = await self._commit(context, allowed, selection, key)
        views = [_refused(one.peer.label, why) for one, why in refused]
        return replace(begun, refused=(*views, *begun.refused))

    async def _again(
        self, context: Context, arguments: FanOutArguments, key: str, selection: Selection
    ) -> _Begun:
        """Return the group that this call has asked for before; ask who was not asked then.

        Raises:
            TaskConflict: the key belongs to a group of other peers or another content.
        """
        placed = [_placed(text) for text in arguments.peers]
        places = {(await self._peer(name)).identity.node_id: place for name, place in placed}
        same_peers = set(places) == set(selection.peers)
        if tuple(arguments.where) != selection.where or (placed and not same_peers):
            raise TaskConflict(
                f"idempotency key `{key[:80]}` belongs to a group of other peers",
                hint="use another key for another group",
            )
        await self._groups.require_same(selection.group, arguments, places)
        settled = await self._groups.settled(selection)
        missing = [peer_id for peer_id in selection.peers if peer_id not in settled]
        targets = [
            _target(await self._peer(peer_id), arguments, places.get(peer_id, ""))
            for peer_id in missing
        ]
        begun = await self._commit(context, targets, selection, key)
        return replace(begun, repeated=True)

    async def _targets(
        self, context: Context, arguments: FanOutArguments
    ) -> tuple[list[_Target], str]:
        """Return who is asked, in order, and how they were chosen."""
        if bool(arguments.peers) == bool(arguments.where) or arguments.peer:
            raise UsageError(
                "name the peers, or say what they must be like; not both",
                hint="`peers`, or `where` such as `os=linux`, `docker`",
            )
        if arguments.with_changes or arguments.untracked:
            raise UsageError(
                "uncommitted changes go to one peer at a time", hint="delegate to each by itself"
            )
        if arguments.where:
            found, asked = await self._asking.judged(context, arguments)
            queue = arguments.if_offline == "queue"
            choice = chosen_all(found, asked, queue=queue, most=PEERS_MOST)
            return [_target(one.peer, arguments, "") for one in choice.taken], choice.words
        placed = [_placed(text) for text in arguments.peers]
        targets = [_target(await self._peer(name), arguments, place) for name, place in placed]
        for name, count in Counter(one.peer.label for one in targets).items():
            if count > 1:
                raise UsageError(f"`{name}` is named twice", hint="name each peer once")
        return targets, ""

    async def _peer(self, name: str) -> Peer:
        return await self._daemon.presence.peer(name)

    async def _refusals(
        self, context: Context, targets: Sequence[_Target]
    ) -> list[tuple[_Target, CmeshError]]:
        found: list[tuple[_Target, CmeshError]] = []
        for one in targets:
            why = await self._asking.refusal(context, one.arguments, one.peer)
            if why is not None:
                found.append((one, why))
        return found

    async def _one_group(self, task_ids: Iterable[TaskId]) -> str:
        """Return the group that all these tasks are of; empty = there is no one such."""
        names: set[str] = set()
        for task_id in task_ids:
            task = await self._daemon.store.task(task_id)
            selection = task.record.selection if task is not None else None
            names.add(selection.group if selection is not None else "")
        return names.pop() if len(names) == 1 else ""

    async def _twins(self, context: Context, targets: Sequence[_Target]) -> dict[NodeId, TaskId]:
        found: dict[NodeId, TaskId] = {}
        for one in targets:
            twin = await self._asking.twin(context, one.arguments, one.peer)
            if twin is not None:
                found[one.peer.node_id] = twin
        return found

    async def _commit(
        self, context: Context, targets: Sequence[_Target], selection: Selection, key: str
    ) -> _Begun:
        """Commit a task for each; one that cannot be stored stops no other.

        Raises:
            CmeshError: none could be.
        """
        records: list[TaskRecord] = []
        failed: list[tuple[_Target, CmeshError]] = []
        for one in targets:
            own = one.arguments.model_copy(
                update={"idempotency_key": _key_of(key, one.peer.node_id)}
            )
            try:
                records.append(await self._asking.begin(context, own, one.peer, selection))
            except CmeshError as error:
                failed.append((one, error))
        if failed and not records:
            raise failed[0][1]
        return _Begun(
            group=selection.group,
            records=tuple(records),
            refused=tuple(_refused(one.peer.label, why) for one, why in failed),
        )

    async def _sent(self, record: TaskRecord, *, queue: bool) -> RefusedView | None:
        try:
            await self._asking.send(record, queue=queue)
        except CmeshError as error:
            return _refused(host_label(record.peer), error)
        return None


def group_name(key: str) -> str:
    """Return the name of the group that a key stands for."""
    return f"g-{hashlib.sha256(key.encode()).hexdigest()[:_GROUP_HEX]}"


def _key_of(key: str, peer_id: NodeId) -> str:
    digest = hashlib.sha256(f"{key}\0{peer_id}".encode()).hexdigest()
    return f"group-{digest[:_KEY_HEX]}"


def _placed(text: str) -> tuple[str, str]:
    """Return a peer's name, and its own directory if it has one: `box`, `box:/srv/app`."""
    name, colon, path = text.partition(":/")
    return name, f"/{path}" if colon else ""


def _target(peer: Peer, arguments: FanOutArguments, directory: str) -> _Target:
    place = directory or arguments.directory
    if not place:
        name = peer.identity.label
        raise UsageError(
            f"no directory is named for `{name}`", hint=f"name one for all, or `{name}:/directory`"
        )
    fields = arguments.model_dump(exclude={"peers", "where"}) | {"directory": place}
    one = DelegateArguments.model_validate(fields | {"peer": peer.identity.node_id})
    return _Target(peer=peer, arguments=one)


def _refused(name: str, error: CmeshError) -> RefusedView:
    return RefusedView(peer=name, code=error.code, reason=error.message, hint=error.hint)


def _nobody(
    refused: Sequence[tuple[_Target, CmeshError]], twins: Mapping[NodeId, TaskId]
) -> CmeshError:
    """Return why no peer was given a new task; in the form of the first one's refusal."""
    if not refused:
        ids = ", ".join(twins.values())
        return TaskConflict(
            f"each of these peers has an equal task of this session already: {ids}",
            hint="wait for them, or ask with `new`",
        )
    _first, error = refused[0]
    if len(refused) == 1:
        return error
    each = "; ".join(f"{one.peer.label}: {why.message}" for one, why in refused)
    return type(error)(f"no peer was given the task: {each}", hint=error.hint)
