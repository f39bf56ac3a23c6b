"""The runners of this worker: manifests joined with the configuration and the machine.

Says why a runner cannot run. Reads keys, and hands them on only in an agent's environment.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.config import CommandConfig, RunnerConfig
from cmesh.errors import RunnerUnavailable
from cmesh.model import Profile
from cmesh.nearest import nearest
from cmesh.paths import key_file as key_file_of
from cmesh.paths import login_file as login_file_of
from cmesh.runner.acceptance import Command, command_of
from cmesh.runner.logins import load, require_usable
from cmesh.runner.manifest import Manifest, Session
from cmesh.runner.own_manifests import COMMAND, Manifests
from cmesh.runner.programs import Programs
from cmesh.runner.reader import Reader
from cmesh.runner.readers import reader_of
from cmesh.runner.runner import Runner, key_of
from cmesh.runner.standing import SelfTest
from cmesh.runner.verdicts import Verdicts, subject_of

__all__ = ["RunnerStatus", "Runners"]

_PREFIX = f"{COMMAND}:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStatus:
    """One line of the runners list; `reason` and `hint` say why it is not available.

    Attributes:
        code: of that reason.
        ends_at: when its owner must log in again; None = nobody knows of a time.
        untested: why it runs in `full` only; None = it does not.
        test: what is known by its self-test here.
    """

    name: str
    available: bool
    version: str = ""
    credential: str = ""
    reason: str = ""
    hint: str = ""
    code: str = ""
    untested: RunnerUnavailable | None = None
    test: SelfTest = field(default_factory=SelfTest)
    ends_at: datetime | None = None


class Runners:
    """All runners by name: one for each agent and one `command:NAME` for each configured command.

    `environment` is the daemon's; only variables a command names in `env_pass` are taken.
    `verdicts` are those of self-tests on this machine; None = there are none. `manifests` are all
    of this machine; None = the built-in ones.

    Attributes:
        state: cmesh's own directory, with the keys of `cmesh runners login`; None = there are none.
        now: the time, by which a login has expired.
        seen: what the last `status` returned; empty before the first.
    """

    def __init__(
        self,
        config_runners: Mapping[str, RunnerConfig],
        config_commands: Mapping[str, CommandConfig],
        *,
        environment: Mapping[str, str] | None = None,
        programs: Programs | None = None,
        verdicts: Verdicts | None = None,
        manifests: Manifests | None = None,
    ) -> None:
        self.state: Path | None = None
        self.now: Callable[[], datetime] = SystemClock().now
        self.seen: tuple[RunnerStatus, ...] = ()
        self._runners = config_runners
        self._commands = config_commands
        self._environment = environment or {}
        self._programs = programs or Programs()
        self._verdicts = verdicts
        self.manifests = manifests or Manifests()
        self._by_name = self.manifests.by_name

    @property
    def search_path(self) -> str:
        """Return where programs are looked for. May block like `resolve`."""
        return self._programs.search_path

    def names(self) -> tuple[str, ...]:
        """Return every known name, available or not."""
        commands = (f"{_PREFIX}{name}" for name in sorted(self._commands))
        return (*self.manifests.agents, *commands)

    def resolve(self, name: str) -> Runner:
        """Return a runner that can start now.

        The first call may ask the machine for programs and versions, which blocks; after
        `refresh` it does not.

        Raises:
            RunnerUnavailable: there is none of this name, or it cannot run here; says why.
        """
        if name not in self.names():
            near = nearest(name, self.names())
            raise RunnerUnavailable(
                f"no runner `{name}` on this machine",
                hint=f"known runners: {', '.join(near or self.names())}",
            )
        if name.startswith(_PREFIX):
            return self._command(name, self._commands[name.removeprefix(_PREFIX)])
        if (error := self.manifests.broken.get(name)) is not None:
            raise RunnerUnavailable(f"runner `{name}`: {error.message}", hint=error.hint)
        return self._agent(self._by_name[name], self._runners.get(name, RunnerConfig()))

    def find(self, name: str) -> str:
        """Return the program of a known runner; empty = it is not here. May block like `resolve`."""
        if name.startswith(_PREFIX):
            return self._programs.find(self._commands[name.removeprefix(_PREFIX)].argv[0])
        config = self._runners.get(name, RunnerConfig())
        manifest = self._by_name.get(name)  # None: its file is broken
        return self._programs.find(config.program or manifest.program) if manifest else ""

    def acceptance(self, argv: Sequence[str], directory: str) -> Command:
        """Return what to run for an acceptance command in a directory. Blocks on the disk.

        Raises:
            TaskRefused: its program is not on this machine.
        """
        return command_of(argv, directory, self._programs)

    def reader(self, name: str) -> Reader:
        """Return a new reader for one run of `name`'s output, also when it cannot run here now."""
        return reader_of(self._by_name.get(name, self._by_name[COMMAND]).parser)

    def session(self, name: str) -> Session | None:
        """Return how `name` keeps a conversation; None = it cannot be followed up."""
        manifest = self._by_name.get(name)
        return manifest.session if manifest else None

    def status(self) -> tuple[RunnerStatus, ...]:
        """Return what can run here and why the rest cannot; may block like `resolve`."""
        self.seen = tuple(self._status(name) for name in self.names())
        return self.seen

    async def refresh(self) -> tuple[RunnerStatus, ...]:
        """Ask the machine in a thread, so that later calls answer at once."""
        return await asyncio.to_thread(self.status)

    def _status(self, name: str) -> RunnerStatus:
        try:
            runner = self.resolve(name)
        except RunnerUnavailable as error:
            return RunnerStatus(
                name=name, available=False, code=error.code, reason=str(error), hint=error.hint
            )
        return RunnerStatus(
            name=name,
            available=True,
            version=runner.version,
            credential=runner.credential(Profile.QUERY),
            untested=runner.untested(),
            test=runner.test,
            ends_at=runner.ends_at,
        )

    def _command(self, name: str, config: CommandConfig) -> Runner:
        program = self._programs.find(config.argv[0])
        if not program:
            raise RunnerUnavailable(
                f"runner `{name}`: program `{config.argv[0]}` is not on this machine",
                hint=f"correct `argv` of [commands.{name.removeprefix(_PREFIX)}]",
            )
        passed = [key for key in config.env_pass if key in self._environment]
        return Runner(
            name=name,
            version="",
            reports_cost=False,
            manifest=self._by_name[COMMAND],
            program=program,
            arguments=config.argv[1:],
            search_path=self._programs.search_path,
            env={key: self._environment[key] for key in passed},
        )

    def _agent(self, manifest: Manifest, config: RunnerConfig) -> Runner:
        name = manifest.name
        wanted = config.program or manifest.program
        program = self._programs.find(wanted)
        if not program:
            raise RunnerUnavailable(
                f"runner `{name}`: program `{wanted}` is not on this machine",
                hint=f"{manifest.install_hint or 'install it'}, or {self._place_of_program(name)}",
            )
        env, key_file = dict(config.env), config.key_file
        login, login_file = None, self.login_file(name)
        if manifest.credential is not None and login_file is not None:
            login, key_file = load(login_file), login_file
            require_usable(name, login, self.now())
            manifest = manifest.by_account()
        elif manifest.credential is not None:
            key_file = self._key_file(name, config)
            if key_file is None:
                raise _keyless(manifest)
            key_of(name, key_file)
        address = manifest.credential.base_url_variable if manifest.credential else ""
        if config.base_url and address:
            env[address] = config.base_url
        version = ""
        if manifest.version_argv:  # else the agent itself would be started
            version = self._programs.version(program, manifest.version_argv, manifest.fixed_env())
        return Runner(
            name=name,
            version=version,
            reports_cost=manifest.reports_cost,
            manifest=manifest,
            own=name in self.manifests.own,
            program=program,
            arguments=(),
            search_path=self._programs.search_path,
            model=config.model,
            base_url=config.base_url,
            env=env,
            key_file=key_file,
            account=login is not None,
            ends_at=login.ends_at if login else None,
            renews=login is not None and login.renews,
            idle_s=config.idle_s or manifest.idle_s,
            test=self._tested(manifest, program, version, config.model, env),
        )

    def _place_of_program(self, name: str) -> str:
        """Return what to correct so that another program is looked for."""
        own = self.manifests.own.get(name)
        if own is None or self._runners.get(name, RunnerConfig()).program:
            return f"set `program` of [runners.{name}] in config.toml"
        return f"correct `program` in {own}"

    def _key_file(self, name: str, config: RunnerConfig) -> Path | None:
        """Return where a runner's key is: where the configuration says, else that of a login."""
        if config.key_file is not None or self.state is None:
            return config.key_file
        place = key_file_of(self.state, name)
        return place if place.exists() else None

    def login_file(self, name: str) -> Path | None:
        """Return where the login of an account is that a runner uses; None = it uses none.

        Of a login that is not used because the configuration names a key, nothing is said.
        """
        manifest, config = self._by_name.get(name), self._runners.get(name, RunnerConfig())
        credential = manifest.credential if manifest else None
        if self.state is None or config.key_file is not None or not credential:
            return None
        place = login_file_of(self.state, name)
        return place if credential.account is not None and place.exists() else None

    def key_file_named(self, name: str) -> bool:
        """Say whether the configuration names a key file for a runner."""
        return self._runners.get(name, RunnerConfig()).key_file is not None

    def takes_key(self, name: str) -> bool:
        """Say whether the manifest of a runner names a credential."""
        manifest = self._by_name.get(name)
        return manifest is not None and manifest.credential is not None

    def _tested(
        self, manifest: Manifest, program: str, version: str, model: str, env: Mapping[str, str]
    ) -> SelfTest:
        if self._verdicts is None:
            return SelfTest()
        try:
            path = self._programs.search_path
            subject = subject_of(manifest, program, version, model=model, env=env, search_path=path)
            return self._verdicts.of(manifest.name, subject)
        except OSError:  # it goes just now: what is not there is not tested either
            return SelfTest(state="pending")


def _keyless(manifest: Manifest) -> RunnerUnavailable:
    name, account = manifest.name, manifest.credential and manifest.credential.account
    login = f"cmesh runners login {name}"
    ways = f"`{login}` with your account, or `{login} --key`" if account else f"{login} --key"
    return RunnerUnavailable(
        f"runner `{name}` has no key",
        hint=f"{ways}; or put a key in a file of mode 0600 and set `key_file` of [runners.{name}]",
    )
