"""The node under the story: however it ends, the machine is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import configs
from kube import until
from node import CACHE, control_groups

SCRIPT = Path(__file__).with_name("node.py")
SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


def processes() -> list[str]:
    """Command lines that name the node's folder of state."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(CACHE / "e2e" / "run") in command:
            found.append(command)
    return found


def machine() -> dict[str, object]:
    """What a node could leave behind or change, apart from its own files and empty control groups."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return {
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()), "routes": routes, "nftables": tables,
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if "continual-e2e" in line or "/e2e/run" in line],
        "settings": {name: Path("/proc/sys", name).read_text() for name in SETTINGS},
        "processes": processes(),
    }  # fmt: skip


def test_a_killed_node_takes_everything_with_it() -> None:
    """SIGKILL of whoever started it: processes, mounts, network and packet filter are gone, the machine's settings untouched."""
    before = machine()
    started = subprocess.Popen([sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert started.stdout is not None
        assert "KUBECONFIG" in started.stdout.readline()
        during = machine()
        assert configs.CABLE in str(during["links"])
        assert len(during["processes"]) >= 6  # type: ignore[arg-type]  # a list of strings
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        started.stdout.close()
    until("the machine is as it was", lambda: machine() == before, 120, machine)
    assert all(
        not (group / "cgroup.procs").exists() or not (group / "cgroup.procs").read_text() for group in control_groups()
    )
