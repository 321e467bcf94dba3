"""The inference worker as a process: real model, real Redis, real signals."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from continual_clients.health import probe
from continual_contract import settings
from continual_contract.artifacts import Blob
from continual_contract.errors import IntegrityError, NotFoundError, UsageError
from continual_contract.keys import ModelKeys

Onnx = Callable[[int], bytes]


def is_exactly_once(bench: Any, sent: list[str]) -> bool:
    """The ledger check: accepted = predictions + dead letters, by request id, each once."""
    answered = Counter(p.request_id for p in bench.predictions())
    answered.update(fields[b"r"].decode() for fields in bench.dead())
    return answered == Counter(sent)


def test_requests_are_answered_with_class_version_digest_and_role(bench: Any, onnx_of: Onnx) -> None:
    """Ready before any route; then every request gets the right class; SIGTERM ends it with 0."""
    digest = bench.publish(onnx_of(0))
    worker = bench.start(digest)
    worker.wait_ready()
    sent = bench.send(500)
    assert bench.predictions() == []
    bench.route([("v1", 10_000)])
    bench.wait(lambda: len(bench.predictions()) == 500)
    assert is_exactly_once(bench, sent)
    by_request = {p.request_id: p for p in bench.predictions()}
    for n, request_id in enumerate(sent):
        prediction = by_request[request_id]
        assert prediction.class_name == f"class {n % 10}"
        assert prediction.digest_prefix == digest.removeprefix("sha256:")[:12]
        assert (prediction.version, prediction.role, prediction.why) == ("v1", "stable", "owner")
        assert 0.9 < prediction.confidence <= 1
    assert worker.terminate() == 0
    assert [line["message"] for line in worker.log_lines()][-1] == "stopped"


def test_an_image_of_the_wrong_size_is_a_dead_letter_and_its_neighbours_are_answered(
    bench: Any, onnx_of: Onnx, keys: ModelKeys
) -> None:
    """Reason and message say field, value and remedy; the request is kept in the letter; it is not retried."""
    bench.start(bench.publish(onnx_of(0))).wait_ready()
    first = bench.send(20)
    wrong = [
        bench.client.xadd(keys.requests, {"d": b"\0" * 10}).decode(),
        bench.client.xadd(keys.requests, {"d": b"GIF89a", "enc": "gif"}).decode(),
        bench.client.xadd(keys.requests, {"x": b"no image at all"}).decode(),
    ]
    last = bench.send(20)
    bench.route([("v1", 10_000)])
    bench.wait(lambda: len(bench.dead()) == 3 and len(bench.predictions()) == 40)
    assert is_exactly_once(bench, [*first, *wrong, *last])
    letters = {fields[b"r"].decode(): fields for fields in bench.dead()}
    assert {fields[b"reason"] for fields in letters.values()} == {b"InvalidImage"}
    assert letters[wrong[0]][b"message"].decode().startswith("d: has the wrong length for 28x28x1 (got '10 bytes')")
    assert b"use png, jpeg or raw bytes" in letters[wrong[1]][b"message"]
    assert b"send 784 raw uint8 bytes" in letters[wrong[2]][b"message"]
    assert letters[wrong[0]][b"x-d"] == b"\0" * 10
    assert bench.pending() == 0


def test_a_png_is_answered_like_its_raw_pixels(bench: Any, onnx_of: Onnx, keys: ModelKeys) -> None:
    """`enc: png`, decoded by the worker."""
    import io

    import numpy as np
    from PIL import Image

    image = np.zeros((28, 28), np.uint8)
    image[0, 7] = 255
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    bench.start(bench.publish(onnx_of(0))).wait_ready()
    bench.client.xadd(keys.requests, {"d": buffer.getvalue(), "enc": "png"})
    bench.client.xadd(keys.requests, {"d": image.tobytes()})
    bench.route([("v1", 10_000)])
    bench.wait(lambda: len(bench.predictions()) == 2)
    assert [p.class_name for p in bench.predictions()] == ["class 7", "class 7"]


@pytest.mark.parametrize("how", ["terminate", "kill9"])
def test_a_worker_that_leaves_under_load_loses_nothing(bench: Any, onnx_of: Onnx, keys: ModelKeys, how: str) -> None:
    """SIGTERM leaves nothing pending and exits 0; after kill -9 the next worker takes over what was. Exactly one answer each.

    The two halves are each other's mutation check: only the graceful way must leave nothing pending, and a worker without it
    (kill -9) does leave something. Both are tried until they hit: a worker may be done before its signal comes.
    """
    digest = bench.publish(onnx_of(0))
    worker = bench.start(digest)
    worker.wait_ready()
    bench.route([("v1", 10_000)])
    sent: list[str] = []
    for attempt in range(20):
        before = bench.client.xlen(keys.predictions)
        worker.process.send_signal(signal.SIGSTOP)  # else it is done before the last request is sent
        sent += bench.send(6000, first=6000 * attempt)
        worker.process.send_signal(signal.SIGCONT)
        bench.wait(lambda before=before: bench.client.xlen(keys.predictions) > before)
        getattr(worker, how)()
        if how == "terminate":
            assert worker.process.returncode == 0
            assert bench.pending() == 0
        if bench.pending() or (how == "terminate" and not is_exactly_once(bench, sent)):
            break
        worker = bench.start(digest)
        worker.wait_ready()
    if how == "kill9":
        assert bench.pending() > 0
    assert not is_exactly_once(bench, sent)
    bench.start(digest).wait_ready()
    bench.wait(lambda: len(bench.predictions()) >= len(sent))
    assert is_exactly_once(bench, sent)
    assert bench.pending() == 0


def test_a_canary_answers_its_share_and_shadows_the_rest(bench: Any, onnx_of: Onnx) -> None:
    """Two versions on one stream: roles are stamped, shares are by hash, nothing is answered twice."""
    v1, v2 = bench.publish(onnx_of(0)), bench.publish(onnx_of(1), seed=1)
    bench.start(v1, "v1").wait_ready()
    bench.start(v2, "v2").wait_ready()
    bench.route([("v1", 10_000)])
    bench.route([("v1", 7000), ("v2", 3000)], shadow=["v1", "v2"], shadow_bp=10_000, salt="s")
    sent = bench.send(1000)
    bench.wait(lambda: len(bench.predictions()) == 1000)
    assert is_exactly_once(bench, sent)
    by_role = Counter((p.version, p.role) for p in bench.predictions())
    assert set(by_role) == {("v1", "stable"), ("v2", "canary")}
    assert abs(by_role["v2", "canary"] - 300) < 8 * (1000 * 0.3 * 0.7) ** 0.5  # ids hold the time: each run draws anew
    shift = {"v1": 0, "v2": 1}
    position = {request_id: n for n, request_id in enumerate(sent)}
    for p in bench.predictions():
        assert p.class_name == f"class {(position[p.request_id] + shift[p.version]) % 10}"


def flip_a_bit(path: Any) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_tampered_model_is_refused_and_the_old_version_goes_on(bench: Any, onnx_of: Onnx) -> None:
    """R3: one flipped bit: exit code 6, the reason once in the log and in the termination log; never ready."""
    good = bench.start(bench.publish(onnx_of(0)))
    good.wait_ready()
    bench.route([("v1", 10_000)])
    digest = bench.publish(onnx_of(1), seed=1)
    onnx: Blob = bench.registry.manifest(digest).onnx
    flip_a_bit(bench.folder / "store" / bench.registry.layout.blob(onnx.digest))
    bad = bench.start(digest, "v2")
    assert bad.process.wait(90) == IntegrityError.exit_code
    assert bad.termination_log.read_text().startswith("Integrity: blob: sha256:")
    gave_up = [line for line in bad.log_lines() if line["level"] == "error"]
    assert [line["reason"] for line in gave_up] == ["Integrity"]
    sent = bench.send(10)
    bench.wait(lambda: len(bench.predictions()) == 10)
    assert is_exactly_once(bench, sent)


def unsafe(bench: Any, onnx_of: Onnx) -> str:
    import onnx

    model = onnx.load_model_from_string(onnx_of(0))
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    return str(bench.publish(model.SerializeToString()))


GIVING_UP = [
    (unsafe, {}, IntegrityError.exit_code, "UnsafeModel: ONNX model: keeps weights outside the file"),
    (lambda *_: "sha256:" + "0" * 64, {}, NotFoundError.exit_code, "NotFound: object: is not in the store"),
    (lambda *_: "", {}, UsageError.exit_code, f"Usage: {settings.CHECKPOINT}: is not set"),
    (lambda *_: "", {settings.CPUS: "2"}, UsageError.exit_code, f"Usage: {settings.CHECKPOINT}: is not set"),
    (lambda *_: "x", {settings.BATCH_SIZE: "-1"}, UsageError.exit_code, f"Usage: {settings.BATCH_SIZE}"),
    (lambda *_: "x", {settings.STORE_URL: "ftp://x"}, UsageError.exit_code, "Usage: store URL"),
    (lambda b, o: b.publish(o(0)), {settings.DEVICE: "cuda"}, 4, "Unavailable: serving.device"),
]


@pytest.mark.parametrize(("checkpoint", "env", "code", "says"), GIVING_UP)
def test_a_worker_that_cannot_serve_says_why_once(
    bench: Any, onnx_of: Onnx, checkpoint: Callable[[Any, Onnx], str], env: dict[str, str], code: int, says: str
) -> None:
    """Exit code, log and termination log agree; no traceback; with two processes too."""
    worker = bench.start(checkpoint(bench, onnx_of), **env)
    assert worker.process.wait(90) == code, worker.log.read_text()
    assert worker.termination_log.read_text().startswith(says)
    assert "Traceback" not in worker.log.read_text()


def metric(health: str, name: str) -> float:
    answer = probe(health, "/metrics", timeout=20)
    assert answer is not None
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", answer[1].decode(), re.MULTILINE)
    return sum(map(float, values))


def test_metrics_count_per_model_version_and_role_only(bench: Any, onnx_of: Onnx) -> None:
    """Counters agree with the stream; no label can grow without bound."""
    worker = bench.start(bench.publish(onnx_of(0)))
    worker.wait_ready()
    bench.route([("v1", 10_000)])
    bench.send(300)
    bench.wait(lambda: len(bench.predictions()) == 300)
    bench.wait(lambda: metric(worker.health, "continual_published_total") == 300)
    assert metric(worker.health, "continual_images_total") == 300
    answer = probe(worker.health, "/metrics", timeout=20)
    assert answer is not None
    labels = set(re.findall(r'(\w+)="', answer[1].decode()))
    assert labels <= {"model", "version", "role", "le"}
    assert b'model="default/digits",role="stable",version="v1"' in answer[1]


def test_one_process_per_core_shares_the_work_and_survives_a_kill(bench: Any, onnx_of: Onnx, keys: ModelKeys) -> None:
    """Two processes, one readiness, summed metrics; a killed child is restarted and nothing is lost or doubled."""
    import psutil

    worker = bench.start(bench.publish(onnx_of(0)), **{settings.CPUS: "2"})
    worker.wait_ready()
    bench.route([("v1", 10_000)])
    children = psutil.Process(worker.process.pid).children()
    assert len(children) == 2
    sent: list[str] = []

    def both_work() -> bool:
        sent.extend(bench.send(100, first=len(sent)))
        return len(consumers(bench, keys)) == 2

    bench.wait(both_work)
    sent += bench.send(2000, first=len(sent))
    before = metric(worker.health, "continual_published_total")
    children[0].kill()
    bench.wait(lambda: len(bench.predictions()) >= len(sent))
    assert is_exactly_once(bench, sent)
    bench.wait(lambda: len(psutil.Process(worker.process.pid).children()) == 2)
    assert metric(worker.health, "continual_published_total") >= before
    worker.wait_ready()
    assert len(psutil.Process(worker.process.pid).children()) == 2
    assert worker.terminate() == 0
    assert not any(child.is_running() for child in children)
    assert bench.pending() == 0


def consumers(bench: Any, keys: ModelKeys) -> list[Any]:
    return list(bench.client.xinfo_consumers(keys.requests, "v1@1"))


def test_children_do_not_outlive_a_killed_supervisor(bench: Any, onnx_of: Onnx) -> None:
    """They notice the end of their standard input and leave gracefully."""
    import psutil

    worker = bench.start(bench.publish(onnx_of(0)), **{settings.CPUS: "2"})
    worker.wait_ready()
    children = psutil.Process(worker.process.pid).children()
    worker.kill9()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_worker_waits_for_redis_and_comes_back(bench: Any, onnx_of: Onnx, redis_server: Any) -> None:
    """Redis killed and restarted under it: the same process goes on, nothing is doubled."""
    worker = bench.start(bench.publish(onnx_of(0)))
    worker.wait_ready()
    bench.route([("v1", 10_000)])
    sent = bench.send(200)
    bench.wait(lambda: len(bench.predictions()) == 200)
    redis_server.restart()
    sent += bench.send(200, first=200)
    bench.wait(lambda: len(bench.predictions()) == 400)
    assert is_exactly_once(bench, sent)
    assert worker.process.poll() is None


def test_a_worker_without_redis_is_alive_and_not_ready_until_it_comes(
    bench: Any, onnx_of: Onnx, redis_server: Any
) -> None:
    """No crash loop while Redis starts later than its workers."""
    digest = bench.publish(onnx_of(0))
    redis_server.stop()
    worker = bench.start(digest)
    bench.wait(lambda: "consuming" in worker.log.read_text())
    assert probe(worker.health, "/healthz", timeout=20) == (200, b"alive\n")
    assert probe(worker.health, timeout=20) == (503, b"not ready\n")
    redis_server.start()
    worker.wait_ready()
    assert worker.terminate() == 0
