"""Tries what this machine has: starts a real sandbox around `true` and believes nothing else.

A kernel that claims a feature may still refuse it (AppArmor,
containers, a sysctl), so only a start that worked counts.
"""

import os
import tempfile
from dataclasses import replace

from cmesh.platform.system import HERE
from cmesh.sandbox import landlock, seccomp, start
from cmesh.sandbox.plan import find_bwrap, plan
from cmesh.sandbox.profile import SandboxSpec
from cmesh.sandbox.tier import Enforcement

__all__ = ["find_enforcement"]

_INSTALL = "install bubblewrap (`apt-get install bubblewrap`) and restart cmesh"
_ALLOW = "allow user namespaces for bubblewrap (docs/security.md, section 5) and restart cmesh"
_KERNEL = "run a kernel with seccomp and Landlock (Linux 6.7 or newer) on x86_64 or aarch64"
_SYSTEM = "run the worker on Linux"


def find_enforcement() -> Enforcement:
    """Return what works here. Blocks, usually for 50 ms."""
    if HERE != "linux":
        return Enforcement(why=f"there is no sandbox for `{HERE}`", hint=_SYSTEM)
    if not seccomp.available():
        return Enforcement(why="the kernel, or this architecture, has no seccomp", hint=_KERNEL)
    abi = min(landlock.supported_abi(), landlock.KNOWN_ABI)
    without = Enforcement(landlock_abi=abi, seccomp=True, hint=_INSTALL)
    why = "bubblewrap is not installed"
    if find_bwrap():
        best = replace(without, bwrap=True, netns=True)
        why = _trial(best)
        if not why:
            missing = "" if best.tier == 3 else "the kernel's Landlock cannot limit ports"
            return replace(best, why=missing, hint=_KERNEL if missing else "")
        without = replace(without, hint=_ALLOW)
    without = replace(without, why=why)
    if not without.tier:
        return without
    failed = _trial(without)
    return Enforcement(why=f"{why}; {failed}", hint=without.hint) if failed else without


def _trial(wanted: Enforcement) -> str:
    """Start `true` under it; return why that failed, empty = it did not."""
    with tempfile.TemporaryDirectory(prefix="cmesh-trial-") as base:
        places = [os.path.realpath(f"{base}/{name}") for name in ("directory", "home", "tmp")]
        for place in places:
            os.mkdir(place, 0o700)
        spec = SandboxSpec(
            directory=places[0], writes_directory=False, home=places[1], tmp=places[2]
        )
        launch = {"argv": ["/bin/true"], "cwd": places[0], "env": {}, "sandbox": plan(spec, wanted)}
        return start.trial(launch)
