"""The first five minutes, from a release to an answer of another machine, in a bare Debian.

    scripts/first-minutes                       on what lies in dist/, or a wheel made for it
    python scripts/first_minutes.py DIST

Two machines, each with a home that is empty, in namespaces of their own: nothing of this machine's
is seen, and after the installation no network but loopback. On each: `install.sh`, then a real
Claude Code that is told the two sentences of docs/mcp-onboarding-tools.md. Its model is a stand-in
that calls what `next` of cmesh's tools says and nothing else; the person is a script at terminals,
which answers what is asked there and counts it. The tailnet is the local one; the login page is
answered by its administrator. The worker's agent asks `api.anthropic.com`, which leads to the
stand-in. No file of cmesh's is edited.

Needs root, what `bare_tree` needs, openssl, and Claude Code in .cache/npm.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bare_tree import DEBIAN, ENTER, ROOT, User, as_user, furnish, make, timed

sys.path.insert(0, str(ROOT))

from first_people import LIMIT_S, Agent, Terminal

from cmesh.node.testnet import Testnet
from tests.fakes.live_model import LiveModel
from tests.fakes.model_server import ModelServer

WHO = "first_minutes"
LAPTOP, BOX = User(name="laptop", uid=4712), User(name="box", uid=4713)
ME = "me@example.com"
GOAL_S, GOAL_QUESTIONS = 300.0, 4
KEY = "sk-ant-api03-trial-0000"
PROJECT = Path("/srv/myapp")
FINDING = "the old release still holds port 8080"
MODEL_HOST, MODEL_ADDRESS = "api.anthropic.com", "160.79.104.10"
"""An address of the internet's, given to this namespace's loopback: a task may go to no other kind."""

HELP, GO_ON = "help me setup cmesh", "continue helping me configure cmesh for this new node"
INIT = "while sleep 3600 & wait $!; do :; done"
CLAUDE = ROOT / ".cache/npm/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
_NEXT_PEER = "the user installs cmesh on the other machine"


def main(arguments: Sequence[str]) -> int:
    """Run it; 0 = the answer came, with no more time, questions and files than the goal."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments else 2
    dist, *parent = arguments
    if not parent:
        make(WHO)
        script = [sys.executable, str(Path(__file__)), dist, str(os.getpid())]
        return subprocess.run(["unshare", "--net", *script], check=False).returncode
    if not CLAUDE.exists():
        sys.exit(f"{WHO}: `{CLAUDE}` is missing\nhint: scripts/setup-env all")
    furnish(Path(dist), [LAPTOP, BOX])
    _prepare()
    with ModelServer() as model, _https(model.url):
        return asyncio.run(_run(model, outside=parent[0]))


async def _run(model: ModelServer, *, outside: str) -> int:
    scene = Scene(model, outside)
    async with Testnet() as testnet:
        with scene.machine(LAPTOP), scene.machine(BOX):
            began = time.monotonic()
            try:
                answer = await asyncio.to_thread(_walk, scene, testnet, asyncio.get_running_loop())
                took = time.monotonic() - began
                edited = await asyncio.to_thread(scene.edited)
            finally:
                for user in (LAPTOP, BOX):
                    with contextlib.suppress(subprocess.SubprocessError, OSError):
                        scene.run(user, "cmesh", "down")
    print(f"the answer on laptop: {answer}")
    print(f"questions to the person: {len(scene.questions)} ({'; '.join(scene.questions)})")
    print(f"logins of the person: {len(scene.logins)} ({'; '.join(scene.logins)})")
    print(f"files edited by hand: {len(edited)} {' '.join(edited)}".rstrip())
    print(f"from the release to the answer: {took:.1f} s, load {os.getloadavg()[0]:.1f}")
    good = FINDING in answer and took <= GOAL_S and len(scene.questions) <= GOAL_QUESTIONS
    return 0 if good and not edited else 1


def _walk(scene: "Scene", testnet: Testnet, loop: asyncio.AbstractEventLoop) -> str:
    """Be the person, on one machine after the other; return what the laptop's agent says at last."""

    def log_in(user: User, url: str) -> None:
        doing = testnet.complete_login(url, ME)
        asyncio.run_coroutine_threadsafe(doing, loop).result(LIMIT_S)
        scene.logins.append(f"{user.name}: the page")

    def on_the_way(user: User, until: str) -> Callable[[dict[str, Any]], bool]:
        seen: set[str] = set()

        def look(told: dict[str, Any]) -> bool:
            url = str(told.get("login_url", ""))
            if url and url not in seen:
                seen.add(url)
                log_in(user, url)
            return until in str(told.get("user", ""))

        return look

    scene.install(LAPTOP)
    given = {"control_url": testnet.control_url}
    with scene.agent(LAPTOP, HELP, LAPTOP.home / "src/app", given) as agent:
        agent.follow("setup_check", to=_waits)
        scene.confirm(LAPTOP, "yes")
        agent.follow(to=on_the_way(LAPTOP, _NEXT_PEER))
    scene.install(BOX)
    with scene.agent(BOX, GO_ON, PROJECT, given) as agent:
        agent.follow("setup_check", to=_waits)
        scene.confirm(BOX, "yes")
        agent.follow(to=on_the_way(BOX, "cmesh runners login claude"))
        scene.key(BOX)
        agent.follow("setup_check", to=_waits)
        shown = scene.terminal(BOX, "cmesh", "confirm")
        code = shown.until(r"type this code:\s+(\d{3} \d{3})")
        with scene.agent(LAPTOP, GO_ON, LAPTOP.home / "src/app", given) as other:
            other.follow("setup_check", to=_waits)
            scene.confirm(LAPTOP, code)
            shown.end()
            asks = {"prompt": "Why does the deploy fail? <<fake:work>>", "wait_s": 40}
            other.follow(given=asks, to=lambda told: told.get("state") == "succeeded")
            heard = other.follow(to=lambda told: FINDING in str(told))
            return next(line for line in heard.split("\\n") if FINDING in line)


def _prepare() -> None:
    """Make what a person has before cmesh: an agent, a project, and the way to a model."""
    for words in (["link", "set", "lo", "up"], ["addr", "add", f"{MODEL_ADDRESS}/32", "dev", "lo"]):
        subprocess.run(["ip", *words], check=True)
    program = DEBIAN / "usr/local/bin/claude"
    if not program.exists() or program.stat().st_size != CLAUDE.stat().st_size:
        shutil.copyfile(CLAUDE, program)
    program.chmod(0o755)
    for user, place in ((BOX, PROJECT), (LAPTOP, LAPTOP.home / "src/app")):
        inside = DEBIAN / place.relative_to("/")
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir(parents=True)
        if user is BOX:
            (inside / "deploy.log").write_text(f"ERROR {FINDING}\n", "utf-8")
        for path in (inside, *inside.parents):
            if path.is_relative_to(DEBIAN / "home" / user.name) or path == inside:
                os.chown(path, user.uid, user.uid)
    _certificate()
    with (DEBIAN / "etc/hosts").open("a", encoding="utf-8") as hosts:
        hosts.write(f"\n{MODEL_ADDRESS} {MODEL_HOST}\n")


def _certificate() -> None:
    """Make a certificate for the model's name, and let the tree trust it."""
    place = ROOT / ".cache" / "release"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    argv += ["-subj", f"/CN={MODEL_HOST}", "-addext", f"subjectAltName=DNS:{MODEL_HOST}"]
    argv += ["-keyout", str(place / "model.key"), "-out", str(place / "model.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    with (DEBIAN / "etc/ssl/certs/ca-certificates.crt").open("a", encoding="utf-8") as trusted:
        trusted.write((place / "model.pem").read_text("utf-8"))


@contextlib.contextmanager
def _https(url: str) -> Generator[None]:
    """Serve the model under its own name, with TLS, for the gateway of the worker's daemon."""
    place = ROOT / ".cache" / "release"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(place / "model.pem", place / "model.key")
    port = int(url.rpartition(":")[2])
    loop = asyncio.new_event_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            with contextlib.suppress(OSError, NotImplementedError):
                sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = loop.run_until_complete(asyncio.start_server(pass_on, MODEL_ADDRESS, 443, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


class Scene:
    """Two machines, their agents' model, and the person, who counts.

    Attributes:
        questions: what the person answered. logins: the pages opened and keys typed.
    """

    def __init__(self, model: ModelServer, outside: str) -> None:
        self.questions: list[str] = []
        self.logins: list[str] = []
        self._model = model
        self._outside = outside
        self._inits: dict[str, int] = {}
        self._agents = 0
        read = {"tool": "$read", "input": {"file_path": f"{PROJECT}/deploy.log"}}
        model.scripts = {"work": [read, {"text": "It fails: {{last_tool_result}}"}]}

    @contextlib.contextmanager
    def machine(self, user: User) -> Generator[None]:
        """Have a machine: namespaces of its own with the tree as their root."""
        argv = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
        name = f'hostname {user.name} && exec sh -c "$1"'
        argv += ["sh", "-c", ENTER, "sh", str(DEBIAN), "sh", "-c", name, "sh", INIT]
        with subprocess.Popen(argv) as process:
            try:
                self._inits[user.name] = _child(process.pid)
                yield
            finally:
                process.kill()

    def inside(self, user: User, *command: str, more: Mapping[str, str] | None = None) -> list[str]:
        """Return the command line that runs a command on a machine, as its user."""
        variables = {"CMESH_TESTNET": "1", **(more or {})}
        path = f"{user.home}/.local/bin:/usr/local/bin:/usr/bin:/bin"
        argv = ["nsenter", f"--target={self._inits[user.name]}", "--mount", "--uts", "--pid"]
        return [*argv, *as_user(user, command, {"PATH": path, **variables})]

    def run(self, user: User, *command: str) -> str:
        """Run a command on a machine to its end; return what it prints."""
        argv = self.inside(user, *command)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.stdout + done.stderr

    def edited(self) -> list[str]:
        """Return the configurations that are not as the newest change that was confirmed left them."""
        found: list[str] = []
        for user in (LAPTOP, BOX):
            file = user.home / ".config/cmesh/config.toml"
            digest = hashlib.sha256((DEBIAN / file.relative_to("/")).read_bytes()).hexdigest()
            rows = "SELECT data FROM audit WHERE kind = 'setup_applied' ORDER BY ts DESC LIMIT 1"
            if digest not in self.run(user, "cmesh", "sql", "--json", rows):
                found.append(f"{user.name}:{file}")
        return found

    def install(self, user: User) -> None:
        """Install the release, with the package index in reach."""
        argv = self.inside(user, "sh", "/release/install.sh")
        timed(
            WHO,
            f"install.sh on {user.name}",
            ["nsenter", f"--net=/proc/{self._outside}/ns/net", *argv],
        )

    @contextlib.contextmanager
    def agent(
        self, user: User, said: str, place: Path, given: Mapping[str, str]
    ) -> Generator[Agent]:
        """Open an agent's session in a directory, and tell it a sentence."""
        began = time.monotonic()
        self._agents += 1
        name = f"agent{self._agents}"
        live = self._model.live[name] = LiveModel()
        more = {"ANTHROPIC_BASE_URL": self._model.url, "ANTHROPIC_API_KEY": "sk-ant-api03-own"}
        more |= {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        argv = self.inside(
            user, "sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", str(place), "claude", "-p",
            f"{said} <<fake:{name}>>", "--output-format", "json", "--allowedTools", "mcp__cmesh",
            more=more,
        )  # fmt: skip
        output = ROOT / ".cache" / "release" / f"{name}.json"
        with (
            output.open("wb") as file,
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                yield Agent(live, given)
                live.say({"text": "done"})
                process.wait(LIMIT_S)
            except BaseException:
                process.kill()
                print(output.read_text("utf-8")[-2000:], file=sys.stderr)
                raise
        print(f'{user.name}, "{said}": {time.monotonic() - began:.1f} s', flush=True)

    def terminal(self, user: User, *command: str) -> Terminal:
        """Open a terminal of a machine's, and run a command there."""
        return Terminal(self.inside(user, *command, more={"TERM": "dumb"}))

    def confirm(self, user: User, answer: str) -> None:
        """Read the change that waits, at a terminal, and answer it."""
        terminal = self.terminal(user, "cmesh", "confirm")
        terminal.until(r"(\? \[y/N\] |code: )$")
        terminal.type(answer)
        terminal.end()
        what = "yes to the change" if answer == "yes" else "the code, as the yes to both changes"
        self.questions.append(f"{user.name}: {what}")

    def key(self, user: User) -> None:
        """Give the worker's agent its key, at a terminal."""
        terminal = self.terminal(user, "cmesh", "runners", "login", "claude", "--key")
        terminal.until(r"not shown\): $")
        terminal.type(KEY)
        terminal.end()
        self.logins.append(f"{user.name}: the worker's API key")


def _waits(told: dict[str, Any]) -> bool:
    """Say whether a change waits for the person."""
    return told.get("state") == "waiting"


def _child(pid: int) -> int:
    """Return the one child of `unshare --fork`, once the tree is its root."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for one in children.read_text("utf-8").split():
            with contextlib.suppress(OSError):
                if b"sleep 3600" in Path(f"/proc/{one}/cmdline").read_bytes():
                    return int(one)
        time.sleep(0.05)
    raise TimeoutError("a machine did not start")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
