"""Runs a command and outlives it only to leave nothing: when its standard input closes, everything that the command started is killed.

    python keeper.py <command> …

Servers like Ray and BentoML start processes that start processes, some of them detached. The keeper is their reaper, so orphans become its
children; its standard input is a pipe from the benchmark, so it closes whatever ends the benchmark, a SIGKILL included.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    sys.stdin.read()
    me = psutil.Process()
    while family := [child for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]:
        for child in family:
            child.kill()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
