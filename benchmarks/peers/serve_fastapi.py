"""What somebody writes in an afternoon: FastAPI and ONNX Runtime, a raw body of pixels in.

python serve_fastapi.py '{"port": 8000, "onnx": "net.onnx", "shape": [32, 32, 3], "processes": 2, "threads": 1, "pool": false}'
"""

import json
import os
import sys

import uvicorn
from classifier import Classifier
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

SETTINGS = json.loads(os.environ.get("PEER", "{}"))


def create() -> FastAPI:
    model = Classifier(SETTINGS["onnx"], SETTINGS["shape"], SETTINGS["threads"])
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> dict[str, object]:
        body = await request.body()
        return await run_in_threadpool(model.one, body) if SETTINGS["pool"] else model.one(body)

    return app


if __name__ == "__main__":
    os.environ["PEER"] = sys.argv[1]
    chosen = json.loads(sys.argv[1])
    uvicorn.run(
        "serve_fastapi:create", factory=True, host="127.0.0.1", port=chosen["port"], workers=chosen["processes"],
        loop="uvloop", http="httptools", access_log=False, log_level="warning",
    )  # fmt: skip
