# pyright: basic
"""A process of the same user outside of every sandbox: what the attempts are aimed at.

Standard library only. Prints what it offers, then, at the end of its input, what reached it.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
IS_X86 = os.uname().machine == "x86_64"
LOOK_S = 0.05


def listener(family, address, kind=socket.SOCK_STREAM):
    made = socket.socket(family, kind)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setsockopt(socket.SOL_TCP, 23, 5) if kind == socket.SOCK_STREAM and family != 1 else None
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks which address would be used
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def kept_for_all(mark):
    """Leave what all processes of the user share: memory, a queue, a key."""
    numbers = ((29, 194), (240, 180), (248, 217))
    shmget, mq_open, add_key = (ctypes.c_long(n[0 if IS_X86 else 1]) for n in numbers)
    shm = LIBC.syscall(shmget, 0, ctypes.c_size_t(4096), 0o1600)
    LIBC.syscall(mq_open, f"{mark}-mq".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    LIBC.syscall(add_key, b"user", mark.encode(), b"secret", ctypes.c_size_t(6), -4)
    return shm


def io_priority():
    return LIBC.syscall(ctypes.c_long(252 if IS_X86 else 31), 1, 0)


def main():
    base, mark = sys.argv[1], sys.argv[2]
    secret = open(f"{base}/owner/.ssh/id_rsa")
    memory = ctypes.create_string_buffer(b"in memory")
    signals = []
    signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
    tcp = listener(socket.AF_INET, ("", 0))
    port = tcp.getsockname()[1]
    allowed = listener(socket.AF_INET, ("", 0))
    udp = listener(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)
    free = listener(socket.AF_INET, ("127.0.0.1", 0))
    made = [
        *(tcp, allowed, udp),
        listener(socket.AF_INET6, ("::1", port)),
        listener(socket.AF_INET6, ("::1", udp.getsockname()[1]), socket.SOCK_DGRAM),
        listener(socket.AF_UNIX, f"{base}/owner/state/control.sock"),
        listener(socket.AF_UNIX, f"{base}/owner/state/log.sock", socket.SOCK_DGRAM),
        listener(socket.AF_UNIX, f"\0{mark}"),
    ]
    facts = {
        "victim": os.getpid(), "address": ctypes.addressof(memory), "tcp": port,
        "udp": udp.getsockname()[1], "allowed": allowed.getsockname()[1],
        "free": free.getsockname()[1], "unix": f"{base}/owner/state/control.sock",
        "unix_datagram": f"{base}/owner/state/log.sock", "shm": kept_for_all(mark),
        "address_of_machine": own_address(),
    }  # fmt: skip
    free.close()
    before = (os.nice(0), sorted(os.sched_getaffinity(0)), io_priority())
    print(json.dumps(facts), flush=True)
    heard = watch(made, facts["free"])
    now = (os.nice(0), sorted(os.sched_getaffinity(0)), io_priority())
    print(json.dumps({
        "heard": sorted(heard), "signals": len(signals),
        "limited": resource.getrlimit(resource.RLIMIT_CPU)[0] != resource.RLIM_INFINITY,
        "reniced": before[0] != now[0], "bound": before[1] != now[1], "priority": before[2] != now[2],
    }))  # fmt: skip
    LIBC.shmctl(facts["shm"], 0, None)
    secret.close()


def watch(made, free):
    """Take what comes until the input ends; return the marks that were sent."""
    heard = set()
    while True:
        ready = select.select([0, *made], [], [], LOOK_S)[0]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", free)) == 0:
                heard.add("listen_on_a_port")
        for one in ready:
            if isinstance(one, int):
                return heard
            if one.type == socket.SOCK_DGRAM:
                heard.add(one.recv(1000).decode())
                continue
            taken, _ = one.accept()
            with taken:
                taken.settimeout(1)
                try:
                    heard.add(taken.recv(1000).decode() or "a connection without a word")
                except OSError:
                    heard.add("a connection without a word")


if __name__ == "__main__":
    main()
