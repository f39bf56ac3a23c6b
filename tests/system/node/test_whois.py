"""Who a tailnet address belongs to: the cases that policy must tell apart."""

from datetime import UTC, datetime, timedelta

import pytest

from cmesh.errors import IdentityUnknown
from cmesh.model import Identity
from cmesh.node.node import Node
from cmesh.node.testnet import Grant, Testnet
from tests.system.node.support import ALICE, MakeNode, Until

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CAPABILITY = "cmesh.dev/cap/task"


class Asker:
    """Node `server`, asking about the address of node `client`."""

    def __init__(self, server: Node, address: str, until: Until) -> None:
        self.server = server
        self.address = address
        self._until = until

    async def until(self, **wanted: object) -> Identity:
        """Wait until whois says what is wanted."""

        async def look() -> Identity | None:
            try:
                identity = await self.server.whois(self.address)
            except IdentityUnknown:
                return None
            fits = all(getattr(identity, name) == value for name, value in wanted.items())
            return identity if fits else None

        return await self._until(self.server, look)

    async def until_unknown(self) -> None:
        """Wait until whois knows nobody."""

        async def look() -> bool | None:
            try:
                await self.server.whois(self.address)
            except IdentityUnknown:
                return True
            return None

        await self._until(self.server, look)


@pytest.fixture
async def asker(make_node: MakeNode, until: Until) -> Asker:
    server = await make_node("server", user="bob@example.com")
    client = await make_node("client")
    return Asker(server, (await client.status()).addresses[0], until)


async def test_a_users_node_is_named_with_its_user(asker: Asker) -> None:
    who = await asker.until(user=ALICE)
    assert who.name == "client.testnet.cmesh.internal"
    assert who.node_id
    assert asker.address in who.addresses
    assert (who.tags, who.expired, who.shared, who.router, who.ephemeral) == (
        (),
        False,
        False,
        False,
        False,
    )


async def test_port_and_ipv6_forms_name_the_same_node(asker: Asker) -> None:
    who = await asker.until(user=ALICE)
    assert await asker.server.whois(f"{asker.address}:4711") == who
    six = next(address for address in who.addresses if ":" in address)
    assert await asker.server.whois(six) == who
    assert await asker.server.whois(f"[{six}]:4711") == who


async def test_a_tagged_node_has_tags_and_no_user(asker: Asker, testnet: Testnet) -> None:
    await testnet.set_tags("client", ["tag:laptop", "tag:ci"])
    who = await asker.until(tags=("tag:laptop", "tag:ci"))
    assert who.user == ""


async def test_tags_come_with_the_auth_key(make_node: MakeNode) -> None:
    node = await make_node("tagged", tags=("tag:worker",))
    assert (await node.status()).tags == ("tag:worker",)
    assert (await node.status()).user == ""


async def test_a_node_shared_in_is_marked(asker: Asker, testnet: Testnet) -> None:
    await testnet.share("client", "carol@other.example")
    await asker.until(shared=True)


async def test_those_we_share_with_are_marked_too(asker: Asker, testnet: Testnet) -> None:
    await testnet.share("server", "carol@other.example")
    await asker.until(shared=True)


async def test_an_expired_node_still_answers_and_is_marked(
    asker: Asker, testnet: Testnet, long_ago: datetime
) -> None:
    await testnet.expire("client", long_ago)
    assert (await asker.until(expired=True)).user == ALICE
    await testnet.expire("client", None)
    await asker.until(expired=False, key_expiry=None)


async def test_a_coming_expiry_is_told(asker: Asker, testnet: Testnet) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)
    await testnet.expire("client", at)
    assert not (await asker.until(key_expiry=at)).expired


async def test_a_deleted_node_is_unknown_at_once(asker: Asker, testnet: Testnet) -> None:
    await asker.until(user=ALICE)
    await testnet.delete("client")
    await asker.until_unknown()


async def test_a_router_is_marked(asker: Asker, testnet: Testnet) -> None:
    await testnet.set_routes("client", ["10.77.0.0/24"])
    await asker.until(router=True)
    with pytest.raises(IdentityUnknown):
        await asker.server.whois("10.77.0.5")


async def test_grants_reach_the_granted_side_only(asker: Asker, testnet: Testnet) -> None:
    await testnet.set_grants(
        [Grant(src=(ALICE,), dst=("server",), app={CAPABILITY: [{"profiles": ["query"]}]})]
    )
    who = await asker.until(capabilities={CAPABILITY: ({"profiles": ["query"]},)})
    assert who.capabilities
    own = (await asker.server.status()).addresses[0]
    assert CAPABILITY not in (await asker.server.whois(own)).capabilities
    await testnet.set_grants([])
    await asker.until(capabilities={})


async def test_an_ephemeral_node_is_marked_and_goes_away(make_node: MakeNode, until: Until) -> None:
    server = await make_node("server")
    client = await make_node("client", ephemeral=True)
    asker = Asker(server, (await client.status()).addresses[0], until)
    await asker.until(ephemeral=True)
    await client.close()
    await asker.until_unknown()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:80", "100.99.1.1", "[::1]:22", "", "client", "100.64.0.1:x", "\x00"]
)
async def test_anything_else_is_unknown(make_node: MakeNode, address: str) -> None:
    node = await make_node("node")
    with pytest.raises(IdentityUnknown):
        await node.whois(address)
