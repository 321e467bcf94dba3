"""The Grafana dashboard beside the pages: its panels ask for what running processes tell, scraped from a home that serves."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PANELS = Path(__file__).resolve().parents[2] / "charts" / "continual" / "files" / "dashboard.json"
ASKED = re.compile(r"\b(continual_\w+)(?:\{([^}]*)\})?")
TOLD = re.compile(r"^(continual_\w+)(?:\{(.*)\})? ", re.MULTILINE)
FROM_PROMETHEUS = {"namespace", "pod", "le"}
OF_THE_CLUSTER = "continual_operator_"
"""The operator of one machine has no address for metrics; tests/cluster scrapes the cluster's."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def scraped(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/metrics")
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


@pytest.fixture
def told(world: Any, door: Any, traffic: None) -> dict[str, set[str]]:
    """Metric → labels, of every process of the home."""
    texts = []
    for path in world.home.socket("x").parent.iterdir():
        if path.is_socket():
            with suppress(ConnectionRefusedError, FileNotFoundError):  # of a process that is gone
                texts.append(scraped(UnixConnection(str(path))))
    texts.append(scraped(http.client.HTTPConnection(urlsplit(door.url).netloc, timeout=10)))
    found: dict[str, set[str]] = {}
    for name, labels in TOLD.findall("\n".join(texts)):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def asked() -> Iterator[tuple[str, str, set[str]]]:
    """Panel, metric, labels it is asked by."""
    for panel in json.loads(PANELS.read_text())["panels"]:
        for target in panel["targets"]:
            for name, selectors in ASKED.findall(target["expr"]):
                yield panel["title"], name, set(re.findall(r"(\w+)\s*[=!]~?", selectors)) - FROM_PROMETHEUS


def missing(told: dict[str, set[str]]) -> list[str]:
    """Panels whose metric nobody tells, or not with these labels."""
    return [
        f"{panel}: {name}"
        for panel, name, labels in asked()
        if not name.startswith(OF_THE_CLUSTER) and (name not in told or not labels <= told[name])
    ]


def test_every_panel_asks_for_what_the_running_processes_tell(told: dict[str, set[str]]) -> None:
    """No panel is empty for ever; mutation check: a metric that nobody told any more would be named."""
    assert missing(told) == []
    gone = {name: labels for name, labels in told.items() if name != "continual_backlog"}
    assert any("continual_backlog" in line for line in missing(gone))
