"""The demo's steps: each does something real, shows what happened and asserts it.

A step returns the sentence of what it has asserted; `DemoFailed` means that something the
demo claims is not so.
"""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import TextIO, cast
from urllib.parse import urlsplit

from cmesh.clock import Clock
from cmesh.daemon.answers import PeerView
from cmesh.daemon.arguments import TaskArguments, TrustArguments
from cmesh.interfaces.demo import audit
from cmesh.interfaces.demo.follow import WAIT_S, Follower, asked
from cmesh.interfaces.demo.plan import OUTBOUND_RULE, USER, Plan, builder_config, laptop_config
from cmesh.interfaces.demo.report import Report, StepReport, require
from cmesh.interfaces.demo.sample import Sample, make_sample
from cmesh.interfaces.demo.screen import Screen
from cmesh.interfaces.demo.stage import Stage
from cmesh.interfaces.mcp.driver import AgentDriver, Answer, unfenced
from cmesh.model import Profile
from cmesh.text import one_line

__all__ = ["BUILDER_SQL", "LAPTOP_SQL", "Story"]

CONTACT_LIMIT_S = 10.0
REPORT_LIMIT_S = 30.0
"""For the end of a run to reach the agent, beside its own runtime."""

POLL_S = 0.05

LAPTOP_SQL = (
    "SELECT split_part(peer, '.', 1) AS peer, state, code, rule, receipt FROM tasks "
    "ORDER BY created_at"
)
BUILDER_SQL = (
    "SELECT split_part(peer, '.', 1) AS peer, principal, effect, rule, "
    "failed->0->>'condition' AS failed FROM decisions ORDER BY ts"
)


class Story:
    """One run on a stage.

    Attributes:
        report: what has been shown so far.
    """

    def __init__(self, plan: Plan, stage: Stage, screen: Screen, clock: Clock) -> None:
        self.report = Report(model=plan.agent)
        self._plan = plan
        self._stage = stage
        self._screen = screen
        self._clock = clock
        self._step = StepReport(title="")
        self._sample: Sample = make_sample(stage.base, clock.now(), random.SystemRandom())
        self._states: list[str] = []

    async def run(self, errors: TextIO) -> None:
        """Do every step.

        Raises:
            CmeshError: a step failed, or what it claims is not so.
        """
        await self._do("A tailnet on this machine, without an account", self._tailnet)
        await self._do("Two daemons: separate processes, state and keys", self._daemons)
        async with AsyncExitStack() as stack:
            await self._do(
                "An agent on laptop starts `cmesh mcp`", lambda: self._agent(stack, errors)
            )
            await self._do("It asks builder why the deploy of myapp failed", self._ask)
            await self._do("A first contact waits for builder's owner", self._trust)
            await self._do("builder decides, runs it, and reports", self._follow)
            await self._do("The finding, as the agent reads it", self._finding)
            await self._do("The agent asks about a directory no rule names", self._refused)
            await self._do("What each node wrote down, in SQL", self._audit)

    async def _do(self, title: str, work: Callable[[], Awaitable[str]]) -> None:
        self._step = StepReport(title=title)
        self.report.steps.append(self._step)
        self._screen.step(len(self.report.steps), title)
        begun = self._clock.monotonic()
        try:
            self._step.checked = await work()
        finally:
            self._step.seconds = self._clock.monotonic() - begun
        self._screen.checked(self._step.checked, self._step.seconds)

    def _fact(self, label: str, text: str) -> None:
        self._step.facts.append((label, text))
        self._screen.fact(label, text)

    async def _tailnet(self) -> str:
        self._screen.waiting("starting the control server and relay")
        await self._stage.testnet.start()
        url = self._stage.testnet.control_url
        self._fact("control server", f"{url}, with its own relay")
        host = urlsplit(url).hostname or ""
        require(ip_address(host).is_loopback, "the control server is not on loopback", url)
        known = await self._stage.testnet.nodes()
        require(not known, "the tailnet is not a new one", known)
        return "it answers, on a loopback address, and knows no node yet"

    async def _daemons(self) -> str:
        stage, testnet = self._stage, self._stage.testnet
        self._screen.waiting("starting both daemons; their nodes log in with an auth key")
        url = testnet.control_url
        configs = (laptop_config(url, self._plan), builder_config(url, self._plan, self._sample))
        keys = [await testnet.auth_key(USER) for _ in stage.nodes]
        started = await asyncio.gather(
            *(stage.start(*each) for each in zip(stage.nodes, configs, keys, strict=True)),
            return_exceptions=True,
        )
        for failure in started:
            if failure is not None:
                raise failure
        for node in stage.nodes:
            status = node.status
            self._fact(
                node.name,
                f"process {node.pid}, {status.addresses[0]}, node {status.node_id}, "
                f"key {status.fingerprint}",
            )
        first, second = (node.status for node in stage.nodes)
        require(first.pid != second.pid, "both nodes are one process", first.pid)
        require(first.state_dir != second.state_dir, "both nodes have one state directory")
        require(first.fingerprint != second.fingerprint, "both nodes have one key")
        on_it = {str(node.node_id): node.user for node in await testnet.nodes()}
        wanted = {first.node_id: USER, second.node_id: USER}
        require(on_it == wanted, "the tailnet does not know exactly these two nodes", on_it)
        return f"the control server knows two nodes of {USER}, these"

    async def _agent(self, stack: AsyncExitStack, errors: TextIO) -> str:
        laptop = self._stage.laptop
        self._screen.waiting("an MCP client starts `cmesh mcp` over stdio")
        driver = AgentDriver(
            [sys.executable, "-I", "-m", "cmesh", "mcp"],
            environment={**laptop.environment(), "HOME": str(laptop.home)},
            directory=laptop.home,
            errors=errors,
        )
        self._driver = await stack.enter_async_context(driver)
        self._fact("MCP", f"{driver.protocol} over stdio; tools {', '.join(driver.tools)}")
        peers = await self._peers()
        named = [(unfenced(str(peer["name"])), unfenced(str(peer.get("user")))) for peer in peers]
        require(named == [("builder", USER)], "the agent does not see one other machine", named)
        require("delegate" in driver.tools, "the agent has no tool to delegate", driver.tools)
        self._fact("list_peers", f"{named[0][0]}, of {named[0][1]}, link {peers[0]['link']}")
        return "the agent sees the one other machine, and has `delegate`"

    async def _peers(self) -> list[Mapping[str, object]]:
        """Return laptop's peers by the agent's own call; a netmap may lag behind the login."""
        async with asyncio.timeout(CONTACT_LIMIT_S):
            while True:
                answer = await asked(self._driver, "list_peers")
                if peers := answer.fields.get("peers"):
                    return cast("list[Mapping[str, object]]", peers)
                await asyncio.sleep(POLL_S)

    async def _ask(self) -> str:
        answer = await self._delegate(str(self._sample.directory), wait_s=0)
        task_id, state = answer.get("task_id"), answer.get("state")
        self.report.task_id = task_id
        self._fact("outbound rule", f'"{answer.get("rule")}" on laptop allows it')
        require(answer.get("rule") == OUTBOUND_RULE, "another rule allowed it", answer.text)
        self._fact("link", "over the tailnet to builder, which refuses it for now:")
        self._fact("", one_line(answer.get("reason").partition(";")[0]))
        self._fact("task", f"{task_id}, {state}: {answer.get('witness')}")
        require(
            (state, answer.get("code")) == ("submitting", "peer_untrusted"),
            "builder took a task from a node its owner has never seen",
            answer.text,
        )
        on_builder = await audit.rows(self._stage.builder.client, "SELECT * FROM tasks")
        require(not on_builder, "builder knows of the task already", on_builder)
        return "laptop has committed the task, builder has none"

    async def _trust(self) -> str:
        laptop, builder = self._stage.nodes
        peer = await self._stranger()
        self._fact("whois says", f"{peer.name}, node {peer.node_id}, of {peer.user}")
        self._fact("key it proved", f"{peer.fingerprint}, in a signed handshake")
        self._fact("laptop's own", f"{laptop.status.fingerprint}, by `cmesh status` there")
        require(
            peer.node_id == laptop.status.node_id and peer.user == USER,
            "whois names another node than laptop",
            peer.node_id,
            peer.user,
        )
        require(peer.fingerprint == laptop.status.fingerprint, "the fingerprints differ")
        arguments = TrustArguments(peer=peer.name, fingerprint=peer.fingerprint)
        trusted = await builder.client.trust_peer(arguments)
        self._fact("the owner", f"cmesh peers trust {peer.name}")
        require(trusted.trust == "trusted", "the key is not pinned", trusted.trust)
        return "the fingerprints are equal, the key is pinned"

    async def _stranger(self) -> PeerView:
        """Return laptop as builder's owner sees it once it has shown its key."""
        seen: list[PeerView] = []
        async with asyncio.timeout(CONTACT_LIMIT_S):
            while not (seen and seen[0].fingerprint):
                seen = (await self._stage.builder.client.list_peers()).peers
                await asyncio.sleep(POLL_S)
        require(seen[0].trust == "waiting", "the first contact does not wait", seen[0].trust)
        return seen[0]

    async def _follow(self) -> str:
        follower = Follower(self._driver, self._stage, self._fact, self.report.task_id)
        self._screen.waiting("laptop dials again")
        answer = await follower.news("submitting", 0)
        self._screen.waiting(f"{self._plan.runner} works on builder")
        answer = await follower.until_ended(answer, self._plan.runtime_s + REPORT_LIMIT_S)
        recorded = await audit.states(self._stage.builder.client, self.report.task_id)
        self._fact("builder's log", "what each state rests on:")
        for row in recorded:
            self._fact(f"  +{row['after_ms']} ms", f"{row['state']}: {row['witness']}")
        self.report.states = [str(row["state"]) for row in recorded]
        require(
            answer.get("state") == "succeeded",
            "the task did not succeed",
            answer.get("reason") or answer.get("summary"),
        )
        require(
            self.report.states == ["queued", "queued", "running", "succeeded"],
            "builder did not record each state once",
            self.report.states,
        )
        view = await self._stage.builder.client.get_task(TaskArguments(task_id=self.report.task_id))
        self._fact("held by", view.profile_enforced)
        held = view.profile_enforced.startswith("tier") == (self._plan.profile is Profile.QUERY)
        require(held, "the profile was not enforced as planned", view.profile_enforced)
        return "one user, one rule, one start; each state has its witness"

    async def _finding(self) -> str:
        answer = await asked(self._driver, "get_result", task_id=self.report.task_id)
        self.report.finding = unfenced(answer.text)
        self._screen.block(self.report.finding)
        wanted = self._sample.core if self._plan.agent else self._sample.facts
        missing = [fact for fact in wanted if fact not in self.report.finding]
        require(not missing, "the finding is not from this run's files: it lacks", missing)
        return f"it names what is in this run's files only: {', '.join(wanted)}"

    async def _refused(self) -> str:
        worker = self._stage.builder.client
        answer = await self._delegate(str(self._sample.outside), wait_s=WAIT_S)
        task_id, state, code = (answer.get(key) for key in ("task_id", "state", "code"))
        self._fact("agent is told", f"{state} [{code}]: {one_line(answer.get('reason'), 300)}")
        decided = await audit.decisions(worker, task_id)
        require(
            (state, code) == ("denied", "policy_denied") and len(decided) == 1,
            "the directory was not refused",
            answer.text,
        )
        failed = cast("list[dict[str, str]]", json.loads(str(decided[0]["failed"])))
        for one in failed:
            wanted = f"{one['condition']}: wanted {one['wanted']}, got {one['got']}"
            self._fact("builder knows", wanted)
        recorded = [str(row["state"]) for row in await audit.states(worker, task_id)]
        require(decided[0]["effect"] == "deny", "builder's own record says otherwise", decided)
        require([one["condition"] for one in failed] == ["path"], "refused for more", failed)
        require(recorded == ["denied"], "builder recorded more than the refusal", recorded)
        self.report.refused = {
            "task_id": task_id,
            "code": code,
            "condition": "path",
            "wanted": failed[0]["wanted"],
            "got": failed[0]["got"],
        }
        return "policy_denied; builder's record has no start, so no process ran"

    async def _audit(self) -> str:
        laptop, builder = self._stage.nodes
        agreed = await audit.agreement(laptop.client, builder.client)
        answer = await asked(self._driver, "query", sql=LAPTOP_SQL)
        require(not answer.is_error, "the agent's query failed", answer.text)
        table = [json.loads(line) for line in answer.get("rows").splitlines()]
        self._table("laptop", LAPTOP_SQL, cast("list[str]", answer.fields["columns"]), table)
        mine = await audit.rows(builder.client, BUILDER_SQL)
        self._table("builder", BUILDER_SQL, list(mine[0]), [list(row.values()) for row in mine])
        ids = [row["task_id"] for row in agreed]
        require(
            ids == [self.report.task_id, self.report.refused["task_id"]],
            "the records are of other tasks",
            ids,
        )
        chains = [await audit.verify_chain(node.client, node.name) for node in self._stage.nodes]
        # Later rows do not matter: a receipt names a row, and that row cannot change.
        head = await audit.head_at(laptop.client, laptop.name, chains[1])
        self._fact("both tasks", "same id, payload hash, state, output and two signatures")
        self._fact("chains", f"{len(chains[0])} and {len(chains[1])} rows, recomputed here")
        self._fact("receipt", f"laptop holds builder's signed head, row {head} of its chain")
        self.report.audit = {
            "tasks": len(agreed),
            "equal": list(audit.AGREED),
            "rows": {"laptop": len(chains[0]), "builder": len(chains[1])},
            "chain": "verified",
            "receipt_row": head,
        }
        return "the two nodes' records agree, and neither chain was changed"

    def _table(self, name: str, sql: str, columns: list[str], table: list[list[object]]) -> None:
        self._fact(name, f'cmesh sql "{sql}"')
        # As `cmesh sql` prints them, so that who asks the same sees the same.
        cells = [["" if cell is None else one_line(str(cell)) for cell in row] for row in table]
        self._screen.rows(columns, cells)

    async def _delegate(self, directory: str, *, wait_s: int) -> Answer:
        plan = self._plan
        shown = f'delegate(peer="builder", runner="{plan.runner}", profile="{plan.profile}", '
        self._fact("tool call", f'{shown}directory="{directory}", prompt="{plan.prompt[:33]}…")')
        answer = await asked(
            self._driver,
            "delegate",
            peer="builder",
            prompt=plan.prompt,
            directory=directory,
            runner=plan.runner,
            profile=plan.profile,
            timeout_s=plan.runtime_s,
            wait_s=wait_s,
        )
        require(not answer.is_error, "the call was refused", answer.text)
        return answer
