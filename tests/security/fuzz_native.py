"""Wrong handles, lengths and texts for every function of the C boundary, in a process of its own.

Buffers are as long as they are said to be, which is the caller's part of the contract; all else
is junk. A crash ends the process, and a function that closes or fills what is not its own is
found by a pipe and by a guard behind each buffer.
"""

import errno
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmesh._native import ffi, lib
from tests.security.fuzz_frames import Found
from tests.security.mutate import HOSTILE_TEXTS

__all__ = ["fuzz_native"]

RUN_LIMIT_S = 1_800.0
WARM_UP = 1_000
ROOT = Path(__file__).parents[2]
GUARD = b"\xa5" * 16
NUMBERS = (0, -1, 1, 2, 3, 7, 64, 1_000, 65_536, 2**31 - 1, -(2**31))
SIZES = (0, 1, 2, 3, 7, 16, 64, 255, 4_096)
CONFIGURED = (
    *("tailscale_set_dir", "tailscale_set_hostname", "tailscale_set_authkey"),
    *("tailscale_set_control_url", "cmesh_set_tags"),
)
ANSWERS = ("cmesh_status", "cmesh_peers", "cmesh_login", "cmesh_logout")
KNOWN = {-1, 0, *errno.errorcode}


def fuzz_native(count: int, seed: int) -> Found:
    """Make `count` calls in another process and return what it found; blocks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.fuzz_native", str(count), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_LIMIT_S,
        check=False,
    )
    if done.returncode:
        why = "\n".join(done.stderr.splitlines()[:12])
        return Found(inputs=count, crashes=[f"ended with {done.returncode}: {why}"])
    return Found(**json.loads(done.stdout.splitlines()[-1]))


class Calls:
    """Random calls, on handles that are there, that were there, and that never were."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._nodes: list[int] = []
        self._ended: list[int] = []
        self.kinds: tuple[Callable[[], int], ...] = (
            *(self._configure, self._configure, self._answer, self._whois, self._dial),
            *(self._ping, self._accept, self._operation, self._message, self._listen),
            *(self._addresses, self._close, self._new, self._watch, self._flags),
        )

    def close(self) -> None:
        """End every node that is left."""
        for node in self._nodes:
            assert lib.tailscale_close(node) == 0

    def _node(self) -> int:
        pool = (self._nodes, self._ended, NUMBERS)[self._chance.choice((0, 0, 0, 1, 2))]
        return self._chance.choice(pool or NUMBERS)

    def _number(self) -> int:
        return self._chance.choice(NUMBERS)

    def _text(self) -> Any:
        kind = self._chance.randrange(6)
        if kind == 0:
            return ffi.NULL
        if kind == 1:
            return self._chance.randbytes(self._chance.choice(SIZES)).replace(b"\0", b"x")
        return self._chance.choice(HOSTILE_TEXTS).encode("utf-8", "replace").replace(b"\0", b"")

    def _buffer(self, call: Callable[[Any, int], int]) -> int:
        """Call with a buffer of some size; what lies behind it must stay as it was."""
        size = self._chance.choice(SIZES)
        memory = ffi.new("char[]", size + len(GUARD))
        for at, byte in enumerate(GUARD):
            memory[size + at] = bytes([byte])
        code = call(memory if size or self._chance.randrange(2) else ffi.NULL, size)
        behind = b"".join(memory[size + at] for at in range(len(GUARD)))
        assert behind == GUARD, "it wrote past the end"
        return code

    def _out(self, call: Callable[..., int]) -> int:
        needed = ffi.new("size_t *") if self._chance.randrange(2) else ffi.NULL
        return self._buffer(lambda out, size: call(out, size, needed))

    def _configure(self) -> int:
        function: Callable[..., int] = getattr(lib, self._chance.choice(CONFIGURED))
        return function(self._node(), self._text())

    def _flags(self) -> int:
        if self._chance.randrange(2):
            return lib.tailscale_set_ephemeral(self._node(), self._number())
        return lib.tailscale_set_logfd(self._node(), -1)

    def _answer(self) -> int:
        function: Callable[..., int] = getattr(lib, self._chance.choice(ANSWERS))
        node = self._node()
        if node in self._nodes and function in (lib.cmesh_login, lib.cmesh_logout):
            node = self._number()  # these would start a real node
        return self._out(lambda *out: function(node, *out))

    def _whois(self) -> int:
        node, text = self._node(), self._text()
        return self._out(lambda *out: lib.cmesh_whois(node, text, *out))

    def _dial(self) -> int:
        wanted = (self._node(), self._text(), self._number(), 1, self._number())
        fd = ffi.new("int *", -1)
        code = self._out(lambda *out: lib.cmesh_dial(*wanted, fd, *out))
        assert code != 0
        assert fd[0] == -1, "a failed dial gave a descriptor"
        return code

    def _ping(self) -> int:
        wanted = (self._node(), self._text(), 1, self._number())
        return self._out(lambda *out: lib.cmesh_ping(*wanted, *out))

    def _accept(self) -> int:
        fd = ffi.new("int *", -1)
        listener = self._number()
        code = self._buffer(lambda out, size: lib.cmesh_accept(listener, fd, out, size))
        assert code != 0
        return code

    def _operation(self) -> int:
        if self._chance.randrange(3):
            function = self._chance.choice((lib.cmesh_op_cancel, lib.cmesh_op_close))
            return function(self._number())
        number = lib.cmesh_op_new()
        assert lib.cmesh_op_cancel(number) == 0
        return lib.cmesh_op_close(number)

    def _message(self) -> int:
        node = self._node()
        return self._buffer(lambda out, size: lib.tailscale_errmsg(node, out, size))

    def _listen(self) -> int:
        fd = ffi.new("int *", -1)
        node = self._chance.choice(self._ended or NUMBERS)
        return lib.tailscale_listen(node, self._text(), self._text(), fd)

    def _addresses(self) -> int:
        if self._chance.randrange(2):
            node = self._chance.choice(self._ended or NUMBERS)
            return self._buffer(lambda out, size: lib.tailscale_getips(node, out, size))
        ends = (self._number(), self._number())
        return self._buffer(lambda out, size: lib.tailscale_getremoteaddr(*ends, out, size))

    def _watch(self) -> int:
        fd = ffi.new("int *", -1)
        node = self._chance.choice(self._ended or NUMBERS)
        return self._out(lambda *out: lib.cmesh_watch(node, fd, *out))

    def _new(self) -> int:
        if len(self._nodes) < 4:
            node = lib.tailscale_new()
            assert node > 0
            self._nodes.append(node)
        return 0

    def _close(self) -> int:
        if self._nodes and not self._chance.randrange(4):
            node = self._nodes.pop()
            self._ended = [*self._ended[-20:], node]
            return lib.tailscale_close(node)
        return lib.tailscale_close(self._chance.choice(self._ended or NUMBERS))


def _run(count: int, seed: int) -> Found:
    chance, found = random.Random(seed), Found()
    calls, before = Calls(chance), 0
    source, sink = os.pipe()
    for number in range(count):
        code = chance.choice(calls.kinds)()
        found.inputs += 1
        found.malformed += code != 0
        found.taken += code == 0
        assert code in KNOWN, f"an unknown code {code}"
        if number == min(WARM_UP, count // 2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls.close()
    os.write(sink, b"x")
    assert os.read(source, 1) == b"x", "a descriptor of somebody else was closed"
    needed = ffi.new("size_t *")
    out = ffi.new("char[]", 4_096)
    assert lib.cmesh_counters(out, 4_096, needed) == 0
    counted = json.loads(ffi.string(out))
    assert not counted["nodes"] + counted["operations"] + counted["connections"], counted
    found.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(_run(int(sys.argv[1]), int(sys.argv[2])))))
