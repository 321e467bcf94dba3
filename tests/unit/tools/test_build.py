"""The builder of pinned tools: what wins, what is loud."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "hack/tools/build.py"


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_a_folder_of_ones_own_wins(tmp_path: Path) -> None:
    """CONTINUAL_TOOLS holds the binary: nothing is built, its path is the last line."""
    binary = tmp_path / "minio"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    done = run("minio", CONTINUAL_TOOLS=str(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, str(binary))


def test_without_go_the_failure_is_loud_and_says_what_to_do(tmp_path: Path) -> None:
    """No cached binary, no compiler: an error with both remedies, never an empty path."""
    done = run("minio", XDG_CACHE_HOME=str(tmp_path), PATH="/nonexistent", CONTINUAL_TOOLS="")
    assert done.returncode == 4
    assert "install Go" in done.stderr
    assert "CONTINUAL_TOOLS" in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("minio"))


def test_an_unknown_tool_shows_the_known_ones() -> None:
    """Exit code 2, as everywhere for usage."""
    done = run("nonsense")
    assert done.returncode == 2
    assert "minio" in done.stderr


def test_every_family_is_pinned_by_sums_and_names_no_host() -> None:
    """go.mod with a tool line, go.sum beside it, no address: a replace restates a version, it names no place."""
    families = [path.parent for path in (ROOT / "hack/tools").glob("*/go.mod")]
    assert families
    for family in families:
        text = (family / "go.mod").read_text()
        assert "\ntool " in text
        assert "://" not in text
        assert (family / "go.sum").stat().st_size > 0


def test_a_family_stands_for_what_the_cluster_tests_need(tmp_path: Path) -> None:
    """`etcd kubernetes` is the control plane and kubectl, in that order, without kubelet and the like; nothing twice."""
    names = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"]
    for name in names:
        (tmp_path / name).touch(mode=0o755)
    done = run("etcd", "kubernetes", "kubectl", CONTINUAL_TOOLS=str(tmp_path))
    assert (done.returncode, done.stdout.split()) == (0, [str(tmp_path / name) for name in names])


def test_binaries_of_other_kubernetes_tests_are_taken(tmp_path: Path) -> None:
    """KUBEBUILDER_ASSETS is where controller-runtime people have etcd and kube-apiserver; our own variable comes first."""
    assets, own = tmp_path / "assets", tmp_path / "own"
    for folder in (assets, own):
        folder.mkdir()
        (folder / "etcd").touch(mode=0o755)
    assert run("etcd", CONTINUAL_TOOLS="", KUBEBUILDER_ASSETS=str(assets)).stdout.strip() == str(assets / "etcd")
    assert run("etcd", CONTINUAL_TOOLS=str(own), KUBEBUILDER_ASSETS=str(assets)).stdout.strip() == str(own / "etcd")


def test_kubernetes_is_told_its_version(tmp_path: Path) -> None:
    """Without the stamp it says v0.0.0 and Helm refuses it; the version is the one of go.mod, and other families have none."""
    go = tmp_path / "bin/go"
    go.parent.mkdir()
    go.write_text('#!/bin/sh\necho "$@" >&2\nexit 1\n')
    go.chmod(0o755)
    path = f"{go.parent}:{os.environ['PATH']}"
    isolated = {"PATH": path, "XDG_CACHE_HOME": str(tmp_path), "CONTINUAL_TOOLS": "", "KUBEBUILDER_ASSETS": ""}
    module = (ROOT / "hack/tools/kubernetes/go.mod").read_text()
    version = re.search(r"k8s.io/kubernetes (v1\.(\d+)\.\d+)", module)
    assert version is not None
    said = run("kubectl", **isolated).stderr
    assert f"-X k8s.io/component-base/version.gitVersion={version[1]} " in said
    assert f"-X k8s.io/component-base/version.gitMinor={version[2]} " in said
    assert "component-base" not in run("etcd", **isolated).stderr


def test_every_tool_is_named_in_its_module() -> None:
    """A package the module file does not name as a tool would be dropped by `go mod tidy`."""
    spec = importlib.util.spec_from_file_location("build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    sys.modules["build"] = build
    spec.loader.exec_module(build)
    for name, tool in build.TOOLS.items():
        text = (ROOT / "hack/tools" / tool.family / "go.mod").read_text()
        assert re.search(rf"^(tool )?\s*{re.escape(tool.package)}$", text, re.MULTILINE), name
