"""Open Inference Protocol over the stream, by our client and by one that is not ours."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from gateway_stand import CLASSES, SHAPE, TOKENS, first, picture, pixels

TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton

host, token, binary = sys.argv[1], sys.argv[2], sys.argv[3] == "binary"
headers = {"Authorization": f"Bearer {token}"}
client = triton.InferenceServerClient(host)
assert client.is_server_live() and client.is_server_ready(), "the server says it is not ready"
assert client.is_model_ready("digits", headers=headers)
metadata = client.get_model_metadata("digits", headers=headers)
images = np.zeros((3, 28, 28, 1), np.uint8)
for n in range(3):
    images[n, 0, n + 4, 0] = 255
tensor = triton.InferInput("image", list(images.shape), "UINT8")
tensor.set_data_from_numpy(images, binary_data=binary)
wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("class", "confidence")]
found = client.infer("digits", [tensor], outputs=wanted, headers=headers, request_id="mine")
everything = client.infer("digits", [tensor], headers=headers)
print(json.dumps({
    "metadata": metadata, "id": found.get_response()["id"],
    "classes": [one.decode() if isinstance(one, bytes) else one for one in found.as_numpy("class").tolist()],
    "confidence": found.as_numpy("confidence").tolist(), "dtype": str(found.as_numpy("confidence").dtype),
    "versions": [one.decode() for one in everything.as_numpy("version").tolist()],
}))
client.close()
"""


@pytest.mark.parametrize("kind", ["binary", "json"])
def test_tritons_client_is_answered(stand, kind):
    """Pins the protocol against an independent client, in both tensor formats. A process of its own, since its gevent patches sockets."""
    done = subprocess.run(
        [sys.executable, "-c", TRITON, f"127.0.0.1:{stand.port}", TOKENS["viewer"], kind],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["classes"] == ["class 4", "class 5", "class 6"]
    assert said["versions"] == ["v1"] * 3
    assert said["id"] == "mine"
    assert said["dtype"] == "float32"
    assert said["metadata"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]


def test_a_raw_body_is_answered_by_the_version_that_serves(stand, api):
    answer = stand.infer(api, pixels(7))
    assert first(answer) == "class 7"
    assert first(answer, "version") == "v1"
    found = api.get(f"/v1/models/digits/predictions/{first(answer, 'request_id')}").json()
    assert (found["state"], found["class"], found["version"]) == ("answered", "class 7", "v1")


@pytest.mark.parametrize(("encoding", "media"), [("PNG", "image/png"), ("WEBP", "image/webp"), ("JPEG", "image/jpeg")])
def test_an_image_file_is_a_request_as_it_is(stand, api, encoding, media):
    assert first(stand.infer(api, picture(3, encoding), media)) == "class 3"


def test_an_image_of_another_size_is_fitted(stand, api):
    """Pins Letterbox: a picture four times as large has the same bright corner."""
    assert first(stand.infer(api, picture(0, "PNG", (112, 112)), "image/png")) == "class 0"


def test_raw_pixels_of_another_size_are_fitted(stand, api):
    big = np.kron(np.frombuffer(pixels(5), np.uint8).reshape(28, 28), np.ones((2, 2), np.uint8))
    head = json.dumps({"inputs": [{
        "name": "image", "datatype": "UINT8", "shape": [1, 56, 56, 1], "parameters": {"binary_data_size": big.size},
    }]}).encode()  # fmt: skip
    answer = stand.infer(api, head + big.tobytes(), **{"inference-header-content-length": str(len(head))})
    assert first(answer) == "class 5"


def test_a_model_that_refuses_other_sizes_does(fresh_stand):
    stand = fresh_stand(model={
        "architecture": "mlp", "classes": list(CLASSES), "input": {"height": 28, "width": 28, "channels": 1, "fit": "Refuse"},
    })  # fmt: skip
    stand.start_gateway()
    with stand.api() as api:
        refused = stand.infer(api, picture(1, "PNG", (30, 30)), "image/png")
    assert refused.status_code == 400
    assert "28x28" in refused.json()["error"]


def test_files_in_a_bytes_tensor_are_answered_in_order(stand, api):
    files = [picture(n) for n in (2, 9)]
    as_json = {"inputs": [{
        "name": "image", "datatype": "BYTES", "shape": [2], "data": [base64.b64encode(file).decode() for file in files],
    }]}  # fmt: skip
    answer = api.post("/v2/models/digits/infer", json=as_json).json()
    assert answer["outputs"][0]["data"] == ["class 2", "class 9"]
    packed = b"".join(struct.pack("<I", len(file)) + file for file in files)
    head = json.dumps({"inputs": [{
        "name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(packed)},
    }]}).encode()  # fmt: skip
    binary = stand.infer(api, head + packed, **{"inference-header-content-length": str(len(head))})
    assert binary.json()["outputs"][0]["data"] == ["class 2", "class 9"]


def test_the_same_idempotency_key_is_the_same_request(stand, api):
    """Pins that a client may repeat after a lost reply: one entry, the same answer, also for a body that differs."""
    before = stand.ledger()[0]
    once, again = (stand.infer(api, pixels(n), **{"idempotency-key": "order-1"}) for n in (11, 12))
    assert first(once, "request_id") == first(again, "request_id")
    assert first(again) == "class 1"
    assert stand.ledger()[0] == before + 1


def test_partition_key_and_metadata_travel_with_the_request(stand, api):
    body = {"parameters": {"partition_key": "customer-7", "camera": "door"}, "inputs": [{
        "name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": list(pixels(4)),
    }]}  # fmt: skip
    request_id = first(api.post("/v2/models/digits/infer", json=body), "request_id")
    ((_, fields),) = stand.client.xrange("ctm:{default/digits}:requests", request_id, request_id)
    assert fields[b"k"] == b"customer-7"
    assert json.loads(fields[b"m"]) == {"camera": "door"}


def test_a_version_may_be_named_only_while_it_answers_everything(stand, api):
    named = api.post(
        "/v2/models/digits/versions/v1/infer", content=pixels(8), headers={"content-type": "application/octet-stream"}
    )
    assert first(named) == "class 8"
    assert api.get("/v2/models/digits/versions/v1/ready").json() == {"name": "digits", "ready": True}
    unknown = api.post("/v2/models/digits/versions/v9/infer", content=pixels(8))
    assert unknown.status_code == 404
    assert "v1" in unknown.json()["error"]


@pytest.mark.parametrize(
    ("body", "media", "status", "said"),
    [
        (b"", "application/octet-stream", 400, "784"),
        (b"x" * 783, "application/octet-stream", 400, "784"),
        (b"{", "application/json", 400, "JSON"),
        (b'{"inputs": []}', "application/json", 400, "inputs"),
        (b'{"inputs": [{"name": "other", "shape": [1], "datatype": "UINT8", "data": [1]}]}', "application/json", 400, "image"),
        (b'{"inputs": [{"name": "image", "shape": [1,28,28,1], "datatype": "FP32", "data": [1]}]}', "application/json", 400, "UINT8"),
        (b'{"inputs": [{"name": "image", "shape": [1,28,28,1], "datatype": "UINT8", "data": [300]}]}', "application/json", 400, "0 to 255"),
        (b"hello", "text/plain", 415, "application/json"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_is_wrong(stand, api, body, media, status, said):
    """Pins that nothing of it reaches the stream."""
    before = stand.ledger()[0]
    answer = stand.infer(api, body, media)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert stand.ledger()[0] == before


def test_a_batch_is_answered_in_order(stand, api):
    body = b"".join(pixels(n) for n in range(30))
    answer = stand.infer(api, body).json()
    assert answer["outputs"][0]["data"] == [f"class {n % 10}" for n in range(30)]
    assert answer["outputs"][0]["shape"] == [30]


def test_metrics_count_what_was_answered(stand, api):
    def count() -> float:
        lines = api.get("/metrics").text.splitlines()
        wanted = 'continual_gateway_answers_total{model="default.digits",outcome="Answered"}'
        return next((float(line.split()[-1]) for line in lines if line.startswith(wanted)), 0.0)

    before = count()
    stand.infer(api, pixels(1))
    assert count() == before + 1
    assert SHAPE.nbytes == len(pixels(1))
