"""Ray Serve on one node: a raw body, `serve.batch` where `batch` is above 1.

python serve_ray.py '{"port": 8000, …, "replicas": 1, "batch": 64, "wait": 0.002, "folder": "/tmp/r"}'
"""

import json
import signal
import sys

import ray
from classifier import Classifier
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

SETTINGS = json.loads(sys.argv[1])
BATCH = SETTINGS["batch"]


@serve.deployment(
    num_replicas=SETTINGS["replicas"], max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1},
    logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
)  # fmt: skip
class Net:
    def __init__(self, onnx: str, shape: list[int], threads: int) -> None:
        self._net = Classifier(onnx, shape, threads)

    @serve.batch(max_batch_size=max(2, BATCH), batch_wait_timeout_s=SETTINGS["wait"])
    async def many(self, bodies: list[bytes]) -> list[dict[str, object]]:
        return self._net.many(bodies)

    async def __call__(self, request: Request) -> dict[str, object]:
        body = await request.body()
        return await self.many(body) if BATCH > 1 else self._net.one(body)


if __name__ == "__main__":
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20, _temp_dir=SETTINGS["folder"], _node_ip_address="127.0.0.1",
    )  # fmt: skip
    serve.start(
        http_options={"host": "127.0.0.1", "port": SETTINGS["port"]},
        logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
    )
    serve.run(Net.bind(SETTINGS["onnx"], SETTINGS["shape"], SETTINGS["threads"]), route_prefix="/infer")
    signal.pause()
