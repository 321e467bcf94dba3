"""What the operator's installation fixes for every model: endpoints, commands, images, secrets, the fencing token.

None of it can be set in a ContinualModel: a resource must not choose what runs or where its data goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from continual_operator.spec import Resources


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """How one component is started: the full command, its image where there are images, and who it is to Redis and the store."""

    command: tuple[str, ...]
    image: str = "continual"
    gpu_image: str | None = None
    """Used for `device: cuda`; None: the same image knows both."""
    redis_username: str | None = None
    redis_secret: str | None = None
    """Secret in the model's namespace, key `password`: mounted, never read by the operator."""
    store_secret: str | None = None
    """Secret in the model's namespace, key `credentials`."""
    resources: Resources = field(default_factory=Resources)
    """Where the model declares none."""
    data_root: str | None = None
    """Folder with named datasets (CONTINUAL_DATA)."""


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
    """Where no Secret is mounted: a file that is there already."""
    redis_username: str | None = None
    store_credentials_file: str | None = None
    installation: str = "local"
    """Everything in a shared Redis or bucket that is ours carries it."""
    data_root: str | None = None
    """Folder with named datasets (CONTINUAL_DATA), of a component that names none."""
    cpus: float = 1.0
    """CONTINUAL_CPUS of a worker whose resources declare no cpu."""
    training_cpus: float = 1.0
    health_address: str = "0.0.0.0:8081"
    grace: timedelta = timedelta(seconds=30)
    """terminationGracePeriodSeconds of workers."""
    extra_env: tuple[tuple[str, str], ...] = ()
    """Added to every child, e.g. OMP_NUM_THREADS or PATH of a virtual environment."""
    gpu_resource: str = "nvidia.com/gpu"
    """What a pod with `device: cuda` asks one of."""
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    disruption_budgets: bool = False
    """Whether there is somebody who evicts pods, and must be told how many may go at once."""
    status_interval: timedelta = timedelta(seconds=10)
    """Numbers in status are written at most this often; decisions at once."""
    busy_interval: timedelta = timedelta(seconds=2)
    idle_interval: timedelta = timedelta(seconds=15)
