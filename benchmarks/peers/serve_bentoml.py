"""BentoML: its own endpoint with adaptive batching (images as base64 in JSON), or a raw body at an application mounted into the service.

    python serve_bentoml.py '{"port": 8000, …, "workers": 1, "batch": 64, "wait_ms": 60000}'

Its server takes binary bodies for files (each through a temporary file) and refuses pickles from outside, so base64 in JSON is the cheapest
body that its batching takes; the mounted application at `/raw` spares that and is not batched.
"""

import base64
import json
import os
import sys

import bentoml
from classifier import Classifier
from fastapi import FastAPI, Request

SETTINGS = json.loads(os.environ.get("PEER") or sys.argv[1])
raw = FastAPI()


@bentoml.service(workers=SETTINGS["workers"], traffic={"timeout": 60, "max_concurrency": 256})
@bentoml.asgi_app(raw, path="/raw")
class Net:
    def __init__(self) -> None:
        self._net = Classifier(SETTINGS["onnx"], SETTINGS["shape"], SETTINGS["threads"])

    @bentoml.api(batchable=True, max_batch_size=SETTINGS["batch"], max_latency_ms=SETTINGS["wait_ms"], route="/infer")
    def infer(self, images: list[str]) -> list[dict[str, object]]:
        return self._net.many([base64.b64decode(image) for image in images])

    @raw.post("/infer")
    async def raw_infer(self, request: Request) -> dict[str, object]:
        return self._net.one(await request.body())


if __name__ == "__main__":
    os.environ |= {"PEER": sys.argv[1], "BENTOML_DO_NOT_TRACK": "True"}
    os.execv(  # noqa: S606 -- becomes its own command line
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", "serve_bentoml:Net", "--host", "127.0.0.1", "--port",
         str(SETTINGS["port"]), "--working-dir", os.path.dirname(os.path.abspath(__file__))],  # noqa: PTH100, PTH120
    )  # fmt: skip
