"""A stranger with nothing but redis-cli and `docs/wire-format.md` takes part: its commands, word for word, against real processes."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from continual_clients.objectstore import FileStore
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import CheckpointManifest, HoldoutScores, InputShape, Normalization, StoreLayout
from continual_contract.config import EvaluatorConfig, ServedVersion
from continual_contract.functions import configure_call, route_call
from continual_contract.keys import ModelKeys
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "wire-format.md"
KEYS = ModelKeys("default", "digits")
SHAPE = InputShape(height=28, width=28, channels=1)
CLASSES = tuple(str(n) for n in range(10))


def blocks() -> list[str]:
    """The shell blocks of the document, in order."""
    return re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def brightest_pixel() -> bytes:
    """An ONNX file whose class is the brightest of the first ten pixels."""
    weights = np.zeros((SHAPE.nbytes, 10), np.float32)
    weights[np.arange(10), np.arange(10)] = 0.05
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 28, 28, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "g", [image], [logits], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start(module: str, url: str, folder: Path, **env: str) -> subprocess.Popen[bytes]:
    """A worker process, told by its environment where it is."""
    name = module.rpartition(".")[2]
    base = {
        "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1",
        settings.NAMESPACE: "default", settings.MODEL: "digits", settings.REDIS_URL: url,
        settings.STORE_URL: f"file://{folder}/store", settings.HEALTH_ADDRESS: f"unix:{folder}/{name}.sock",
        settings.POD_NAME: name,
    }  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            env=base | env,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one prctl call
        )


def publish_and_route(server: Any, folder: Path) -> str:
    """A served version v1: checkpoint in the store, route, the evaluator's orders. Digest of the checkpoint."""
    registry = Registry(FileStore(folder / "store"), StoreLayout("default", "digits"))
    digest = registry.publish(
        CheckpointManifest(
            namespace="default", model="digits", job="0123456789", mode="bootstrap", architecture="mlp", input=SHAPE,
            classes=CLASSES, normalization=Normalization(mean=(0.0,), std=(1.0,)), onnx=registry.put_blob(brightest_pixel()),
            scores=HoldoutScores(samples=0, accuracy=0, per_class={}, per_class_samples={}), parity_max_abs_diff=0.0,
        )
    )  # fmt: skip
    client = server.client()
    config = EvaluatorConfig(
        uid="u", token=1, sequence=1, classes=CLASSES, input=SHAPE, salt="s", window_seconds=60.0, audit_percent=100.0,
        versions=(ServedVersion(version="v1", digest=digest, role="stable"),),
    )  # fmt: skip
    client.execute_command(*route_call(KEYS, 0, 1, "u", [("v1", 10_000)], salt="s").command())
    client.execute_command(*configure_call(KEYS, "u", 1, config.model_dump_json()).command())
    return str(digest)


@pytest.fixture
def running_model(redis_server: Any, tmp_path: Path) -> Iterator[Any]:
    """Redis, inference worker and evaluator of one model."""
    redis_server.load_functions()
    digest = publish_and_route(redis_server, tmp_path)
    worker = {settings.VERSION: "v1", settings.CHECKPOINT: digest}
    processes = [
        start("continual_workers.inference", redis_server.url, tmp_path, **worker),
        start("continual_workers.evaluation", redis_server.url, tmp_path),
    ]
    try:
        yield redis_server
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


@pytest.fixture
def stranger(running_model: Any, tmp_path: Path) -> Callable[[str], str]:
    """Runs shell text in one session's folder, with what earlier blocks exported; the reply comes back."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    image = np.zeros((28, 28), np.uint8)
    image[0, 7] = 255
    (folder / "digit.raw").write_bytes(image.tobytes())
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    (folder / "digit.png").write_bytes(encoded.getvalue())
    session = folder / "session"
    session.write_text("")

    def run(text: str) -> str:
        text = text.replace("redis://127.0.0.1:6379", running_model.url)
        script = f"set -euo pipefail\nsource {session}\n{text}\ndeclare -p URL K ID PNG_ID BAD_ID 2>/dev/null > {session} || true\n"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert shutil.which("redis-cli")
    return run


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_commands_of_the_document_take_part_fully(
    stranger: Callable[[str], str], running_model: Any, tmp_path: Path
) -> None:
    """Ask raw, encoded, wrongly and under a name; read the answers; label two; see both labels counted and the wrong one dead."""
    client = running_model.client()
    where, ask, ask_png, ask_badly, ask_named, read, look_up, label, label_named, dead = blocks()
    stranger(where)
    stranger(ask)
    stranger(ask_png)
    stranger(ask_badly)
    first, known, again, new = (line.split(" ")[-1] for line in stranger(ask_named).split("\n")[:4])
    assert (first, known, new) == (again, "1", "0")
    logs = [path.read_text()[-1500:] for path in tmp_path.glob("*.log")]
    wait_for(lambda: client.xlen(KEYS.predictions) == 3 and client.xlen(KEYS.dead) == 1, f"no answers: {logs}")
    answers = stranger(read)
    assert answers.count("\nc\n7\n") == 3
    assert "\nv\nv1\n" in answers
    assert re.fullmatch(r"v1 \w+ stable owner \d\.\d{4} \d+ 7", stranger(look_up).strip())
    stranger(label)
    stranger(label_named)
    refused = stranger(dead)
    assert "\nx-d\nnot an image\n" in refused
    assert "\nreason\nInvalidImage\n" in refused
    wait_for(lambda: labels_counted(client) == (2, 2), f"labels not counted: {client.hget(KEYS.report, 'json')}")


def labels_counted(client: Any) -> tuple[int, int]:
    """Labels and right answers of v1, as the evaluator reports them."""
    raw = client.hget(KEYS.report, "json")
    scores = json.loads(raw)["versions"].get("v1") if raw else None
    return (scores["labels"], scores["correct"]) if scores else (0, 0)


@pytest.mark.parametrize("key", ["requests", "predictions", "labels", "dead"])
def test_the_document_names_every_public_stream(key: str) -> None:
    """A key that is renamed must be renamed where strangers read it."""
    assert getattr(KEYS, key) == f"ctm:{{default/digits}}:{key}"
    assert f"| `{key}` |" in DOCUMENT.read_text()
