"""What the operator's installation fixes for every model: endpoints, commands, images, the fencing token.

None of it can be set in a ContinualModel: a resource must not choose what runs or where its data goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """How one component is started: the full command, and its image where there are images."""

    command: tuple[str, ...]
    image: str = "continual"


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """One installation. Paths and URLs are as the children see them."""

    token: int
    """Fencing token: grows with every change of leadership; locally a counter under flock."""
    redis_url: str
    store_url: str
    inference: ComponentSettings
    evaluator: ComponentSettings
    trainer: ComponentSettings
    redis_password_file: str | None = None
    redis_username: str | None = None
    store_credentials_file: str | None = None
    installation: str = "local"
    """Everything in a shared Redis or bucket that is ours carries it."""
    data_root: str | None = None
    """Folder with named datasets (CONTINUAL_DATA)."""
    cpus: float = 1.0
    """CONTINUAL_CPUS of a worker whose resources declare no cpu."""
    training_cpus: float = 1.0
    health_address: str = "0.0.0.0:8081"
    grace: timedelta = timedelta(seconds=30)
    """terminationGracePeriodSeconds of workers."""
    extra_env: tuple[tuple[str, str], ...] = ()
    """Added to every child, e.g. OMP_NUM_THREADS or PATH of a virtual environment."""
    status_interval: timedelta = timedelta(seconds=10)
    """Numbers in status are written at most this often; decisions at once."""
    busy_interval: timedelta = timedelta(seconds=2)
    idle_interval: timedelta = timedelta(seconds=15)
