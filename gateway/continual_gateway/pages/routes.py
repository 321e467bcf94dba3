"""The pages: server-rendered, working without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

pages_router = APIRouter()


def mount_static(app: FastAPI) -> None:
    """Serve the web libraries, style and scripts under /static."""
    del app
