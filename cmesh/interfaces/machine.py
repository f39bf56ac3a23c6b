"""A machine's facts as people and agents read them. Pure."""

from cmesh.daemon.answers import MachineView, RunnerFactView
from cmesh.protocol.where import bytes_text

__all__ = ["machine_line", "machine_lines"]


def machine_lines(machine: MachineView) -> list[str]:
    """Return what a machine has told of itself, a kind a line; what it has not told is left out."""
    lines = [_system(machine)]
    if machine.tools is not None:
        tools = ", ".join(f"{name} {version}".rstrip() for name, version in machine.tools.items())
        lines.append(f"tools: {tools or 'none of those that are looked for'}")
    if machine.gpus is not None:
        by = f" (by {machine.gpu_by})" if machine.gpus else ""
        lines.append(f"gpu: {', '.join(machine.gpus) or 'none found'}{by}")
    if machine.runners is not None:
        runners = ", ".join(_runner(runner) for runner in machine.runners)
        lines.append(f"runners: {runners or 'none'}")
    if machine.labels:
        lines.append(f"labels: {', '.join(machine.labels)}")
    return [line for line in lines if line]


def machine_line(machine: MachineView) -> str:
    """Return the same in short: system, graphics, tools by name, labels."""
    parts = [_system(machine)]
    parts += [f"gpu {gpu}" for gpu in (machine.gpus or [])[:1]]
    parts += [" ".join(machine.tools or ()), " ".join(machine.labels or ())]
    return "; ".join(part for part in parts if part)


def _system(machine: MachineView) -> str:
    name = " ".join(part for part in (machine.os, machine.distribution, machine.os_version) if part)
    cpus = "" if machine.cpus is None else f"{machine.cpus} cpus"
    memory = "" if machine.memory is None else f"{bytes_text(machine.memory)}B memory"
    return ", ".join(part for part in (name, machine.arch, cpus, memory) if part)


def _runner(runner: RunnerFactView) -> str:
    shown = f"{runner.name} {runner.version}".rstrip()
    return shown if runner.ready else f"{shown} (cannot start)"
