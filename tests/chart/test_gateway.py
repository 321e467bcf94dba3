"""The gateway as the chart runs it: its service account, its Redis user, its tokens; and `helm test` asks it for a prediction."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chart_redis import Users
from chart_releases import SMALL, Release
from chart_rendering import env_of, one, render
from chart_tools import until
from chart_worlds import inference_tier
from continual_clients import smoke
from continual_clients.health import probe
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import StoreLayout
from continual_contract.keys import ModelKeys
from continual_gateway.settings import Limits, read_settings
from control_plane import MODELS, ControlPlane, free_port

SPEC = {
    "model": {
        "architecture": "mlp",
        "input": {"height": 28, "width": 28, "channels": 1},
        "classes": list(inference_tier.CLASSES),
    },
    "bootstrap": {"dataset": {"name": "digits"}},
}


@dataclass
class Gateway:
    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def token_file(self, person: str) -> Path:
        return self.folder / f"token-{person}"


def limits_of(values: dict[str, Any]) -> dict[str, str]:
    """What the gateway is told of bounds and proxies under these values."""
    [container] = one(render(values), "Deployment", "continual-gateway")["spec"]["template"]["spec"]["containers"]
    wanted = ("CONTINUAL_GATEWAY_BACKLOG", "CONTINUAL_GATEWAY_ANSWER_SECONDS", "CONTINUAL_GATEWAY_TRUSTED_PROXIES")
    return {name: value for name, value in env_of(container).items() if name in wanted}


def test_bounds_and_trusted_proxies_reach_the_gateway_as_it_reads_them(tmp_path: Path) -> None:
    """The chart's defaults are the gateway's own; large numbers are written out; proxies are told only where there are some."""
    assert limits_of({}) == {"CONTINUAL_GATEWAY_BACKLOG": "20000", "CONTINUAL_GATEWAY_ANSWER_SECONDS": "30"}
    told = limits_of(
        {"gateway": {"backlog": 5_000_000, "answerSeconds": 0.5, "trustedProxies": ["10.0.0.0/8", "fd00::1"]}}
    )
    assert told["CONTINUAL_GATEWAY_BACKLOG"] == "5000000"
    (tmp_path / "key").write_text("k" * 40)
    required = {
        settings.REDIS_URL: "redis://r:6379", settings.STORE_URL: "file:///s", "CONTINUAL_GATEWAY_TRUSTED_HEADER": "x-user",
        "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(tmp_path / "key"),
    }  # fmt: skip
    read = read_settings(required | told)
    assert (read.limits.backlog, read.limits.answer_seconds) == (5_000_000, 0.5)
    assert [str(network) for network in read.trusted_proxies] == ["10.0.0.0/8", "fd00::1/128"]
    assert read_settings(required | limits_of({})).limits == Limits()


@pytest.fixture
def gateway(clean: ControlPlane, namespace: str, users: Users, tmp_path: Path) -> Iterator[Gateway]:
    """A real process with the environment that the chart renders; addresses and mounted files are this machine's."""
    release = Release(clean, namespace)
    release.install()
    secrets = {name: {k: base64.b64decode(v) for k, v in data.items()} for name, data in release.secrets().items()}
    for key, data in secrets["continual-gateway"].items():
        (tmp_path / key).write_bytes(data)
    for person in ("admin", "test"):
        (tmp_path / f"token-{person}").write_bytes(secrets[f"continual-gateway-{person}"]["token"])
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = clean.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/continual-gateway/token", request)
    clean.write_kubeconfig(tmp_path / "kubeconfig", token.body["status"]["token"])
    [container] = one(render(SMALL, namespace=namespace), "Deployment", "continual-gateway")["spec"]["template"][
        "spec"
    ]["containers"]
    port = free_port()
    environment = env_of(container) | {
        "PATH": os.environ["PATH"], "KUBECONFIG": str(tmp_path / "kubeconfig"), "OMP_NUM_THREADS": "1",
        "CONTINUAL_GATEWAY_ADDRESS": f"127.0.0.1:{port}", "CONTINUAL_GATEWAY_TOKENS_FILE": str(tmp_path / "tokens.json"),
        "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(tmp_path / "session.key"), settings.REDIS_URL: users.server.url,
        settings.STORE_URL: f"file://{tmp_path / 'store'}", **users.environment("gateway"),
    }  # fmt: skip
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "continual_gateway"], env=environment, stdout=log, stderr=log)
    try:
        until(
            "the gateway is alive", lambda: (probe(f"127.0.0.1:{port}", "/healthz") or (0,))[0] == 200 or process.poll()
        )
        assert process.poll() is None, (tmp_path / "gateway.log").read_text()
        yield Gateway(f"http://127.0.0.1:{port}", tmp_path, process)
    finally:
        process.kill()
        process.wait()
        print((tmp_path / "gateway.log").read_text())


def serve_digits(plane: ControlPlane, namespace: str) -> None:
    """A model whose v1 serves, as far as its status says."""
    path = MODELS.format(namespace=namespace)
    made = plane.create(
        path,
        {
            "apiVersion": "continual.dev/v1alpha1",
            "kind": "ContinualModel",
            "metadata": {"name": "digits"},
            "spec": SPEC,
        },
    )
    assert made.ok, made.message
    stable = {"version": "v1", "digest": "sha256:" + "0" * 64}
    told = plane.merge(f"{path}/digits/status", {"status": {"stable": stable}})
    assert told.ok, told.message


def test_helm_test_makes_one_prediction_through_gateway_stream_and_worker(
    clean: ControlPlane,
    namespace: str,
    gateway: Gateway,
    users: Users,
    bench: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command of the test pod with the viewer's token; nobody was refused anything in Redis."""
    monkeypatch.setattr(inference_tier, "KEYS", ModelKeys(namespace, "digits"))
    bench.registry = Registry(bench.registry.store, StoreLayout(namespace, "digits"))
    serve_digits(clean, namespace)
    worker = {settings.NAMESPACE: namespace, **users.environment("inference")}
    bench.start(bench.publish(inference_tier.build_onnx(), namespace=namespace), **worker).wait_ready()
    bench.route([("v1", 10_000)])
    arguments = one(render(SMALL), "Pod", "continual-test-prediction")["spec"]["containers"][0]["args"]
    assert arguments[0] == "--url"
    code = smoke.main(["--url", gateway.url, "--token-file", str(gateway.token_file("test")), "--timeout", "60"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert f"{namespace}.digits: " in printed.out
    assert "class " in printed.out
    assert users.refused() == []


def test_helm_test_says_what_is_missing(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """No model, another model's name, a wrong token: a sentence with what to do, and a code that fails the test."""
    token = ["--url", gateway.url, "--timeout", "0", "--token-file"]
    assert smoke.main([*token, str(gateway.token_file("test"))]) == 3
    assert "kubectl apply -f examples/digits.yaml" in capsys.readouterr().err
    (gateway.folder / "wrong").write_text("wrong")
    assert smoke.main([*token, str(gateway.folder / "wrong")]) == 2
    assert "check the token" in capsys.readouterr().err
    assert smoke.main([*token, str(gateway.folder / "nowhere")]) == 2
    assert smoke.main(["--url", "http://127.0.0.1:1", *token[2:], str(gateway.token_file("test"))]) == 4
