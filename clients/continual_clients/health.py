"""`/healthz`, `/readyz` and `/metrics` of a process, over TCP or a unix socket.

A thread beside the work answers: liveness is "the thread still runs", readiness is the process's own word, metrics are
Prometheus text. In a pod the address is `host:port`; on a laptop it is a unix socket, so that no port is taken.
"""

from __future__ import annotations

import http.client
import socket
import socketserver
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from continual_contract.errors import AddressInUseError, UsageError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector, CollectorRegistry

TEXT = "text/plain; charset=utf-8"


class HealthServer:
    """Serves until closed; `start()` raises `AddressInUseError` when the address is taken."""

    def __init__(
        self,
        address: str,
        ready: Callable[[], bool],
        metrics_registry: CollectorRegistry | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.address, self.ready, self.alive, self.registry = address, ready, alive, metrics_registry
        self._server: socketserver.BaseServer | None = None

    def start(self) -> Self:
        """Bind and serve in a daemon thread; an empty address serves nobody."""
        if self.address:
            self._server = _bind(self.address, self)
            Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True).start()
        return self

    @property
    def port(self) -> int:
        """The bound TCP port (for `host:0`)."""
        assert isinstance(self._server, socketserver.TCPServer)
        return int(self._server.server_address[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of one GET."""
        if path == "/healthz":
            return _verdict(self.alive(), "alive", "dead")
        if path == "/readyz":
            return _verdict(self.ready(), "ready", "not ready")
        if path == "/metrics" and self.registry is not None:
            return 200, *_metrics(self.registry)
        return 404, TEXT, b"not found\n"


def _verdict(good: bool, yes: str, no: str) -> tuple[int, str, bytes]:
    return (200, TEXT, f"{yes}\n".encode()) if good else (503, TEXT, f"{no}\n".encode())


def _metrics(registry: Collector) -> tuple[str, bytes]:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 -- the trainer has no metrics

    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    health: HealthServer

    def do_GET(self) -> None:
        status, content_type, body = self.health.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Probes every second are no news."""

    def address_string(self) -> str:
        return "peer"


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A probe that hung up is no news."""


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A probe that hung up is no news."""


def _bind(address: str, health: HealthServer) -> socketserver.BaseServer:
    handler = type("Handler", (_Handler,), {"health": health})
    try:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            _remove_stale(path, address)
            return _UnixServer(str(path), handler)
        host, port = _host_and_port(address)
        return _TcpServer((host, port), handler)
    except OSError as error:
        raise AddressInUseError(
            f"cannot be listened on: {error.strerror or error}",
            field="HEALTH_ADDRESS",
            value=address,
            remedy="stop the other process or choose another address",
        ) from error


def _remove_stale(path: Path, address: str) -> None:
    """A socket file nobody answers on is left by a killed process."""
    if not path.exists():
        return
    if probe(address, "/healthz") is not None:
        raise AddressInUseError(
            "is in use", field="HEALTH_ADDRESS", value=address, remedy="stop the process that listens there"
        )
    path.unlink(missing_ok=True)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise UsageError(
            "is not an address", field="HEALTH_ADDRESS", value=address, remedy="use host:port or unix:/path"
        )
    return host.strip("[]"), int(port)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def probe(address: str, path: str = "/readyz", timeout: float = 1.0) -> tuple[int, bytes] | None:
    """GET `path` at a health address as a kubelet would; None when nobody answers in time."""
    if address.startswith("unix:"):
        connection: http.client.HTTPConnection = _UnixConnection(address.removeprefix("unix:"), timeout)
    else:
        host, port = _host_and_port(address)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
