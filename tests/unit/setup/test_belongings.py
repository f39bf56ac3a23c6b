"""Who runs from an installation, beside the daemon that is asked to leave."""

import subprocess
from pathlib import Path

from cmesh.setup.belongings import OtherDaemon, other_daemons


def test_a_daemon_of_another_state_directory_is_seen(tmp_path: Path) -> None:
    versions, state = tmp_path / "versions", tmp_path / "state"
    argv = [f"{versions}/1/bin/python", "-c", "read end", "-m", "cmesh", "daemon"]
    with subprocess.Popen(
        argv,
        executable="/bin/sh",
        stdin=subprocess.PIPE,
        env={"CMESH_STATE_DIR": str(state)},
    ) as process:
        mine = other_daemons(versions, state)
        others = other_daemons(versions, tmp_path / "another")
        elsewhere = other_daemons(tmp_path / "elsewhere", tmp_path / "another")
        process.communicate()
    assert (mine, elsewhere) == ((), ())
    assert others == (OtherDaemon(process.pid, str(state)),)
