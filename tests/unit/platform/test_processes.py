"""The end of another process is waited for, whoever reaps it."""

import os
import subprocess
import sys

from cmesh.platform.processes import wait_ended

LIMIT_S = 30.0


def test_a_process_that_lives_is_told_from_one_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert wait_ended(child.pid, 0) is False
        child.kill()
        assert wait_ended(child.pid, LIMIT_S) is True  # a zombie, until we reap it
    assert wait_ended(child.pid, 0) is True
    assert wait_ended(os.getpid(), 0) is False
