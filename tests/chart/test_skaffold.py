"""skaffold.yaml through the real skaffold: each profile is understood, and what it would install is valid."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml
from chart_tools import until
from continual_clients import reload
from control_plane import ROOT, tool
from test_rendering import kubeconform

PROFILES = ("dev", "ci", "gpu")


@pytest.fixture
def skaffold(tmp_path: Path) -> Path:
    """A PATH with the helm and kubectl that skaffold calls, and a home of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, binary in (("helm", "helm3"), ("kubectl", "kubectl"), ("skaffold", "skaffold")):
        (folder / name).symlink_to(tool(binary))
    return folder


def run(skaffold: Path, *arguments: str) -> str:
    environment = {
        "PATH": f"{skaffold}:{os.environ['PATH']}", "HOME": str(skaffold.parent), "SKAFFOLD_UPDATE_CHECK": "false",
        "SKAFFOLD_INTERACTIVE": "false", "SKAFFOLD_COLLECT_METRICS": "false", "BASE_IMAGE": "scratch",
    }  # fmt: skip
    done = subprocess.run(
        [str(skaffold / "skaffold"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_is_understood(skaffold: Path, profile: str) -> None:
    """`skaffold diagnose`: the file is valid, every Dockerfile and what it copies is there, the patches of the profile apply.

    The base image would be asked of a registry; `scratch` is none.
    """
    config = yaml.safe_load(run(skaffold, "diagnose", "--profile", profile, "--yaml-only"))
    artifacts = {a["image"]: a for a in config["build"]["artifacts"]}
    wanted = {"operator", "gateway", "inference", "trainer", "redis", "minio"} | (
        {"inference-gpu"} if profile == "gpu" else set()
    )
    assert set(artifacts) == {f"continual-{name}" for name in wanted}
    for artifact in artifacts.values():
        assert (ROOT / artifact.get("docker", {"dockerfile": "hack/skaffold-minio"})["dockerfile"]).is_file()
    run(skaffold, "diagnose", "--profile", profile)
    assert ("sync" in artifacts["continual-operator"]) == (profile == "dev")


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_profile_would_install_is_valid(skaffold: Path, schemas: Path, tmp_path: Path, profile: str) -> None:
    """`skaffold render | kubeconform -strict`, with every image that skaffold builds in its place."""
    rendered = run(skaffold, "render", "--profile", profile, "--digest-source", "tag", "--offline=true")
    assert kubeconform(schemas, rendered, tmp_path) == ""
    operator = next(
        d
        for d in yaml.safe_load_all(rendered)
        if d and d["kind"] == "Deployment" and d["metadata"]["name"] == "continual-operator"
    )
    [container] = operator["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", "") for e in container["env"]}
    assert container["image"].startswith("continual-operator:")
    assert env["CONTINUAL_TRAINER_IMAGE"].startswith("continual-trainer:")
    assert container["securityContext"]["readOnlyRootFilesystem"] is (profile != "dev")
    assert ("continual_clients.reload" in container["command"]) is (profile == "dev")


def test_synced_files_land_where_the_images_keep_their_code(skaffold: Path) -> None:
    """Every sync rule of `dev` names files of this repository, and maps them to where the Dockerfile copied them."""
    config = yaml.safe_load(run(skaffold, "diagnose", "--profile", "dev", "--yaml-only"))
    for artifact in config["build"]["artifacts"][:2]:
        dockerfile = (ROOT / artifact["docker"]["dockerfile"]).read_text()
        for rule in artifact["sync"]["manual"]:
            folder = rule["src"].split("/**")[0]
            assert (ROOT / folder).is_dir()
            assert f"COPY {folder} {rule['dest']}/{folder.removeprefix(rule['strip'])}\n" in dockerfile


def test_a_process_starts_again_when_its_code_changes_and_ends_when_told(tmp_path: Path) -> None:
    """The watcher of `skaffold dev`: a change restarts, the end of the watcher is the end of the process."""
    code, starts = tmp_path / "code", tmp_path / "starts"
    code.mkdir()
    script = code / "worker.py"
    script.write_text(f"import time\nopen({str(starts)!r}, 'a').write('first ')\ntime.sleep(600)\n")
    stop, codes = Event(), []
    thread = Thread(target=lambda: codes.append(reload.keep_running([sys.executable, str(script)], code, stop)))
    thread.start()
    try:
        until("it runs", starts.exists)
        script.write_text(script.read_text().replace("first", "second"))
        until("it runs anew", lambda: starts.read_text() == "first second ")
    finally:
        began = time.monotonic()
        stop.set()
        thread.join(30)
    assert time.monotonic() - began < 25
    assert codes == [-15]
