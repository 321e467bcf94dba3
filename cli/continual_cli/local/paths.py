"""Where local mode keeps everything: one folder, `$CONTINUAL_HOME`, readable by its owner only.

objects/{continualmodels,deployments,jobs,pods}/<name>.json   what an API server would hold
events/<model>.jsonl                                          what `kubectl get events` would show
redis/  store/                                                the data
gateway/                                                      token (0600), session key and port of the dashboard
logs/<component>/<pod>.log                                    output of each process
run/                                                          pidfiles, locks, sockets; worthless after a reboot
endpoints.json                                                where Redis and the store are (0600)
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from continual_contract.errors import UnavailableError

HOME_VARIABLE = "CONTINUAL_HOME"
NAMESPACE = "default"
"""The one namespace of local mode."""
SOCKET_PATH_LIMIT = 100
"""A unix socket's path has room for 107 bytes (104 on macOS)."""


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """`$CONTINUAL_HOME`, else the user's state folder."""
    if configured := environ.get(HOME_VARIABLE):
        return Path(configured).expanduser().absolute()
    state = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return (Path(state) / "continual").expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and the names in it."""

    root: Path

    def objects(self, kind: str) -> Path:
        """Folder of one kind: `ContinualModel` → objects/continualmodels."""
        return self.root / "objects" / f"{kind.lower()}s"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def gateway(self) -> Path:
        """Token, session key and port of the gateway (0700)."""
        return self.root / "gateway"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def objects_lock(self) -> Path:
        return self.run / "objects.lock"

    @property
    def up_lock(self) -> Path:
        """Held by a living `local up`."""
        return self.run / "up.lock"

    @property
    def up_state(self) -> Path:
        """What `local up` says about itself: {pid, phase, message, exit_code}."""
        return self.run / "up.json"

    def pod_folder(self, pod: str) -> Path:
        return self.run / "pods" / pod

    def socket(self, pod: str) -> Path:
        """Health socket of a pod; in the temporary folder when the home's path is too long for a socket."""
        short = hashlib.sha256(pod.encode()).hexdigest()[:12]
        path = self.run / "s" / short
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        tag = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"continual-{os.getuid()}-{tag}" / short

    def create(self) -> Home:
        """Make the folders; only the owner may look into them."""
        kinds = ("ContinualModel", "Deployment", "Job", "Pod")
        folders = [self.objects(kind) for kind in kinds]
        folders += [self.events, self.redis, self.store, self.logs, self.run / "pods", self.socket("x").parent]
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"the state folder cannot be made: {error.strerror}",
                field=HOME_VARIABLE,
                value=str(self.root),
                remedy="name a writable folder",
            ) from error
        return self
