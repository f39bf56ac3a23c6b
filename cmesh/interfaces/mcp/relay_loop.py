"""The relay's process: stdin, stdout, the daemon's socket and the wait on all of them.

Standard library only; what the lines mean is `relay_session`'s.
"""

import _socket  # `socket` would load `enum` and `selectors`: 12 ms of a 40 ms start
import os
import select
import sys
import time

from cmesh.interfaces.mcp.relay_session import NEXT_UP, NOT_RUNNING, Session
from cmesh.interfaces.mcp.relay_start import Starter, control_socket, down_mark, replacing_mark
from cmesh.interfaces.mcp.relay_wire import LINE_BYTES, Lines, as_object, dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Relay"]

BACKLOG_BYTES = 16 * 1024 * 1024
READ_BYTES = 64 * 1024
GREETING_S = 5.0
FLUSH_S = 2.0
START_DELAY_S = 0.15
RESTART_GRACE_S = 3.0  # for a daemon that names no grace of its own, and while one is replaced
HELPER_POLL_S = 0.05
FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 5.0
HELD_BACKOFF_S = 0.1


class Relay:
    """The process: stdin, stdout, the daemon's socket, and the wait on all of them."""

    def __init__(self, state: str, command: "Sequence[str]") -> None:
        name = os.environ.get("CLAUDE_CODE_SESSION_ID", "")[:128] or os.urandom(8).hex()
        self.session = Session(_load_handshake(), name, os.getpid())
        self._name = name
        self._path = control_socket(state)
        self._starter = Starter(command, down_mark(state))
        self._replacing = replacing_mark(state)
        self._grace_s = RESTART_GRACE_S
        self._stdin = Lines()
        self._answers = Lines()
        self._socket: _socket.socket | None = None
        self._greeting_until = 0.0
        self._attempt_at: float | None = None
        self._start_at: float | None = None
        self._backoff_s = FIRST_BACKOFF_S

    def run(self) -> int:
        """Relay until stdin ends (0), stdout is gone (0) or the client breaks the limit (1)."""
        status = None
        while status is None:
            try:
                ready = self._wait()
                self.session.now = time.monotonic()
                # Before the client: a call must not be given to a daemon that is known to be gone.
                self._from_daemon(ready)
                status = self._client(ready)
                self._to_daemon()
                self._timers()
                self._write_client()
            except BrokenPipeError:
                return 0
        self._flush()
        return status

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(1, select.POLLOUT if self.session.to_client else 0)
        if len(self.session.to_daemon) + self._held_bytes() < BACKLOG_BYTES:
            poll.register(0, select.POLLIN)
        if self._socket is not None:
            wanted = select.POLLIN if len(self.session.to_client) < BACKLOG_BYTES else 0
            poll.register(
                self._socket.fileno(), wanted | (select.POLLOUT if self.session.to_daemon else 0)
            )
        return dict(poll.poll(self._timeout_ms()))

    def _timeout_ms(self) -> int | None:
        times = [self._attempt_at, self._start_at, self.session.next_deadline()]
        if self._socket is not None and not self.session.live:
            times.append(self._greeting_until)
        now = time.monotonic()
        waits = [max(0.0, at - now) for at in times if at is not None]
        if self._starter.running:
            waits.append(HELPER_POLL_S)
        return int(min(waits) * 1000) + 1 if waits else None

    def _held_bytes(self) -> int:
        return sum(len(request.line) for request in self.session.held)

    def _client(self, ready: dict[int, int]) -> int | None:
        if ready.get(1, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            return 0
        if not ready.get(0):
            return None
        data = os.read(0, READ_BYTES)
        if not data:
            return 0
        for line in self._stdin.feed(data):
            self.session.from_client(line)
        if len(self._stdin.rest) > LINE_BYTES:
            self.session.too_long()
            return 1
        if self._socket is None and (self._attempt_at is None or self.session.held):
            self._attempt_at = self.session.now
        return None

    def _from_daemon(self, ready: dict[int, int]) -> None:
        if self._socket is None:
            return
        try:
            if ready.get(self._socket.fileno(), 0) & ~select.POLLOUT:
                self._receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._close()

    def _to_daemon(self) -> None:
        if self._socket is not None and self.session.renew:
            self._close()
            self._attempt_at = self.session.now
        try:
            self._write_daemon()
        except BlockingIOError:
            return
        except OSError:
            self._close()

    def _write_daemon(self) -> None:
        if self._socket is not None and self.session.to_daemon:
            sent = self._socket.send(self.session.to_daemon)
            del self.session.to_daemon[:sent]

    def _receive(self, connection: "_socket.socket") -> None:
        data = connection.recv(READ_BYTES)
        if not data:
            self._close()
            return
        for line in self._answers.feed(data):
            if self._socket is None:
                return
            if self.session.live:
                self.session.from_daemon(line)
            else:
                self._greeted(as_object(parse(line)))
        if len(self._answers.rest) > LINE_BYTES:
            self._close()

    def _greeted(self, answer: dict[str, object]) -> None:
        if answer.get("ok") is True:
            self._backoff_s = FIRST_BACKOFF_S
            self._start_at = None
            self._starter.answered()
            self._grace_s = _seconds(answer.get("grace_s"))
            self.session.connected(answer.get("version"))
            return
        error = as_object(answer.get("error"))
        self._close()
        self.session.fail(
            str(error.get("code") or NOT_RUNNING),
            str(error.get("message") or "the daemon refused this connection"),
            str(error.get("hint") or NEXT_UP),
        )

    def _timers(self) -> None:
        now = self.session.now
        self.session.expire()
        if self._starter.running and self._starter.poll(now):
            self._attempt_at = now
            if self._starter.reason:
                self._not_started()
        if self._socket is not None and not self.session.live and now >= self._greeting_until:
            self._close()
        if self._socket is None and self._attempt_at is not None and now >= self._attempt_at:
            self._attempt(now)

    def _attempt(self, now: float) -> None:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.settimeout(0)
            connection.connect(self._path)
            _require_own(connection)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            self._absent(now)
        except OSError as error:
            connection.close()
            self.session.fail(NOT_RUNNING, f"cannot connect: {error.strerror}", NEXT_UP)
            self._retry(now)
        else:
            self._socket = connection
            self._attempt_at = None
            self._greeting_until = now + GREETING_S
            self.session.to_daemon += self._hello()

    def _absent(self, now: float) -> None:
        self._retry(now)
        if self._starter.running:
            return
        if self._starter.refuses(now):
            self._not_started()
            return
        if self._starter.waits(now):
            return
        if self._start_at is None:
            self._start_at = now + START_DELAY_S
        if now >= self._start_at:
            self._start_at = None
            self._starter.start(now)
            if not self._starter.running:
                self._not_started()
        elif self._attempt_at is not None:
            self._attempt_at = min(self._attempt_at, self._start_at)

    def _not_started(self) -> None:
        code, step = self._starter.code or NOT_RUNNING, self._starter.hint or NEXT_UP
        self.session.fail(code, self._starter.reason, step)

    def _retry(self, now: float) -> None:
        jitter = 0.5 + os.urandom(1)[0] / 255
        busy = self._starter.running or bool(self.session.held)
        limit = HELD_BACKOFF_S if busy else LAST_BACKOFF_S
        self._attempt_at = now + min(self._backoff_s, limit) * jitter
        self._backoff_s = min(self._backoff_s * 2, LAST_BACKOFF_S)

    def _close(self) -> None:
        """Drop the daemon; whoever restarts it gets its grace before this starts one."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        self._answers = Lines()
        if self.session.live:
            replaced = os.path.lexists(self._replacing)
            grace_s = RESTART_GRACE_S if replaced else self._grace_s
            self._start_at = self.session.now + grace_s
        self.session.lost()
        self._retry(self.session.now)

    def _hello(self) -> bytes:
        hello = {
            "v": 1,
            "kind": "mcp",
            "pid": os.getpid(),
            "cwd": os.environ.get("CLAUDE_PROJECT_DIR", "")[:4096] or _working_directory(),
            "session": self._name,
            "agent": self.session.agent,
        }
        return dump(hello).encode() + b"\n"

    def _write_client(self) -> None:
        # POLLOUT promises PIPE_BUF bytes without blocking (POSIX poll); the descriptor is the
        # client's too, so it is not made non-blocking.
        buffer = self.session.to_client
        writable = select.poll()
        writable.register(1, select.POLLOUT)
        while buffer and writable.poll(0):
            del buffer[: os.write(1, buffer[: select.PIPE_BUF])]

    def _flush(self) -> None:
        deadline = time.monotonic() + FLUSH_S
        writable = select.poll()
        writable.register(1, select.POLLOUT)
        try:
            while self.session.to_client and time.monotonic() < deadline:
                if writable.poll(int(FLUSH_S * 1000)):
                    self._write_client()
        except BrokenPipeError:
            return


def _seconds(value: object) -> float:
    """Return a grace as the daemon named it, never longer than the usual one."""
    if isinstance(value, (int, float)) and 0 <= value <= RESTART_GRACE_S:
        return float(value)
    return RESTART_GRACE_S


def _load_handshake() -> dict[str, object]:
    with open(os.path.join(os.path.dirname(__file__), "handshake.json"), "rb") as file:
        return as_object(parse(file.read()))


def _require_own(connection: "_socket.socket") -> None:
    """Refuse a socket that another user serves (Linux `SO_PEERCRED`: pid, uid, gid)."""
    option = getattr(_socket, "SO_PEERCRED", None)
    if option is None:
        return
    credentials = connection.getsockopt(_socket.SOL_SOCKET, option, 12)
    if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
        raise PermissionError(1, "the control socket belongs to another user")


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
