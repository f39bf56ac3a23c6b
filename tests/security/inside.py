# pyright: basic
"""The escape attempts, run by a task inside its sandbox: each in a process of its own.

Standard library only. Prints one JSON line an attempt: `through` when the attempt itself saw
success. `tests.security.ground` decides from outside wherever an attempt has an effect there.
"""

import ctypes
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPT_LIMIT_S = 20
IS_X86 = os.uname().machine == "x86_64"
ATTEMPTS = {}
FACTS = {}


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(number, *arguments):
    """Make a system call by its number on (x86_64, aarch64); raise what it answers."""
    number = number[0 if IS_X86 else 1] if isinstance(number, tuple) else number
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def home(*parts):
    return os.path.join(FACTS["home"], *parts)


def put(path, text=b"x\n", flags=os.O_CREAT | os.O_APPEND):
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    return os.write(fd, text) > 0


def get(path):
    with open(path, "rb") as file:
        return FACTS["secret"].encode() in file.read(1 << 20)


def victim():
    return FACTS["victim"]


# --- files of the user -----------------------------------------------------------------


@attempt
def write_a_file_in_the_home():
    return put(home("write_a_file_in_the_home"))


@attempt
def append_to_bashrc():
    return put(home(".bashrc"), b"# append_to_bashrc\n")


@attempt
def write_a_systemd_unit():
    return put(home(".config/systemd/user/write_a_systemd_unit"))


@attempt
def read_the_ssh_key():
    return get(home(".ssh/id_rsa"))


@attempt
def read_aws_credentials():
    return get(home(".aws/credentials"))


@attempt
def read_the_github_token():
    return get(home(".config/gh/hosts.yml"))


@attempt
def read_another_users_home():
    return get(FACTS["other_home"] + "/secret")


@attempt
def read_beside_the_directory():
    return get("../secret")


@attempt
def read_through_a_link_in_the_directory():
    return get("link")


@attempt
def read_the_store():
    return get(FACTS["state"] + "/store")


@attempt
def truncate_the_store():
    os.truncate(FACTS["state"] + "/victims_store", 0)
    return True


@attempt
def read_the_node_key():
    return get(FACTS["state"] + "/key")


@attempt
def read_the_configuration():
    return get(FACTS["config"] + "/config.toml")


@attempt
def read_another_tasks_spool():
    return get(FACTS["state"] + "/tasks/another/stdout")


@attempt
def read_through_a_new_link():
    path = os.environ["TMPDIR"] + "/link"
    os.symlink(home(".ssh/id_rsa"), path)
    return get(path)


@attempt
def read_through_a_hard_link():
    path = os.environ["TMPDIR"] + "/hard"
    os.link(home(".ssh/id_rsa"), path)
    return get(path)


@attempt
def move_a_file_out():
    path = os.environ["TMPDIR"] + "/out"
    put(path)
    os.rename(path, home("move_a_file_out"))
    return True


@attempt
def move_a_secret_in():
    os.rename(home(".ssh/movable"), os.environ["TMPDIR"] + "/in")
    return True


@attempt
def list_the_home():
    return "id_rsa" in os.listdir(home(".ssh"))


@attempt
def see_the_size_of_a_secret():
    return os.stat(home(".ssh/id_rsa")).st_size > 0


@attempt
def watch_the_ssh_directory():
    fd = LIBC.inotify_init()
    if LIBC.inotify_add_watch(fd, home(".ssh").encode(), 0x100) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


# --- the directory ---------------------------------------------------------------------


@attempt
def write_in_the_directory():
    return put("write_in_the_directory")


@attempt
def change_a_file_of_the_directory():
    return put("note", b"change_a_file_of_the_directory\n")


@attempt
def write_a_git_hook():
    return put(".git/hooks/post-checkout")


@attempt
def change_the_git_configuration():
    return put(".git/config", b"[core]\n\tfsmonitor = write\n")


@attempt
def write_claude_settings():
    return put(".claude/settings.json")


@attempt
def write_mcp_servers():
    return put(".mcp.json")


@attempt
def write_claude_md():
    return put("CLAUDE.md")


@attempt
def remount_the_directory():
    # MS_REMOUNT | MS_BIND
    return call((165, 40), b"none", os.getcwd().encode(), b"", ctypes.c_ulong(0x1020), None) == 0


@attempt
def write_through_the_descriptor_of_the_directory():
    for fd in range(3, 64):
        try:
            os.open("written", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        except OSError:
            continue
        return True
    return False


# --- the machine -----------------------------------------------------------------------


@attempt
def write_in_shared_memory():
    return put("/dev/shm/" + FACTS["mark"] + "-shm")


@attempt
def write_in_the_shared_tmp():
    return put("/tmp/" + FACTS["mark"] + "-tmp")


@attempt
def write_a_cron_job():
    return put("/etc/cron.d/" + FACTS["mark"])


@attempt
def write_a_crontab():
    return put("/var/spool/cron/crontabs/" + FACTS["mark"])


@attempt
def use_crontab():
    done = subprocess.run(["crontab", "-"], input=b"# x\n", capture_output=True)
    return done.returncode == 0


@attempt
def read_the_shadow_file():
    return bool(open("/etc/shadow").read(1))


@attempt
def read_all_of_etc():
    return get("/etc/" + FACTS["mark"])


@attempt
def set_the_core_pattern():
    return put("/proc/sys/kernel/core_pattern", b"|/bin/false", 0)


@attempt
def write_in_sys():
    return put("/sys/kernel/mm/ksm/run", b"0", 0)


@attempt
def set_an_oom_score_of_another():
    return put(f"/proc/{victim()}/oom_score_adj", b"1000", 0)


@attempt
def gain_rights_by_a_setuid_program():
    done = subprocess.run([FACTS["setuid"], "-u"], capture_output=True, text=True)
    return os.getuid() != 0 and done.stdout.strip() == "0"


@attempt
def set_the_time():
    return call((227, 112), 0, struct.pack("qq", 1, 0)) == 0


@attempt
def set_the_host_name():
    return call((170, 161), b"escaped", ctypes.c_size_t(7)) == 0


# --- other processes -------------------------------------------------------------------


@attempt
def read_the_root_of_a_process():
    return get(f"/proc/{victim()}/root{home('.ssh/id_rsa')}")


@attempt
def read_the_cwd_of_a_process():
    return get(f"/proc/{victim()}/cwd/.ssh/id_rsa")


@attempt
def read_the_environment_of_a_process():
    return get(f"/proc/{victim()}/environ")


@attempt
def read_the_memory_of_a_process():
    fd = os.open(f"/proc/{victim()}/mem", os.O_RDONLY)
    return len(os.pread(fd, 8, FACTS["address"])) > 0


@attempt
def list_the_descriptors_of_a_process():
    return any(home() in os.readlink(f"/proc/{victim()}/fd/{fd}")
               for fd in os.listdir(f"/proc/{victim()}/fd"))  # fmt: skip


@attempt
def read_the_command_line_of_a_process():
    return b"victim" in open(f"/proc/{victim()}/cmdline", "rb").read()


@attempt
def find_a_process_of_the_machine():
    return any(
        b"victim.py" in open(f"/proc/{name}/cmdline", "rb").read()
        for name in os.listdir("/proc")
        if name.isdigit() and os.path.exists(f"/proc/{name}/cmdline")
    )


@attempt
def trace_a_process():
    done = call((101, 117), 16, victim(), None, None) == 0  # PTRACE_ATTACH stops it
    os.waitpid(victim(), 0)
    call((101, 117), 17, victim(), None, None)  # PTRACE_DETACH
    return done


@attempt
def read_memory_by_a_system_call():
    there = ctypes.create_string_buffer(8)
    local = struct.pack("@QQ", ctypes.addressof(there), 8)
    remote = struct.pack("@QQ", FACTS["address"], 8)
    one = ctypes.c_ulong(1)
    return call((310, 270), victim(), local, one, remote, one, ctypes.c_ulong(0)) > 0


@attempt
def take_a_descriptor_of_a_process():
    pidfd = os.pidfd_open(victim())
    return call(438, pidfd, 0, 0) >= 0


@attempt
def signal_a_process():
    os.kill(victim(), signal.SIGUSR1)
    return True


@attempt
def signal_a_process_by_its_pidfd():
    signal.pidfd_send_signal(os.pidfd_open(victim()), signal.SIGUSR1)
    return True


@attempt
def signal_everybody():
    if not FACTS["alone"]:
        return False  # it would reach every process of this user, if nothing stopped it
    os.kill(-1, signal.SIGUSR1)
    return None  # it reaches its own; the victim's counter says the rest


@attempt
def signal_by_input():
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, victim())
    fcntl.fcntl(ours, 10, signal.SIGUSR1)  # F_SETSIG
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    theirs.send(b"x")
    return None


@attempt
def limit_a_process():
    return call((302, 261), victim(), 0, struct.pack("QQ", 1, 1), None) == 0  # RLIMIT_CPU


@attempt
def renice_a_process():
    return call((141, 140), 0, victim(), 19) == 0


@attempt
def bind_a_process_to_a_cpu():
    return call((203, 122), victim(), ctypes.c_size_t(8), struct.pack("Q", 1)) == 0


@attempt
def set_the_io_priority_of_a_process():
    return call((251, 30), 1, victim(), 3 << 13) == 0


# --- sockets and the network -----------------------------------------------------------


def connect(family, address, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family, kind, protocol) as one:
        one.settimeout(2)
        one.connect(address)
        one.send(sys.argv[2].encode())
    return True


@attempt
def connect_to_a_unix_socket():
    return connect(socket.AF_UNIX, FACTS["unix"])


@attempt
def connect_to_an_abstract_socket():
    return connect(socket.AF_UNIX, "\0" + FACTS["mark"])


@attempt
def send_a_datagram_to_a_unix_socket():
    return connect(socket.AF_UNIX, FACTS["unix_datagram"], socket.SOCK_DGRAM)


@attempt
def send_from_a_pair_of_datagram_sockets():
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.connect(FACTS["unix_datagram"])
    return ours.send(sys.argv[2].encode()) > 0


@attempt
def connect_to_a_loopback_port():
    return connect(socket.AF_INET, ("127.0.0.1", FACTS["tcp"]))


@attempt
def connect_to_a_loopback_port_by_ipv6():
    return connect(socket.AF_INET6, ("::1", FACTS["tcp"]))


@attempt
def connect_with_multipath_tcp():
    return connect(socket.AF_INET, ("127.0.0.1", FACTS["tcp"]), protocol=262)


@attempt
def connect_with_the_first_data():
    with socket.socket() as one:  # blocking: it has to get so far as to be seen outside
        return one.sendto(sys.argv[2].encode(), 0x20000000, ("127.0.0.1", FACTS["tcp"])) > 0


@attempt
def connect_with_the_first_data_of_a_message():
    with socket.socket() as one:
        mark = [sys.argv[2].encode()]
        return one.sendmsg(mark, [], 0x20000000, ("127.0.0.1", FACTS["tcp"])) > 0


@attempt
def connect_to_the_allowed_port_at_another_address():
    return connect(socket.AF_INET, ("127.0.0.2", FACTS["allowed"]))


@attempt
def connect_to_the_allowed_port_of_the_machine():
    return connect(socket.AF_INET, ("127.0.0.1", FACTS["allowed"]))


@attempt
def connect_to_the_machines_own_address():
    return connect(socket.AF_INET, (FACTS["address_of_machine"], FACTS["tcp"]))


@attempt
def listen_on_a_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", FACTS["free"]))
        one.listen()
        time.sleep(0.5)  # for whoever outside tries to connect
    return True


@attempt
def send_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(sys.argv[2].encode(), ("127.0.0.1", FACTS["udp"])) > 0


@attempt
def send_udp_by_ipv6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        return one.sendto(sys.argv[2].encode(), ("::1", FACTS["udp"])) > 0


@attempt
def open_a_raw_socket():
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno() >= 0


@attempt
def open_a_packet_socket():
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno() >= 0


@attempt
def open_a_vsock():
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).fileno() >= 0


@attempt
def open_a_netlink_socket():
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).fileno() >= 0


@attempt
def open_a_sctp_socket():
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).fileno() >= 0


@attempt
def resolve_a_name():
    return bool(socket.getaddrinfo("example.com", 443))


@attempt
def see_other_interfaces():
    return any(name != "lo" for _index, name in socket.if_nameindex())


@attempt
def use_io_uring():
    return call(425, 1, ctypes.create_string_buffer(120)) >= 0


# --- what all processes of a user share ------------------------------------------------


@attempt
def find_an_inherited_descriptor():
    return bool(FACTS["inherited"])


@attempt
def find_a_secret_in_the_environment():
    return any(FACTS["secret"] in value for value in os.environ.values())


@attempt
def find_a_secret_in_its_command_line():
    return any(get(f"/proc/{pid}/cmdline") for pid in (1, os.getppid()))


@attempt
def attach_shared_memory():
    LIBC.shmat.restype = ctypes.c_void_p
    where = LIBC.shmat(FACTS["shm"], None, 0)
    if where in (None, 2**64 - 1):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


@attempt
def read_a_message_queue():
    return call((240, 180), (FACTS["mark"] + "-mq").encode(), os.O_RDONLY, 0, None) >= 0


@attempt
def read_the_user_keyring():
    kind, name = b"user\0", (FACTS["mark"] + "\0").encode()
    return call((249, 218), kind, name, None, -4) > 0  # request_key, user keyring


@attempt
def add_a_key():
    kind, name = b"user\0", (FACTS["mark"] + "-new\0").encode()
    return call((248, 217), kind, name, b"x", ctypes.c_size_t(1), -4) > 0


# --- namespaces, mounts, the kernel ----------------------------------------------------


@attempt
def mount_something():
    return call((165, 40), b"none", b"/mnt", b"tmpfs", ctypes.c_ulong(0), None) == 0


@attempt
def unmount_something():
    return call((166, 39), b"/proc", 2) == 0


@attempt
def mount_by_the_new_calls():
    return call(430, b"tmpfs", 0) >= 0


@attempt
def make_a_user_namespace():
    return call((272, 97), 0x10000000) == 0


@attempt
def clone_a_user_namespace():
    child = call((56, 220), ctypes.c_ulong(0x10000000 | signal.SIGCHLD), None, None, None, None)
    if child == 0:
        os._exit(0)
    return True


@attempt
def clone3_a_user_namespace():
    wanted = struct.pack("QQQQQQQQ", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    child = call(435, wanted, ctypes.c_size_t(len(wanted)))
    if child == 0:
        os._exit(0)
    return True


@attempt
def enter_another_namespace():
    return call((308, 268), os.open(f"/proc/{victim()}/ns/net", os.O_RDONLY), 0) == 0


@attempt
def change_the_root():
    return call((161, 51), b"/tmp") == 0


@attempt
def open_by_a_handle():
    handle = struct.pack("Ii", 128, 0) + bytes(128)
    return call((303, 264), -100, home(".ssh/id_rsa").encode(), handle, bytes(8), 0) == 0


@attempt
def load_a_bpf_program():
    return call((321, 280), 0, bytes(72), 72) >= 0


@attempt
def open_a_perf_event():
    return call((298, 241), struct.pack("II", 1, 112) + bytes(104), 0, -1, -1, 0) >= 0


@attempt
def use_userfaultfd():
    return call((323, 282), 1) >= 0


@attempt
def push_input_to_a_terminal():
    ours, _theirs = os.openpty()
    fcntl.ioctl(ours, 0x5412, b"x")
    return True


@attempt
def gain_a_capability():
    return any(
        line.startswith("CapEff") and int(line.split()[1], 16) for line in open("/proc/self/status")
    )


# --- modes, owners, times --------------------------------------------------------------


@attempt
def open_the_ssh_directory_to_all():
    os.chmod(home(".ssh"), 0o777)
    return True


@attempt
def close_the_state_directory():
    os.chmod(FACTS["victims_state"], 0)
    return True


@attempt
def change_a_mode_in_the_directory():
    os.chmod("note", 0o777)
    return True


@attempt
def change_the_time_of_a_file():
    os.utime(home(".bashrc"), (1, 1))
    return True


@attempt
def change_the_time_of_a_file_in_the_directory():
    os.utime("note", (1, 1))
    return True


@attempt
def set_an_attribute():
    os.setxattr(home(".bashrc"), "user.x", b"x")
    return True


@attempt
def change_an_owner():
    os.chown(home(".bashrc"), os.getuid(), os.getgid())
    return True


# --- too much --------------------------------------------------------------------------


@attempt
def open_too_many_files():
    kept = []
    for _ in range(5000):
        kept.append(os.open("/dev/null", os.O_RDONLY))
    return True


@attempt
def write_a_file_that_is_too_large():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open(os.environ["TMPDIR"] + "/large", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 2 << 30)
    return True


@attempt
def take_too_much_memory():
    return len(mmap.mmap(-1, 16 << 30)) > 0


@attempt
def raise_a_limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))
    return True


@attempt
def start_too_many_processes():
    # Children wait for the end of this pipe, so all go when this process does.
    source, sink = os.pipe()
    children = []
    try:
        for _ in range(700):
            child = os.fork()
            if child == 0:
                os.close(sink)
                os.read(source, 1)
                os._exit(0)
            children.append(child)
        return True
    finally:
        # One that is still dying counts, so what comes after could not start a process.
        os.close(sink)
        for child in children:
            os.waitpid(child, 0)


@attempt
def outlive_the_task():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    return None


# --- what has to work ------------------------------------------------------------------


def control(function):
    ATTEMPTS["control_" + function.__name__] = function
    return function


@control
def read_the_directory():
    return "a note" in open("note").read()


@control
def write_tmp():
    return put(os.environ["TMPDIR"] + "/own") and put(os.environ["HOME"] + "/own")


@control
def run_a_program():
    return (
        subprocess.run(
            ["/bin/sh", "-c", "ls . >/dev/null && cat note >/dev/null"], check=True
        ).returncode
        == 0
    )


@control
def use_a_pair_of_sockets():
    ours, theirs = socket.socketpair()
    ours.send(b"x")
    return theirs.recv(1) == b"x"


@control
def read_who_one_is():
    return "root" in open("/etc/passwd").read()


@control
def use_devices():
    return put("/dev/null", b"x", 0) and len(open("/dev/urandom", "rb").read(4)) == 4


@control
def start_a_thread():
    import threading

    done = threading.Event()
    threading.Thread(target=done.set).start()
    return done.wait(5)


def one(name, function):
    """Run one attempt in a child; return whether it saw success, and what it was told."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        os.setpgid(0, 0)
        sys.argv = [sys.argv[0], sys.argv[1], name]
        try:
            words = {"through": function(), "said": ""}
        except (OSError, ValueError, subprocess.SubprocessError, MemoryError) as error:
            words = {"through": False, "said": f"{type(error).__name__}: {error}"}
        os.write(sink, json.dumps(words).encode())
        os._exit(0)
    os.close(sink)
    ready = select.select([source], [], [], ATTEMPT_LIMIT_S)[0]
    said = os.read(source, 65536) if ready else b""
    os.close(source)
    if name != "outlive_the_task":
        try:
            os.killpg(child, signal.SIGKILL)
        except OSError:
            pass
    os.waitpid(child, 0)
    return json.loads(said) if said else {"through": False, "said": "it was ended"}


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def main():
    FACTS["inherited"] = [fd for fd in range(3, 1024) if is_open(fd)]
    with open(sys.argv[1], encoding="utf-8") as file:
        FACTS.update(json.load(file))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # one attempt sends it to everybody
    for name, function in ATTEMPTS.items():
        print(json.dumps({"name": name, **one(name, function)}), flush=True)


if __name__ == "__main__":
    main()
