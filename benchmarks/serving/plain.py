"""What somebody writes in an afternoon: FastAPI and ONNX Runtime, a raw body of pixels in, class and confidence out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request
from nets import CLASSES, NETS


def app_of(net_name: str, onnx: Path) -> FastAPI:
    net = NETS[net_name]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx.read_bytes(), options, providers=["CPUExecutionProvider"])
    shape = (1, net.shape.height, net.shape.width, net.shape.channels)
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> dict[str, object]:
        image = np.frombuffer(await request.body(), np.uint8).reshape(shape)
        (logits,) = session.run(["logits"], {"image": image})
        scores = np.exp(logits[0] - logits[0].max())
        best = int(scores.argmax())
        return {"class": CLASSES[best], "confidence": float(scores[best] / scores.sum())}

    return app


if __name__ == "__main__":
    name, file, descriptor = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    uvicorn.run(
        app_of(name, file), fd=descriptor, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
