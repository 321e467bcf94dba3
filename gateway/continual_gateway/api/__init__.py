"""The HTTP API, a module per family of addresses."""

from __future__ import annotations

from fastapi import APIRouter

from continual_gateway.api import corrections, health, inference, labels, models, samples, sessions


def routers() -> tuple[APIRouter, ...]:
    """In the order in which paths are tried: the busiest first."""
    return (
        inference.router,
        health.router,
        sessions.router,
        labels.router,
        corrections.router,
        samples.router,
        models.router,
    )
