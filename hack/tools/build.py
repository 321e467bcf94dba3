"""Build pinned third-party binaries from their Go modules, once per pin.

    python hack/tools/build.py minio              prints the binary's path as its last line
    python hack/tools/build.py etcd kubernetes    several, or a whole family: one path per line, in that order
    python hack/tools/build.py kubelet            what a family's name does not stand for is built by its own name

Each family `hack/tools/<family>/` holds a go.mod with `tool` lines and its go.sum: that pair is the pin, and its hash names the
cache folder (${XDG_CACHE_HOME:-~/.cache}/continual/tools/<hash>/). A binary in the folder CONTINUAL_TOOLS, or in KUBEBUILDER_ASSETS,
wins. First builds take minutes (MinIO four, etcd one, what the cluster tests need of Kubernetes eight on two cores); afterwards
nothing is built. Two builds at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OWN_FOLDERS = ("CONTINUAL_TOOLS", "KUBEBUILDER_ASSETS")
"""Environment variables that name a folder of binaries somebody brings along, the first one first."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A binary: its module family, its main package, and whether the family's name stands for it."""

    family: str
    package: str
    by_family: bool = True


TOOLS = {
    "minio": Tool("minio", "github.com/minio/minio"),
    "etcd": Tool("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Tool("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": Tool("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kubectl": Tool("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    "kube-scheduler": Tool("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", by_family=False),
    "kubelet": Tool("kubernetes", "k8s.io/kubernetes/cmd/kubelet", by_family=False),
    "kube-proxy": Tool("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", by_family=False),
    "coredns": Tool("coredns", "continual.dev/hack/tools/coredns"),
    "kwok": Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "helm": Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    "helm3": Tool("helm3", "helm.sh/helm/v3/cmd/helm"),
    "kubeconform": Tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "skaffold": Tool("skaffold", "github.com/GoogleContainerTools/skaffold/v2/cmd/skaffold"),
    "helm-docs": Tool("helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
}

STAMPS = {
    "kubernetes": (
        ("k8s.io/component-base/version.gitVersion", "k8s.io/kubernetes", "v{}.{}.{}"),
        ("k8s.io/component-base/version.gitMajor", "k8s.io/kubernetes", "{0}"),
        ("k8s.io/component-base/version.gitMinor", "k8s.io/kubernetes", "{1}"),
    ),
    "helm": (("helm.sh/helm/v4/internal/version.version", "helm.sh/helm/v4", "v{}.{}.{}"),),
    "helm3": (
        ("helm.sh/helm/v3/internal/version.version", "helm.sh/helm/v3", "v{}.{}.{}"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "k8s.io/client-go", "{1}"),
    ),
    "kubeconform": (("main.version", "github.com/yannh/kubeconform", "v{}.{}.{}"),),
    "skaffold": (
        (
            "github.com/GoogleContainerTools/skaffold/v2/pkg/skaffold/version.version",
            "github.com/GoogleContainerTools/skaffold/v2",
            "v{}.{}.{}",
        ),
    ),
    "helm-docs": (("main.version", "github.com/norwoodj/helm-docs", "v{}.{}.{}"),),
}
"""Variable, module, form: versions that the projects' own builds link in. Without them Kubernetes says v0.0.0, which Helm and skew
checks refuse, and Helm 3 renders charts for Kubernetes 1.20."""


class BuildError(Exception):
    """The binary cannot be had; the message says what to do."""


def wanted(words: list[str]) -> list[str]:
    """Binaries that the words of the command line stand for, each once; raises KeyError for an unknown word."""
    names: list[str] = []
    for word in words:
        family = [name for name, tool in TOOLS.items() if tool.family == word and tool.by_family]
        if word not in TOOLS and not family:
            raise KeyError(word)
        names += [word] if word in TOOLS else family
    return list(dict.fromkeys(names))


def link_flags(family: Path) -> str:
    """Stripped, and told its versions as the module file has them."""
    module_file, flags = (family / "go.mod").read_text(), ["-s -w"]
    for variable, module, form in STAMPS.get(family.name, ()):
        version = re.search(rf"\b{re.escape(module)} v(\d+)\.(\d+)\.(\S+)", module_file)
        assert version is not None, f"{module} is not in {family.name}/go.mod"
        flags.append(f"-X {variable}={form.format(*version.groups())}")
    return " ".join(flags)


def pin(family: Path) -> str:
    """Hash of go.mod, go.sum, the flags and a main package of our own: what exactly is built."""
    digest = hashlib.sha256(link_flags(family).encode())
    for path in (family / "go.mod", family / "go.sum", *sorted(family.glob("*.go"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cached(name: str) -> Path:
    """Where the binary lies once it is built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "continual" / "tools" / pin(HERE / TOOLS[name].family) / name


def provided(name: str) -> Path | None:
    """The binary in a folder of somebody's own."""
    folders = (os.environ.get(variable) for variable in OWN_FOLDERS)
    paths = (Path(folder, name) for folder in folders if folder)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def ensure(name: str) -> Path:
    """Path of the binary, built if need be."""
    path = provided(name) or cached(name)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            build(TOOLS[name], path)
    return path


def build(tool: Tool, path: Path) -> None:
    """Compile to a temporary name, then rename: a killed build leaves nothing that looks whole."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            f"{path.name} is built from its Go module and `go` is not on the PATH; install Go 1.26 or newer, "
            f"or set CONTINUAL_TOOLS to a folder that holds {path.name}"
        )
    print(f"building {tool.package} (once, a few minutes) …", file=sys.stderr)
    family, partial = HERE / tool.family, path.with_suffix(".partial")
    command = [
        go,
        "build",
        "-mod=readonly",
        "-trimpath",
        "-ldflags",
        link_flags(family),
        "-o",
        str(partial),
        tool.package,
    ]
    environment = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(["nice", "-n", "10", *command], cwd=family, env=environment, check=False)
    if done.returncode:
        raise BuildError(f"`{' '.join(command)}` failed with {done.returncode}; its output is above")
    partial.rename(path)


def main(arguments: list[str]) -> int:
    try:
        names = wanted(arguments)
    except KeyError:
        names = []
    if not names:
        known = sorted({*TOOLS, *(tool.family for tool in TOOLS.values())})
        print(f"usage: build.py NAME...   one or several of {' '.join(known)}", file=sys.stderr)
        return 2
    try:
        for name in names:
            print(ensure(name), flush=True)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
