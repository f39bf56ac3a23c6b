"""Who is at the other end of a local connection, read from what each kernel says."""

import errno
import os
import socket
import struct
from typing import cast

import pytest

from cmesh.platform.credentials import of_peer
from cmesh.platform.macos.credentials import of_peer as of_peer_on_macos
from cmesh.platform.windows.credentials import of_peer as of_peer_on_windows


class OfMacos:
    """Answers as a socket of macOS: `struct xucred`, and a pid."""

    def __init__(self, version: int = 0, length: int = 76) -> None:
        groups = (20, 12, 61, *[0] * 13)
        self.raw = struct.pack("=IIhxx16I", version, 501, 3, *groups)[:length]

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == 0
        found = {1: self.raw, 2: struct.pack("=i", 4711)}[option]
        assert size >= len(found)
        return found


def test_a_connection_of_our_own_is_ours() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert of_peer(here) == (os.getpid(), os.getuid())


def test_a_kernel_of_macos_says_uid_and_pid_apart() -> None:
    assert of_peer_on_macos(cast("socket.socket", OfMacos())) == (4711, 501)


@pytest.mark.parametrize("other", [OfMacos(version=1), OfMacos(length=20)])
def test_another_form_of_the_answer_of_macos_is_none(other: OfMacos) -> None:
    with pytest.raises(OSError, match="LOCAL_PEERCRED") as raised:
        of_peer_on_macos(cast("socket.socket", other))
    assert raised.value.errno == errno.EPROTO


def test_windows_says_of_nobody_who_it_is() -> None:
    here, there = socket.socketpair()
    with here, there, pytest.raises(OSError, match="does not say"):
        of_peer_on_windows(here)
