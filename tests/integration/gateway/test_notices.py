"""Webhook notices: one CloudEvent per event, from whichever replica is first, tried again a bounded number of times."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateway_stand import free_port


class Receiver:
    """A real HTTP server on 127.0.0.1; `refuse` of its next answers are 503."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.refuse = 0
        self.calls = 0
        lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    receiver.calls += 1
                    refused, receiver.refuse = receiver.refuse > 0, max(0, receiver.refuse - 1)
                if not refused:
                    receiver.events.append(body | {"media": self.headers["content-type"]})
                self.send_response(503 if refused else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silence."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook/secret-part"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    try:
        yield made
    finally:
        made.close()


def decision(sequence: int, action: str) -> dict:
    return {
        "sequence": sequence,
        "time": "2026-11-21T18:00:00Z",
        "action": action,
        "reason": "AccuracyHeld",
        "message": "m",
        "version": "v2",
    }


def test_what_happens_is_told_once_and_tried_again(fresh_stand, receiver):
    """Pins: what lies in the ledger when a gateway first sees a model is history; what comes later is told once, though a second gateway
    watches too and the receiver refuses twice; what nobody need know is not told; the address is in no log."""
    stand = fresh_stand()
    stand.set_status(decisions=[decision(1, "Promote")])
    env = {"CONTINUAL_GATEWAY_WEBHOOK_URL": receiver.url, "CONTINUAL_INSTALLATION": "shop"}
    stand.start_gateway(**env)
    stand.wait(lambda: stand.client.hlen("ctm:{default/digits}:notices") == 1, 60)
    one, stand.port = stand.gateway, free_port()
    try:
        stand.start_gateway(**env)
        receiver.refuse = 2
        stand.set_status(
            decisions=[decision(1, "Promote"), decision(2, "Step"), decision(3, "Rollback")],
            canary={
                "version": "v3",
                "evidenceId": "v3-canary-4",
                "evidence": {"reason": "AwaitingApproval", "message": "gate passed"},
            },
        )
        stand.wait(lambda: len(receiver.events) == 2, 60)
    finally:
        one.kill()
        one.wait()
    stand.gateway.terminate()
    assert stand.gateway.wait(20) == 0
    assert receiver.calls == 4
    assert {event["type"] for event in receiver.events} == {"dev.continual.rollback", "dev.continual.awaiting-approval"}
    event = next(event for event in receiver.events if event["type"] == "dev.continual.rollback")
    assert event["specversion"] == "1.0"
    assert event["id"] == "default.digits/decision-3"
    assert event["source"] == "/continual/shop/default/digits"
    assert event["data"]["version"] == "v2"
    assert event["media"].startswith("application/cloudevents+json")
    assert "secret-part" not in stand.log()
