"""LitServe with a raw body: a dependency of FastAPI reads the bytes, LitServe's queues carry them to its workers.

python serve_litserve.py '{"port": 8000, …, "workers": 1, "servers": 1, "batch": 64, "wait": 0.002, "fast": true}'
"""

import json
import sys
from typing import Annotated

import litserve
from classifier import Classifier
from fastapi import Depends, Request

SETTINGS = json.loads(sys.argv[1])


async def _body(request: Request) -> bytes:
    return await request.body()


class Net(litserve.LitAPI):
    def setup(self, device: str) -> None:
        del device
        self._net = Classifier(SETTINGS["onnx"], SETTINGS["shape"], SETTINGS["threads"])

    def decode_request(self, request: Annotated[bytes, Depends(_body)]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: bytes | list[bytes]) -> object:
        return self._net.one(x) if isinstance(x, bytes) else self._net.many(x)

    def unbatch(self, output: list[object]) -> list[object]:
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


if __name__ == "__main__":
    net = Net(max_batch_size=SETTINGS["batch"], batch_timeout=SETTINGS["wait"], api_path="/infer")
    server = litserve.LitServer(
        net, accelerator="cpu", devices=1, workers_per_device=SETTINGS["workers"], fast_queue=SETTINGS["fast"]
    )
    server.run(
        host="127.0.0.1", port=SETTINGS["port"], num_api_servers=SETTINGS["servers"], log_level="warning",
        generate_client_file=False, access_log=False,
    )  # fmt: skip
