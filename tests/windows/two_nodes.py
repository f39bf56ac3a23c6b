"""Runs in a CPython for Windows: two nodes of this process talk over a tailnet outside of it.

Started by tests/windows/test_native.py with the control server's address and a directory;
prints what it saw as one line of JSON.
"""

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cmesh.node import ffi

PORT = 7
DIAL_LIMIT_S = 30.0
READ_LIMIT_S = 30.0


def node(control_url: str, place: Path, name: str) -> ffi.Handle:
    handle = ffi.Handle()
    handle.configure("tailscale_set_dir", str(place / name))
    handle.configure("tailscale_set_hostname", name)
    handle.configure("tailscale_set_control_url", control_url)
    with (place / f"{name}.log").open("ab") as log:
        handle.configure("tailscale_set_logfd", log.fileno())
    handle.up()
    return handle


def dial(handle: ffi.Handle, peer: str, port: int = PORT) -> socket.socket:
    operation = ffi.Operation()
    try:
        return handle.dial(peer, port, DIAL_LIMIT_S, operation)
    finally:
        operation.close()


def wait_readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], READ_LIMIT_S)[0], "nothing came"


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(READ_LIMIT_S)
    return b"".join(iter(lambda: sock.recv(65536), b""))


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - its name is what is asked for
        return type(error).__name__
    return "none"


def main(control_url: str, place: Path) -> None:
    ffi.allow_loopback_only()
    server, client = node(control_url, place, "server"), node(control_url, place, "client")
    listener = socket.socket(fileno=server.listen(f":{PORT}"))
    listener.setblocking(False)
    seen: dict[str, object] = {"idle": refusal(lambda: ffi.accept(listener.fileno()))}

    near = dial(client, "server")
    wait_readable(listener)
    far, remote = ffi.accept(listener.fileno())
    near.sendall(b"echo")
    wait_readable(far)
    far.sendall(far.recv(16))
    wait_readable(near)
    seen["echo"] = near.recv(16).decode()
    seen["whois"] = json.loads(server.whois(remote))["name"]

    # Half a close: the client says no more, and still hears 1 MiB.
    sent = os.urandom(1 << 20)
    near.shutdown(socket.SHUT_WR)
    seen["end"] = read_all(far).decode()
    far.settimeout(READ_LIMIT_S)
    writer = threading.Thread(target=lambda: (far.sendall(sent), far.close()))
    writer.start()
    seen["bulk"] = read_all(near) == sent
    writer.join()
    near.close()

    seen["unknown"] = refusal(lambda: dial(client, "nobody"))
    seen["refused"] = refusal(lambda: dial(client, "server", PORT + 1))
    untaken = dial(client, "server")  # nobody accepts it
    wait_readable(listener)
    listener.close()
    seen["untaken"] = refusal(lambda: read_all(untaken)) in {"none", "ConnectionResetError"}
    untaken.close()
    server.close()
    client.close()
    seen["closed"] = refusal(client.status)
    left = json.loads(ffi.counters())
    seen["left"] = {k: left[k] for k in ("nodes", "listeners", "connections", "operations")}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
