"""`helm test`: one prediction, asked of the gateway as any caller asks it.

    python -m continual_clients.smoke --url http://continual-gateway --token-file /etc/continual/token/token [--model digits]

A black image of the model's own size goes the whole way: gateway, stream, worker, answer. Waits until the model is ready; without
`--model` the first that becomes so. The standard library suffices: this runs from the operator's image.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from continual_contract.errors import ContinualError, NotFoundError, UnavailableError, UsageError

TRY_EVERY_SECONDS = 1.0
CALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Door:
    """The gateway and the token for it."""

    url: str
    token: str = field(repr=False)

    def call(self, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises `UnavailableError` for what may pass, `UsageError` for what will not."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 -- checked in `main`
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:  # noqa: S310 -- the same
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(error, path) from error
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"no answer: {error}", field="gateway", value=self.url, remedy="see the log of its pods"
            ) from error


def _refusal(error: urllib.error.HTTPError, path: str) -> ContinualError:
    with error:
        said = error.read(1000).decode(errors="replace")
    if error.code >= 500 or error.code in {404, 429}:
        return UnavailableError(f"answered {error.code}: {said}", field=path, remedy="see the log of its pods")
    return UsageError(f"answered {error.code}: {said}", field=path, remedy="check the token")


def ready_model(door: Door, wanted: str) -> str:
    """The model's name for the API, once a version of it answers. Raises `NotFoundError`, `UnavailableError`."""
    names = [str(model["model"]) for model in door.call("/v1/models")["models"]]
    chosen = [name for name in names if not wanted or wanted in {name, name.partition(".")[2]}]
    if not chosen:
        raise NotFoundError(
            f"the gateway knows {', '.join(names) or 'no model'}", field="model", value=wanted or None,
            remedy="apply one: kubectl apply -f examples/digits.yaml",
        )  # fmt: skip
    reasons = []
    for name in chosen:
        try:
            door.call(f"/v2/models/{quote(name)}/ready")
        except UnavailableError as error:
            reasons.append(error.describe())
        else:
            return name
    raise UnavailableError(
        f"no model is ready: {'; '.join(reasons)}", field="model", remedy="kubectl get continualmodels"
    )


def predict(door: Door, model: str) -> str:
    """Send a black image; the prediction in one line."""
    [takes] = door.call(f"/v2/models/{quote(model)}")["inputs"]
    shape = [1, *takes["shape"][1:]]
    size = shape[1] * shape[2] * shape[3]
    tensor = {"name": takes["name"], "datatype": takes["datatype"], "shape": shape, "data": [0] * size}
    outputs = door.call(f"/v2/models/{quote(model)}/infer", {"inputs": [tensor]})["outputs"]
    found = {output["name"]: output["data"][0] for output in outputs}
    return f"{model}: " + ", ".join(f"{name} {value}" for name, value in found.items())


def insist(door: Door, wanted: str, seconds: float) -> str:
    """Predict, trying again what may pass until the time is up; the last reason is raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return predict(door, ready_model(door, wanted))
        except (NotFoundError, UnavailableError):
            if time.monotonic() > deadline:
                raise
        time.sleep(TRY_EVERY_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m continual_clients.smoke", description=__doc__)
    parser.add_argument("--url", required=True, help="the gateway's address")
    parser.add_argument("--token-file", required=True, type=Path)
    parser.add_argument("--model", default="", help="name, or namespace.name; the first that is ready when left out")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds")
    options = parser.parse_args(arguments)
    try:
        if not options.url.startswith(("http://", "https://")):
            raise UsageError("is not an address", field="--url", value=options.url, remedy="use http://host:port")
        token = options.token_file.read_text().strip()
        print(insist(Door(options.url.rstrip("/"), token), options.model, options.timeout))
    except ContinualError as error:
        print(f"error: {error.describe()}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {options.token_file}: {error.strerror}; mount the secret", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
