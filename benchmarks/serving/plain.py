"""What somebody writes in an afternoon: FastAPI and ONNX Runtime, a raw body of pixels in, class and confidence out.

Served at its best: uvloop and httptools, no access log, and the listening socket handed over as what it is. (uvicorn's own `fd=` calls it a
Unix socket, so that no TCP_NODELAY is set, and head and body of each answer, two writes, wait 40 ms for the client's delayed acknowledgement.)
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from nets import CLASSES, NETS


def app_of(net_name: str, onnx: Path, threads: int, *, pool: bool) -> FastAPI:
    """`threads` of ONNX Runtime; `pool`: the network runs in Starlette's thread pool, else in the event loop."""
    net = NETS[net_name]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx.read_bytes(), options, providers=["CPUExecutionProvider"])
    shape = (1, net.shape.height, net.shape.width, net.shape.channels)
    app = FastAPI()

    def classify(image: npt.NDArray[np.uint8]) -> dict[str, object]:
        (logits,) = session.run(["logits"], {"image": image})
        scores = np.exp(logits[0] - logits[0].max())
        best = int(scores.argmax())
        return {"class": CLASSES[best], "confidence": float(scores[best] / scores.sum())}

    @app.post("/infer", response_model=None)
    async def infer(request: Request) -> dict[str, object]:
        image = np.frombuffer(await request.body(), np.uint8).reshape(shape)
        return await run_in_threadpool(classify, image) if pool else classify(image)

    return app


def serve(options: Mapping[str, Any]) -> None:
    app = app_of(options["net"], Path(options["onnx"]), options["threads"], pool=options["pool"])
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=options["listener"])])


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
