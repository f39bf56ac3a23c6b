"""One runner that can start now: what to start for a task, and what the task holds.

Reads its key, and hands it on only in an agent's environment.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from cmesh.errors import RunnerUnavailable
from cmesh.model import Profile, TaskSpec
from cmesh.runner.command import Host, build_launch
from cmesh.runner.egress.credentials import Gateway
from cmesh.runner.egress.network import Network, grant, grant_gateway, inside
from cmesh.runner.key_files import read_key
from cmesh.runner.launch import Launch
from cmesh.runner.manifest import Manifest
from cmesh.runner.programs import Needs, needs_of
from cmesh.runner.reader import Reader
from cmesh.runner.readers import reader_of
from cmesh.runner.sessions import Place
from cmesh.runner.standing import SelfTest, refusal

__all__ = ["CredentialForm", "Runner", "key_of"]

CredentialForm = Literal["none", "gateway", "exposed"]
"""What a task holds: nothing, its own credential for the daemon's gateway, or the owner's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A runner that can start now.

    Attributes:
        version: what the program says; empty for commands.
        idle_s: seconds that it may say nothing; None = without end.
        own: its manifest is the owner's.
        account: what is in `key_file` is the login of an account, which no task may hold.
        ends_at: as in `RunnerStatus`; `renews`: the daemon renews it.
        behind_gateway: False = a task in a sandbox holds the key too, whatever the manifest says.
        test: what is known of this very program by its self-test here.
    """

    name: str
    version: str
    reports_cost: bool
    manifest: Manifest
    own: bool = False
    program: str
    arguments: tuple[str, ...]
    search_path: str
    model: str = ""
    base_url: str = ""
    env: Mapping[str, str]
    key_file: Path | None = None
    account: bool = False
    ends_at: datetime | None = None
    renews: bool = False
    idle_s: int | None = None
    behind_gateway: bool = True
    test: SelfTest = field(default_factory=SelfTest)

    def gateway(self, profile: Profile) -> Gateway | None:
        """Return how the daemon asks the model of a task; None = the task does it with the key.

        What runs in `full` runs as the owner, and could read the key's file all the same.
        """
        credential = self.manifest.credential
        if profile is Profile.FULL or credential is None or self.key_file is None:
            return None
        return credential.gateway if self.behind_gateway else None

    def credential(self, profile: Profile) -> CredentialForm:
        """Return what a task of a profile holds of the owner's credential."""
        if self.manifest.credential is None:
            return "none"
        return "gateway" if self.gateway(profile) else "exposed"

    def launch(
        self,
        spec: TaskSpec,
        directory: Path,
        home: Path,
        session: Place | None = None,
        preface: str = "",
    ) -> Launch:
        """Return what to start for `spec`; reads the key file if the task is to hold the key.

        `directory` is the task's own, `home` the agent's private home inside it, `session`
        where its conversation is kept; None keeps it in the home, and it goes with that.
        `preface` is what an agent is told beside the prompt.

        Raises:
            RunnerUnavailable: the key cannot be read, or the `base_url` not be reached.
            SandboxUnavailable: the runner does not have the profile here.
            UsageError: the task holds a NUL character.
        """
        env = dict(self.env)
        credential = self.manifest.credential
        if credential is not None and self.key_file is not None:
            held = self.gateway(spec.profile) is None
            # With a gateway the way out (`variables`) says the task's own.
            env[credential.variable] = key_of(self.name, self.key_file) if held else ""
        host = Host(
            program=self.program,
            arguments=self.arguments,
            search_path=self.search_path,
            env=env,
            home=str(home),
            tmp=str(directory / "tmp"),
            model=self.model,
            base_url=self._address(spec.profile),
            session=session if self.manifest.session else None,
            preface=preface,
        )
        return replace(build_launch(spec, self.manifest, host), idle_s=self.idle_s)

    def untested(self) -> RunnerUnavailable | None:
        """Say why the program may not run in a sandboxed profile; None = it may.

        What a directory can do to an agent depends on its version, so one that neither we nor
        its self-test here have tried is not taken.
        """
        return refusal(self.name, self.version, self.manifest.versions, self.test, own=self.own)

    def check_directory(self, directory: str) -> None:
        """Check that no name stands there that the program would act on. Blocks on the disk.

        Raises:
            RunnerUnavailable: one does; says which.
        """
        found = _found_above(self.manifest.refuses, Path(directory))
        if found is not None:
            raise RunnerUnavailable(
                f"runner `{self.name}` would act on `{found}`, which is part of the directory",
                hint="take it away, or use another runner for this directory",
            )

    def needs(self) -> Needs:
        """Return what must be there for the program to start in a sandbox. Blocks on the disk."""
        return needs_of(self.program, self.search_path)

    def network(self, more: Sequence[str] = ()) -> Network:
        """Return the network of a new task in a sandbox; `more` are hosts that its profile adds.

        Raises:
            RunnerUnavailable: the owner's `base_url` cannot be reached from one.
        """
        gateway = self.gateway(Profile.QUERY)
        if gateway is not None and self.key_file is not None:
            return grant_gateway(
                self.name,
                gateway,
                self.key_file,
                account=self.account,
                base_url=self.base_url,
                more=more,
            )
        hosts = self.manifest.network.hosts
        return grant(self.name, hosts, base_url=self.base_url, more=more)

    def _address(self, profile: Profile) -> str:
        """Return the URL of the model's API as a task of a profile sees it."""
        if profile is Profile.FULL:
            return self.base_url
        network = self.network()
        if network.gate is not None:
            return inside(network.gate.path)
        return self.base_url if network.model is None else inside(self.base_url)

    def reader(self) -> Reader:
        """Return a new reader for one run's output."""
        return reader_of(self.manifest.parser)


def key_of(name: str, path: Path) -> str:
    """Return the key in a runner's key file.

    Raises:
        RunnerUnavailable: it cannot be read; says whose it is.
    """
    try:
        return read_key(path)
    except RunnerUnavailable as error:
        hint = error.hint or f"correct `key_file` of [runners.{name}]"
        raise RunnerUnavailable(f"runner `{name}`: {error.message}", hint=hint) from error


def _found_above(names: Sequence[str], directory: Path) -> Path | None:
    for place in (directory, *directory.parents):
        for name in names:
            if os.path.lexists(place / name):
                return place / name
        if os.path.lexists(place / ".git"):
            break
    return None
