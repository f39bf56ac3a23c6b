"""A supervisor in a process of its own, to be killed: starts one task and waits.

    daemon_side.py TASKS_DIR TASK_ID

Standard input holds the code the task runs.
"""

import asyncio
import sys
from pathlib import Path

from cmesh.model import TaskId
from cmesh.runner.launch import Launch
from cmesh.runner.supervise import Supervisor


async def main(tasks_dir: str, task_id: str) -> None:
    news = asyncio.Event()
    supervisor = Supervisor(Path(tasks_dir), on_change=lambda _task: news.set(), grace_s=0.3)
    await supervisor.start()
    argv = (sys.executable, "-I", "-S", "-c", sys.stdin.read())
    launch = Launch(argv=argv, cwd="/", env={}, stdin=b"", runtime_s=60, output_bytes=1_000_000)
    supervisor.prepare(TaskId(task_id), launch)
    await supervisor.spawn(TaskId(task_id))
    while supervisor.look(TaskId(task_id)).spool_bytes == 0:
        await news.wait()
        news.clear()
    sys.stdout.write("running\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
