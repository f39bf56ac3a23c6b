"""What holds this worker's tasks: found out once, asked for each task, put round its launch.

Joins profiles and launches; `cmesh.sandbox` knows how. It never lets a task run with less than
its profile, and never knows who asked for it.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmesh.beneath import Judged, open_judged, open_part
from cmesh.config import SandboxConfig
from cmesh.errors import PathRefused, SandboxUnavailable
from cmesh.model import Profile
from cmesh.policy.profiles import BUILT_IN, NamedProfile, ProfileLimits
from cmesh.runner.acceptance import Command, record
from cmesh.runner.copies import Copy, Start, find_git
from cmesh.runner.launch import Disk, Launch
from cmesh.runner.programs import Needs
from cmesh.sandbox.plan import plan, require_fit
from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.profile import MIB, PROFILES, Beside, Parts, SandboxSpec, is_below
from cmesh.sandbox.tier import Accept, Enforcement, require, require_network

__all__ = ["Relay", "Sandboxes", "limits_of", "parts_of"]

_COPIED = frozenset({Profile.EDIT, Profile.BUILD})
"""Profiles whose task works on a copy of its own."""

_WHY = {
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "part of it is no directory",
    errno.ELOOP: "part of it is a link, which may lead to what is not listed",
    errno.EINVAL: "it is neither a file nor a directory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """How a task reaches the daemon's proxy, its only way out.

    Attributes:
        port: TCP port on the loopback of the task's own network namespace.
        socket: absolute path of the daemon's socket that takes over the connections.
    """

    port: int
    socket: Path


class Sandboxes:
    """The sandbox of one machine; used from one event loop.

    Attributes:
        found: what there is, once a trial start has shown it; None = not known yet.
    """

    def __init__(
        self, hidden: Sequence[Path], find: Callable[[], Enforcement] = find_enforcement
    ) -> None:
        """`hidden` are the directories that no task may see, whatever lies above them."""
        self.found: Enforcement | None = None
        self._hidden = hidden
        self._find = find
        self._finding: asyncio.Task[Enforcement] | None = None

    async def find(self) -> Enforcement:
        """Return what there is; the first call tries it out in a thread."""
        if self._finding is None:
            self._finding = asyncio.create_task(asyncio.to_thread(self._find))
        found = await asyncio.shield(self._finding)
        self.found = found
        return found

    def runs(self, profile: Profile, config: SandboxConfig) -> bool:
        """Say whether a task of a profile may run here; nothing but `full` before it is known."""
        try:
            self.check(profile, config)
        except SandboxUnavailable:
            return False
        return True

    def check(self, profile: Profile, config: SandboxConfig) -> Sequence[str]:
        """Return what is left over when a task of a profile runs here.

        Raises:
            SandboxUnavailable: it may not, or it is not known yet what there is.
        """
        found = self.found or Enforcement(why="not known yet")
        left_over = require(profile, found, _accept(config))
        if profile in _COPIED:
            find_git()
        return left_over

    async def require(
        self, profile: Profile, directory: str, config: SandboxConfig
    ) -> Sequence[str]:
        """Return what is left over when a task runs here in a directory, links resolved.

        Raises:
            SandboxUnavailable: it may not, or the directory cannot be shown to it.
        """
        if profile is Profile.FULL:
            return ()
        found = await self.find()
        left_over = self.check(profile, config)
        hidden = await asyncio.to_thread(self._real_hidden)
        require_fit(directory, hidden, found)
        return left_over

    def require_network(self) -> None:
        """Check that a task can have a way to the proxy here; after `require`.

        Raises:
            SandboxUnavailable: it cannot.
        """
        require_network(self.found or Enforcement(why="not known yet"))

    def require_parts(self, directory: str, judged: Judged, own: NamedProfile) -> None:
        """Check that what a profile lists of a directory is there to be shown. Blocks on the disk.

        By name and kind only: a task's start opens it again, below the same directory.

        Raises:
            PathRefused: something of it is not, it is a link, or it is cmesh's own; names it, for
                the owner alone.
            SandboxUnavailable: it is not known yet what there is.
            OSError: the directory is another one now.
        """
        paths = (*own.read, *own.write)
        if not paths:
            return
        hidden, found = self._real_hidden(), self._known()
        root = open_judged(judged)
        try:
            for path in paths:
                require_fit(f"{directory}/{path}", hidden, found)
                os.close(open_part(root, path))
        except SandboxUnavailable as error:
            # By its kind, since its words name what the owner lists.
            why = f"`[profiles.{own.name}]` lists what cannot be shown: {error.message}"
            raise PathRefused(why, hint=error.hint) from error
        except OSError as error:
            why = _WHY.get(error.errno or 0, error.strerror)
            raise PathRefused(
                f"`[profiles.{own.name}]` lists `{error.filename}`, and in `{directory}` {why};"
                " put it there, or take it off the list",
                hint="",
            ) from error
        finally:
            os.close(root)

    def copy(
        self,
        task: Path,
        source: str,
        judged: Judged,
        own: NamedProfile,
        *,
        start: Start | None = None,
        binds: Sequence[str] = (),
    ) -> Copy | None:
        """Return the copy that a task works on, in its directory `task`; None = it has none.

        Without `start` it begins with the source's commit. `binds` are what a rule lists of folders that git ignores. Blocks on the disk.

        Raises:
            SandboxUnavailable: it is not known yet what can hold a task here, or that cannot show
                folders beside a copy.
            PathRefused: one of them is a link or a file.
            OSError: the directory is another one now.
        """
        if own.base not in _COPIED:
            return None
        return Copy(
            task=task,
            source=source,
            judged=judged,
            found=self._known(),
            hidden=self._real_hidden(),
            parts=parts_of(own),
            start=start or Start(),
            binds=self._binds(source, judged, own, binds),
        )

    def moves(self, profile: Profile) -> bool:
        """Say whether each task of a profile sees its directory under another name here.

        So it is where a task has a copy, and no mounts that put it under the source's name.
        """
        found = self.found
        return profile in _COPIED and found is not None and not (found.bwrap and found.netns)

    def _binds(
        self, source: str, judged: Judged, own: NamedProfile, names: Sequence[str]
    ) -> list[str]:
        """Return those of the listed folders that are there, and that the profile does not hide."""
        there: list[str] = []
        wanted = [name for name in names if not own.read or is_below(name, own.read)]
        found, hidden = self._known(), self._real_hidden()
        root = open_judged(judged)
        try:
            for name in wanted:
                try:
                    fd = open_part(root, name)
                except OSError as error:
                    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                        continue
                    why = f"`bind_ignored` lists `{name}`, and in `{source}` {_WHY.get(error.errno or 0, error.strerror)}"
                    raise PathRefused(why, hint="") from error
                is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
                os.close(fd)
                if not is_folder:
                    raise PathRefused(f"`bind_ignored` lists `{name}`, which is a file", hint="")
                require_fit(f"{source}/{name}", hidden, found)
                there.append(name)
        finally:
            os.close(root)
        if there and not (found.bwrap and found.netns):
            raise SandboxUnavailable(
                "its rule shows ignored folders beside the copy, which needs bubblewrap",
                hint=found.hint,
            )
        return there

    def confine(
        self,
        launch: Launch,
        own: NamedProfile,
        needs: Needs,
        relay: Relay | None = None,
        *,
        copy: Copy | None = None,
        accept: Command | None = None,
    ) -> Launch:
        """Return the launch with what holds it; that of `full` as it is. Blocks on the disk.

        Args:
            launch: its `HOME` and `TMPDIR` become the task's own places to write.
            own: the rule's profile, whose base `require` has allowed.
            needs: what must be there to read: for the program, and by the owner's word.
            relay: the way to the proxy; None = the task has no network.
            copy: what it works on in the place of its directory, with `launch` in there.
            accept: the acceptance command, to be held likewise.

        Raises:
            SandboxUnavailable: nothing here can hold it.
            OSError: the directory is another one now, or the disk refuses.
        """
        profile, parts = own.base, parts_of(own)
        data = PROFILES.get(profile)
        if data is None:
            return launch
        if data.writes_directory and copy is None:
            raise SandboxUnavailable(f"profile `{profile}` needs a copy to work on")
        objects = copy.objects() if copy else None
        session = (str(launch.session.files),) if launch.session else ()
        spec = SandboxSpec(
            directory=launch.cwd,
            writes_directory=data.writes_directory,
            home=launch.env["HOME"],
            tmp=launch.env["TMPDIR"],
            write=session,
            read=needs.read,
            links=needs.links,
            hidden=tuple(self._real_hidden()),
            port=relay.port if relay else None,
            limits=limits_of(profile, own.limits),
            copy=copy.path if copy else "",
            # A history shows what the parts leave out.
            objects=None if parts.read else objects,
            parts=parts,
            beside=Beside(judged=copy.judged, names=tuple(copy.binds)) if copy else None,
        )
        found = self._known()
        if relay is not None:
            # INVARIANT: a relay listens in a network namespace of the task's own or nowhere.
            require_network(found)
        way: Mapping[str, object] | None = (
            {"port": relay.port, "socket": str(relay.socket)} if relay else None
        )
        places = (spec.home, spec.tmp, *session)
        most = own.limits.disk_mib * MIB if own.limits else None
        disk = None if most is None else Disk(places=places, copy=spec.copy, most_bytes=most)
        launch = replace(launch, sandbox=plan(spec, found, way), disk=disk)
        if copy is not None:
            copy.lay_out()
            before, after = copy.steps(objects, limits_of(Profile.QUERY))
            # Where only Landlock holds it git would stop at files of `/etc` that it may not read.
            env = {**launch.env, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
            # What is judged is what is copied; the copy is of the task's own making.
            launch = replace(launch, env=env, judged=None, before=before, after=after)
        if accept is None:
            return launch
        return replace(launch, accept=record(accept, launch, spec, found))

    def _known(self) -> Enforcement:
        if self.found is None:
            raise SandboxUnavailable("it is not known yet what can hold a task here")
        return self.found

    def _real_hidden(self) -> list[str]:
        return [os.path.realpath(path) for path in self._hidden]


def parts_of(own: NamedProfile) -> Parts:
    """Return what a profile shows and lets change of a directory."""
    return Parts(read=own.read, write=own.write)


def limits_of(profile: Profile, owners: ProfileLimits | None = None) -> Mapping[str, int]:
    """Return the limits of a task's processes by name of RLIMIT_*, in bytes where they are sizes.

    `owners` are those of the rule's profile; None = what the built-in one has.
    """
    limits = owners or BUILT_IN[profile].limits
    own: Mapping[str, int] = {}
    if limits is not None:
        own = {
            "AS": limits.memory_mib * MIB,
            "FSIZE": limits.file_mib * MIB,
            "NOFILE": limits.open_files,
            "NPROC": limits.processes,
        }
    return {**PROFILES[profile].limits, **own}


def _accept(config: SandboxConfig) -> Accept:
    return Accept(tier2_edit=config.accept_tier2_edit, tier2_network=config.accept_tier2_network)
