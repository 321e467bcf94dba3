"""The settings each contestant is tried at before the rounds; the fastest of each goes on.

One process or two, batching off or on and how long it waits, the body it takes. One thread of ONNX Runtime everywhere: with two threads on
two cores, shared with the server's own Python and the client, every peer was slower.
"""

from __future__ import annotations

from collections.abc import Mapping

from contestants import Setting

GATEWAY = "Continual's gateway"
TITLES: Mapping[str, str] = {
    "Continual": "Continual, Redis Streams",
    GATEWAY: GATEWAY,
    "fastapi": "FastAPI + ONNX Runtime",
    "mlserver": "MLServer",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
}


def settings_of(who: str) -> list[Setting]:
    return [Setting(who, options) for options in _OPTIONS[who]]


_OPTIONS: Mapping[str, list[dict[str, object]]] = {
    "Continual": [
        {"workers": 1, "batch": 64, "transaction": False},
        {"workers": 2, "batch": 32, "transaction": False},
        {"workers": 2, "batch": 16, "transaction": False},
        {"workers": 2, "batch": 32, "transaction": True},
        {"workers": 2, "batch": 24, "transaction": True},
        {"workers": 2, "batch": 16, "transaction": True},
    ],
    GATEWAY: [{"workers": 1, "batch": 64}, {"workers": 2, "batch": 64}, {"workers": 2, "batch": 16}],
    "fastapi": [
        {"body": "raw", "processes": 1, "pool": False},
        {"body": "raw", "processes": 2, "pool": False},
        {"body": "raw", "processes": 3, "pool": False},
        {"body": "raw", "processes": 2, "pool": True},
        {"body": "raw", "processes": 1, "pool": False, "threads": 2},
    ],
    "mlserver": [
        {"body": "v2", "workers": 0, "batch": 0, "wait": 0.0},
        {"body": "v2", "workers": 0, "batch": 32, "wait": 0.002},
        {"body": "v2", "workers": 2, "batch": 32, "wait": 0.002},
        {"body": "raw", "workers": 0, "batch": 0, "wait": 0.0},
        {"body": "raw", "workers": 0, "batch": 32, "wait": 0.002},
        {"body": "raw", "workers": 0, "batch": 64, "wait": 0.01},
    ],
    "litserve": [
        {"body": "raw", "workers": 1, "servers": 1, "batch": 1, "wait": 0.0, "fast": False},
        {"body": "raw", "workers": 1, "servers": 1, "batch": 32, "wait": 0.002, "fast": False},
        {"body": "raw", "workers": 1, "servers": 1, "batch": 32, "wait": 0.002, "fast": True},
        {"body": "raw", "workers": 1, "servers": 2, "batch": 32, "wait": 0.002, "fast": True},
        {"body": "raw", "workers": 2, "servers": 1, "batch": 1, "wait": 0.0, "fast": True},
    ],
    "bentoml": [
        {"body": "raw", "workers": 1, "batch": 32, "wait_ms": 1000},
        {"body": "raw", "workers": 2, "batch": 32, "wait_ms": 1000},
        {"body": "base64", "workers": 1, "batch": 32, "wait_ms": 1000},
        {"body": "base64", "workers": 2, "batch": 64, "wait_ms": 1000},
    ],
    "ray": [
        {"body": "raw", "replicas": 1, "batch": 1, "wait": 0.0},
        {"body": "raw", "replicas": 1, "batch": 32, "wait": 0.002},
        {"body": "raw", "replicas": 2, "batch": 1, "wait": 0.0},
    ],
}
