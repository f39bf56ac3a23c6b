"""Where the daemon is, and the one way the relay starts one; standard library only."""

import os

from cmesh.interfaces.mcp.relay_wire import as_object, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
else:
    import _signal  # built in; `signal` would load `enum`

__all__ = ["Starter", "control_socket", "down_mark", "replacing_mark", "state_dir"]

READ_BYTES = 64 * 1024
START_LIMIT_S = 18.0
START_AGAIN_S = 10.0  # after a failure, which calls are told of meanwhile
START_SOON_S = 1.0  # after one that ended well, or was slow: its daemon may be there any moment
SOCKET_PATH_BYTES = 100


def state_dir() -> str:
    """Return the state directory; equal to `cmesh.paths.state_dir` (a test compares them)."""
    named = os.environ.get("CMESH_STATE_DIR")
    if named:
        return os.path.normpath(os.path.join(os.getcwd(), named))
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "cmesh")


def control_socket(state: str) -> str:
    """Return the control socket's path; equal to `cmesh.paths.control_socket`."""
    path = os.path.join(state, "control.sock")
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/cmesh-{os.getuid()}"
    return os.path.join(runtime, f"cmesh-{digest}.sock")


def down_mark(state: str) -> str:
    """Return the mark `cmesh down` leaves; only `cmesh up` clears it."""
    return os.path.join(state, "down")


def replacing_mark(state: str) -> str:
    """Return the mark that is there while `cmesh up --replace` ends one daemon for another."""
    return os.path.join(state, "replacing")


class Starter:
    """Runs the command that starts a daemon: detached, one at a time, bounded."""

    def __init__(self, command: "Sequence[str]", mark: str) -> None:
        self.running = False
        self.reason = ""
        self.code = self.hint = ""  # of the daemon's own error, when it said one
        self._command = command
        self._mark = mark
        self._pid = 0
        self._output = -1
        self._deadline = 0.0
        self._again = 0.0
        self._answered = False  # since the last start

    def refuses(self, now: float) -> bool:
        """Return whether no start may be tried now; `reason` says why."""
        if os.path.lexists(self._mark):
            self.reason = "cmesh was stopped with `cmesh down`"
            self.code = self.hint = ""
            return True
        return bool(self.reason) and now < self._again

    def waits(self, now: float) -> bool:
        """Return whether the last start ended well so lately that calls wait for the next one."""
        return now < self._again

    def start(self, now: float) -> None:
        """Start the command; `poll` tells how it ends."""
        self.code = self.hint = ""
        self._answered = False
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self._pid = os.posix_spawn(
                self._command[0],
                list(self._command),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
            )
        except OSError as error:
            os.close(self._output)
            self._failed(now, f"cannot run `{self._command[0]}`: {error.strerror}")
            return
        finally:
            os.close(output)
        self.running = True
        self._deadline = now + START_LIMIT_S

    def poll(self, now: float) -> bool:
        """Return whether the command has just ended; `reason` is empty when it ended well."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0 and now < self._deadline:
            return False
        self.running = False
        if pid == 0:
            os.kill(self._pid, _signal.SIGKILL)
            os.waitpid(self._pid, 0)
        if self._answered:
            # The daemon was quicker than the end of what started it. Should it have ended since,
            # that is news: it may be started at once.
            self.reason = ""
        elif pid == 0:
            # The daemon itself is not ended with its starter: slow is not dead.
            late = f"the daemon did not start within {START_LIMIT_S:.0f} s"
            self._failed(now, late, START_SOON_S)
        elif status:
            self._failed(now, self._explain())
        else:
            # It answered who started it. Should it be gone when this looks, it was killed.
            self.reason = ""
            self._again = now + START_SOON_S
        os.close(self._output)
        return True

    def answered(self) -> None:
        """Note that a daemon has answered: should it end, it may be started at once."""
        self._again = 0.0
        self._answered = True

    def _failed(self, now: float, reason: str, again_s: float = START_AGAIN_S) -> None:
        self.reason = reason
        self._again = now + again_s

    def _explain(self) -> str:
        # A daemon it leaves behind may hold the pipe open, so read what is there, not to the end.
        try:
            text = os.read(self._output, READ_BYTES).decode(errors="replace").strip()
        except BlockingIOError:
            text = ""
        last = text.splitlines()[-1] if text else ""
        try:
            error = as_object(as_object(parse(last.encode())).get("error"))
        except ValueError:
            error = {}
        said = str(error.get("message") or last)[:300]
        self.code = str(error.get("code") or "")[:40]
        self.hint = str(error.get("hint") or "")[:300]
        return f"starting the daemon failed: {said or 'it said nothing'}"
