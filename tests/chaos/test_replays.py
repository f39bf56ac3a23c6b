"""A peer that sends the same submit ten thousand times gets one run and always the same answer."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.daemon.arguments import TrustArguments
from cmesh.errors import LinkError
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from cmesh.protocol.codec import encode
from cmesh.protocol.convert import submit
from cmesh.protocol.messages import Accepted
from tests.chaos.judge import read_ledger
from tests.chaos.world import RUNNER, Order, world
from tests.fakes.link_peer import Channel, LinkPeer
from tests.system.daemon.machine import ME, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

REPLAYS = 10_000
AT_ONCE = 500
LINKS = 4
TASK = TaskId("01890a5d-ac96-774b-bcce-b302099a8057")


async def test_ten_thousand_replays_of_a_submit_start_no_second_run(
    ground: Path, testnet: Testnet, tmp_path: Path
) -> None:
    options = NodeOptions(
        state_dir=tmp_path / "node",
        hostname="replayer",
        control_url=testnet.control_url,
        auth_key=await testnet.auth_key(ME),
        allow_testnet=True,
    )
    async with world(ground / "replays", testnet) as made, Node(options) as node:
        await node.up()
        peer = LinkPeer(node, (await node.status()).node_id)
        address = (await made.worker.status()).addresses[0]
        with contextlib.suppress(LinkError):
            await peer.dial(address)  # a first contact, for the owner to look at

        async def trusted() -> bool:
            await made.worker.call("trust_peer", TrustArguments(peer="replayer"))
            return True

        await eventually(trusted)
        spec = TaskSpec(
            task_id=TASK,
            runner=RUNNER,
            profile=Profile.FULL,
            directory=str(made.directory),
            prompt=Order(key="replayed-0", seconds=0.5).prompt,
            limits=Limits(),
            not_after=datetime.now(UTC) + timedelta(hours=1),
        )
        frame = encode(submit(spec))
        answers = 0
        for number in range(LINKS):
            channel = await peer.dial(address)
            answers += await _replay(channel, frame, REPLAYS // LINKS)
            await channel.wire.close()
            if number == 1:  # and over the death of the daemon that took it
                made.worker.kill()
                await made.worker.up()
        assert answers == REPLAYS
        ledger = read_ledger(made.ledger.read_text("utf-8"))
        assert [entry.what for entry in ledger if entry.task == TASK] == ["start", "finish"]
        rows = await made.worker.sql(f"SELECT state FROM tasks WHERE task_id = '{TASK}'")
        assert rows == [["succeeded"]]


async def _replay(channel: Channel, frame: str | bytes, times: int) -> int:
    """Send the frame so often; return how often it was answered as accepted."""
    answers = 0
    while answers < times:
        for _ in range(min(AT_ONCE, times - answers)):
            await channel.raw(frame)
        for _ in range(min(AT_ONCE, times - answers)):
            message = await channel.receive()
            assert isinstance(message, Accepted), message
            assert message.task_id == TASK
            answers += 1
    return answers
