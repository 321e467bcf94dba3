"""The first process inside the node: everything of the node lives in its namespaces and ends with it.

`node.py` starts this in fresh PID and mount namespaces. It makes the network namespace itself, because the other end of the cable stays
on the host, then starts what it is told to, line by line on its standard input, and buries the dead. When it ends, however it ends, the
kernel kills every process of the node and takes down its mounts, its network and its packet filter: nothing can be left behind but
control groups and files, which `node.py` removes.

Only the standard library: it runs before anything else is known to work.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

CLONE_NEWNET = 0x40000000
OWN_FOLDERS = ("/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni")
"""Where kubelet, containerd, its shims and the CNI plugins write whatever they are told: empty ones of the node's own."""
WRITTEN_BY_KUBELET = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip
"""Settings of the whole machine that kubelet insists on: it gets copies to write, the machine keeps its own."""
NODE_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0"}
_LIBC = ctypes.CDLL(None, use_errno=True)


def call(*command: str, fds: tuple[int, ...] = ()) -> None:
    """Run to the end; its own words are in the error."""
    done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")


def make_mounts(folder: Path) -> None:
    """Folders of the node's own over those of the host, and copies over the settings kubelet writes."""
    for path in OWN_FOLDERS:
        Path(path).mkdir(parents=True, exist_ok=True)
        call("mount", "-t", "tmpfs", "-o", "mode=755", "continual-e2e", path)
    for name in WRITTEN_BY_KUBELET:
        source, copy = Path("/proc/sys", name), folder / "sysctl" / name
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text())
            call("mount", "--bind", str(copy), str(source))


def make_network(cable: str, host: str, node: str, networks: list[str]) -> None:
    """A network namespace with one cable to the host, which learns the way to `networks` (pods, services)."""
    with open("/proc/self/ns/net", "rb") as outside:  # noqa: PTH123 -- a descriptor is what is wanted
        fd = outside.fileno()
        path = f"/proc/self/fd/{fd}"
        if _LIBC.unshare(CLONE_NEWNET):
            raise SystemExit(f"unshare: {os.strerror(ctypes.get_errno())}")
        call("ip", "link", "set", "lo", "up")
        call("ip", "link", "add", "eth0", "type", "veth", "peer", "name", cable, "netns", path, fds=(fd,))
        call("ip", "address", "add", f"{node}/30", "dev", "eth0")
        call("ip", "link", "set", "eth0", "up")
        call("ip", "route", "add", "default", "via", host)
        on_host = ("nsenter", f"--net={path}", "ip")
        call(*on_host, "address", "add", f"{host}/30", "dev", cable, fds=(fd,))
        call(*on_host, "link", "set", cable, "up", fds=(fd,))
        for network in networks:
            call(*on_host, "route", "add", network, "via", node, fds=(fd,))
    for name, value in NODE_SYSCTLS.items():
        Path("/proc/sys", name).write_text(value)


def bury(_signal: int, _frame: FrameType | None) -> None:
    """Reap every child, also those that containerd's shims left to the first process."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if name := SERVICES.pop(pid, None):
                print(json.dumps({"ended": name, "status": status}), flush=True)


SERVICES: dict[int, str] = {}


def start(order: dict[str, Any], logs: Path) -> None:
    """One service in a session of its own, its words in a log file."""
    with (logs / f"{order['name']}.log").open("ab") as log:
        process = subprocess.Popen(
            order["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env=os.environ | order.get("env", {}),
        )  # fmt: skip
    SERVICES[process.pid] = order["name"]
    process.returncode = 0  # buried by us: Popen must not wait for it
    print(json.dumps({"started": order["name"], "pid": process.pid}), flush=True)


def stop(name: str) -> None:
    for pid in [pid for pid, service in SERVICES.items() if service == name]:
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Mounts, network, then orders until the other side is gone."""
    plan = json.loads(sys.stdin.readline())
    folder = Path(plan["folder"])
    make_network(plan["cable"], plan["host"], plan["node"], plan["networks"])
    make_mounts(folder)
    signal.signal(signal.SIGCHLD, bury)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("stop"):
            stop(order["stop"])
        else:
            start(order, folder / "logs")


if __name__ == "__main__":
    main()
