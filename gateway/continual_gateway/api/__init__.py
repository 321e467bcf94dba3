"""The HTTP API, a module per family of addresses."""

from __future__ import annotations

from fastapi import APIRouter

from continual_gateway.api import health, inference, sessions


def routers() -> tuple[APIRouter, ...]:
    """In the order in which paths are tried: the busiest first."""
    return (inference.router, health.router, sessions.router)
