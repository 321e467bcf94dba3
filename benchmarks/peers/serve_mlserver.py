"""MLServer with a custom runtime: the Open Inference Protocol with base64, or a raw body through a custom handler.

    python serve_mlserver.py '{"port": 8000, …, "batch": 32, "wait": 0.005, "workers": 0}'

Its REST server knows no binary extension of the protocol, so the smallest standard body is a base64 string in JSON; the custom handler at
`/raw` spares even that. Both pass through its adaptive batching where `batch` is above 1.
"""

import asyncio
import base64
import json
import os
import socket
import sys

from classifier import Classifier
from fastapi import Request, Response
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

SETTINGS = json.loads(os.environ.get("PEER") or sys.argv[1])
os.environ["PEER"] = json.dumps(SETTINGS)


class Net(MLModel):
    """One input of kind BYTES, one output of kind BYTES: the answer as JSON."""

    async def load(self) -> bool:
        self._net = Classifier(SETTINGS["onnx"], SETTINGS["shape"], SETTINGS["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (tensor,) = payload.inputs
        found = getattr(tensor.data, "root", tensor.data)
        encoded = tensor.parameters is not None and tensor.parameters.content_type == "base64"
        answers = self._net.many([base64.b64decode(item) for item in found] if encoded else found)
        data = [json.dumps(answer) for answer in answers]
        output = ResponseOutput(name="answer", shape=[len(data), 1], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/raw")
    async def raw(self, request: Request) -> Response:
        tensor = RequestInput(
            name="image", shape=[1, 1], datatype="BYTES", data=[await request.body()],
            parameters=Parameters(content_type="raw"),
        )  # fmt: skip
        with model_context(self.settings):
            answer = await self.predict(InferenceRequest(inputs=[tensor]))
        return Response(
            getattr(answer.outputs[0].data, "root", answer.outputs[0].data)[0], media_type="application/json"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1", http_port=SETTINGS["port"], grpc_port=free_port(), metrics_endpoint=None, debug=False,
        parallel_workers=SETTINGS["workers"], gzip_enabled=False, use_structured_logging=False,
    )  # fmt: skip
    model = ModelSettings(
        name="net", implementation=Net, max_batch_size=SETTINGS["batch"], max_batch_time=SETTINGS["wait"],
        parameters=ModelParameters(version="v1"),
    )  # fmt: skip
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
