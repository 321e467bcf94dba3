"""The small parent of one process: it outlives `local up` and writes down how the process ended.

A child of `local up` that outlives it belongs to init, and nobody learns its exit code. So each process gets a parent of its own, as a
container gets a shim. It is run by path under `python -I -S`, imports nothing of ours, and holds one file lock that its child
inherits: while the lock is held the process (or a part of it) lives, so the same attempt is never started twice.

Usage: `shim.py FOLDER ATTEMPT`; FOLDER/spec-<n>.json has {command, env, cwd, log}; it writes start-<n>.json and exit-<n>.json.
"""

# ruff: noqa: PTH105, PTH110, PTH118, PTH123
# pathlib would double the start time and memory of a process that lives beside every other one.

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from types import FrameType

LOCK_TRIES = 40
START_ERROR = 128
"""Exit code when the command cannot be run at all, as container runtimes report it."""


def main(folder: str, attempt: str) -> int:
    if not take_lock(os.path.join(folder, "lock")):
        return 0
    if os.path.exists(os.path.join(folder, f"start-{attempt}.json")):
        return 0
    with open(os.path.join(folder, f"spec-{attempt}.json"), encoding="utf-8") as file:
        spec = json.load(file)
    killed_before = oom_kills()
    child, failure = start(spec, folder, attempt)
    forward_signals(child)
    code, signal_number, peak_kib = wait(child)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    record = {
        "exit_code": START_ERROR if failure else code,
        "signal": signal_number,
        "time": time.time(),
        "peak_kib": peak_kib,
        "oom": signal_number == signal.SIGKILL and oom_kills() > killed_before,
        "start_error": failure,
    }
    write(folder, f"exit-{attempt}.json", record)
    return 0


def take_lock(path: str) -> bool:
    """Take the lock for this process and its child; a short while, since `local up` may be probing it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.025)
        else:
            return True
    return False


def start(spec: dict[str, object], folder: str, attempt: str) -> tuple[int, str]:
    """Fork and exec; returns the pid and why the exec failed, if it did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run_child(spec, writing, folder, attempt)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return child, pipe.read().decode()


def run_child(spec: dict[str, object], failure_pipe: int, folder: str, attempt: str) -> None:
    """Become the command; never returns. The pid is written before the command runs: a process without a record cannot be."""
    try:
        os.setsid()
        me = os.getpid()
        record = {"pid": me, "ticks": start_ticks(me), "boot": boot_id(), "time": time.time()}
        write(folder, f"start-{attempt}.json", record)
        command = spec["command"]
        environment = spec["env"]
        assert isinstance(command, list)
        assert isinstance(environment, dict)
        os.chdir(str(spec["cwd"]))
        output = os.open(str(spec["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.execvpe(command[0], command, environment)  # noqa: S606 -- no shell is the point
    except OSError as error:
        os.write(failure_pipe, f"{error.strerror}: {error.filename}".encode())
    finally:
        os._exit(127)


def forward_signals(child: int) -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)


def wait(child: int) -> tuple[int, int, int]:
    """Exit code (128 + signal, as a shell says it), signal and peak memory in KiB."""
    _, status, usage = os.wait4(child, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return (128 + number if number else os.WEXITSTATUS(status)), number, usage.ru_maxrss


def write(folder: str, name: str, record: dict[str, object]) -> None:
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(temporary, os.path.join(folder, name))


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where /proc does not say. With the pid it names a process for ever."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])
    return 0


def boot_id() -> str:
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not say."""
    with contextlib.suppress(OSError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
