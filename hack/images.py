"""Build the container images on a Debian machine that reaches no image registry, and hand them to a containerd.

    python hack/images.py build                    all images as localhost/continual-<image>:dev, tried, with a table of sizes
    python hack/images.py build operator redis     some of them
    python hack/images.py import operator redis    pipe them into containerd's k8s.io namespace (--address PATH for its socket)

The Dockerfiles in images/ need nothing of this: docker builds them as well, with a BASE_IMAGE of the user's own. This script exists
for machines without a registry: it makes the base image with debootstrap, from the mirror that the machine's own apt uses, and
builds with buildah. Certificates and pip's and apt's configuration of the machine are mounted for the build and stay out of the image.
Unchanged inputs are not built again (buildah --layers). Needs root and the Debian packages buildah, debootstrap and runc.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import imagechecks
import layers
import sbom

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "images"
IMAGES = ("operator", "inference", "gateway", "redis", "minio", "trainer")
OPTIONAL = ("inference-gpu",)
"""Built when named: CUDA's libraries make it gigabytes, and nothing but a GPU node runs it."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
ALIASES = ("stable", "oldstable", "testing")
"""What a suite may be called in the sources besides its name."""
BASE_RECIPE = "3"
"""Counts up when `make_base` changes what it leaves in the image."""
IMPORT_TRIES = 2
"""containerd collects what an image of the same name leaves behind, and may take a layer that the import counts on."""
GIGABYTES_FREE = {"trainer": 12, "inference-gpu": 10}
LIMITS_MB = {"operator": 200, "inference": 350}
"""What an image may weigh above its base image (docs/guides/install.md)."""


class ImageError(Exception):
    """An image cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Built:
    image: str
    seconds: float
    megabytes: float
    """Above the base image, uncompressed."""


def run(*command: str, **options: object) -> str:
    """Standard output of a command; its error output is the message if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, **options)  # type: ignore[call-overload]  # options are subprocess's own
    if done.returncode:
        raise ImageError(f"`{' '.join(command[:4])} …` failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return str(done.stdout)


def need(*programs: str) -> None:
    missing = [
        program for program in programs if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None
    ]
    if missing:
        raise ImageError(
            f"{', '.join(missing)} missing; on Debian: apt-get install -y --no-install-recommends {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise ImageError(
            "building a base image with debootstrap needs root; run it as root, or build images/*.Dockerfile with docker"
        )


def reference(image: str, tag: str) -> str:
    return f"localhost/continual-{image}:{tag}"


def exists(name: str) -> bool:
    return (
        subprocess.run(["buildah", "inspect", "--type", "image", name], check=False, capture_output=True).returncode
        == 0
    )


# The base image


def apt_source() -> tuple[str, str]:
    """(mirror, suite) that this machine's apt takes its Debian from."""
    release = dict(re.findall(r"^(\w+)=\"?([^\"\n]*)", Path("/etc/os-release").read_text(), re.MULTILINE))
    suite = release.get("VERSION_CODENAME", "")
    targets = run("apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)")
    for line in targets.splitlines():
        mirror, release_name = line.split()
        if release_name in {suite, *ALIASES}:
            return mirror, suite
    raise ImageError(f"apt has no source for {suite or 'this system'}; see /etc/apt/sources.list, or give --base-image")


def base_image() -> str:
    """Name of the base image, made if it is not there."""
    mirror, suite = apt_source()
    key = hashlib.sha256("\0".join([BASE_RECIPE, mirror, suite, *BASE_PACKAGES]).encode()).hexdigest()[:12]
    name = f"localhost/continual-base:{suite}-{key}"
    if not exists(name):
        print(f"base image: debootstrap {suite} (about a minute) …", file=sys.stderr)
        make_base(name, mirror, suite)
    return name


def make_base(name: str, mirror: str, suite: str) -> None:
    """A minimal Debian with Python, less its caches, manuals and translations; licences stay."""
    with working_container("scratch") as (container, root):
        packages = ",".join(BASE_PACKAGES)
        run("debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root), mirror)
        for rubbish in (
            "var/cache/apt",
            "var/lib/apt/lists",
            "var/log",
            "usr/share/man",
            "usr/share/locale",
            "usr/share/info",
        ):
            shutil.rmtree(root / rubbish, ignore_errors=True)
        for name_of_this_machine in ("etc/resolv.conf", "etc/hostname"):
            (root / name_of_this_machine).unlink(missing_ok=True)
        for folder, _, files in os.walk(root / "usr/share/doc"):
            for file in files:
                if file != "copyright":
                    Path(folder, file).unlink()
        for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        run("buildah", "config", "--env", "LANG=C.UTF-8", "--cmd", "/bin/sh", container)
        run("buildah", "commit", "--quiet", "--format", "docker", container, name)


@contextlib.contextmanager
def working_container(image: str) -> Iterator[tuple[str, Path]]:
    """(name, mounted root) of a container that is gone afterwards."""
    container = run("buildah", "from", "--pull-never", image).strip()
    try:
        yield container, Path(run("buildah", "mount", container).strip())
    finally:
        run("buildah", "rm", container)


# Building


@contextlib.contextmanager
def machine_settings() -> Iterator[list[str]]:
    """buildah's options that let pip and apt reach what they reach on this machine: certificates, indexes, proxies."""
    with tempfile.TemporaryDirectory() as folder:
        mounts = {CERTIFICATES: CERTIFICATES} if CERTIFICATES.exists() else {}
        pip = Path(folder, "pip.conf")
        pip.touch(mode=0o600)
        pip.write_text(pip_settings(run(sys.executable, "-m", "pip", "config", "list")))
        apt = Path(folder, "apt.conf")
        kept = ("Acquire::http", "Acquire::Check-", "Acquire::Retries")
        apt.write_text("".join(f"{line}\n" for line in run("apt-config", "dump").splitlines() if line.startswith(kept)))
        mounts |= {pip: Path("/etc/pip.conf"), apt: Path("/etc/apt/apt.conf.d/99machine")}
        yield [part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}:ro")]


def pip_settings(listing: str) -> str:
    """`pip config list`, which has the environment's word too, as a configuration file; folders of this machine are left out."""
    pairs = re.findall(r"^[\w:.-]*?\.([\w-]+)='(.*)'$", listing, re.MULTILINE)
    kept = {
        key: value
        for key, value in pairs
        if key in {"index-url", "extra-index-url", "proxy", "trusted-host", "default-timeout", "retries"}
    }
    certificates = {"cert": str(CERTIFICATES)} if any(key == "cert" for key, _ in pairs) else {}
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in (kept | certificates).items())


def build(image: str, tag: str, base: str, arguments: list[str]) -> Built:
    """One image from its Dockerfile, tried and with its bill of materials."""
    started = time.monotonic()
    room(image)
    if image == "minio":
        provide_minio()
    if image == "gateway":
        run("hack/setup", "web")
    with machine_settings() as settings:
        options = ["--layers", "--format", "docker", "--isolation", "chroot", "--network", "host", *settings]
        given = [part for argument in (f"BASE_IMAGE={base}", *arguments) for part in ("--build-arg", argument)]
        name = reference(image, tag)
        run("buildah", "bud", "--quiet", *options, *given, "--file", f"images/{image}.Dockerfile", "--tag", name, ".")
    with working_container(name) as (_, root):
        imagechecks.check(image, root)
        write_sbom(image, tag, root)
    return Built(image, time.monotonic() - started, (size(name) - size(base)) / 1e6)


def room(image: str) -> None:
    free = shutil.disk_usage("/var/lib").free / 1e9
    if free < GIGABYTES_FREE.get(image, 2):
        raise ImageError(
            f"{image} needs {GIGABYTES_FREE.get(image, 2)} GB of free disk under /var/lib, there are {free:.0f}; `buildah rmi --prune` frees old layers"
        )


def provide_minio() -> None:
    """The binary where the Dockerfile takes it: a hard link if possible."""
    built = Path(run(sys.executable, "hack/tools/build.py", "minio").splitlines()[-1])
    OUT.mkdir(parents=True, exist_ok=True)
    if not (OUT / "minio").exists() or not os.path.samestat((OUT / "minio").stat(), built.stat()):
        (OUT / "minio").unlink(missing_ok=True)
        try:
            os.link(built, OUT / "minio")
        except OSError:
            shutil.copy2(built, OUT / "minio")


def size(name: str) -> int:
    """Uncompressed bytes of all layers of an image."""
    layers = json.loads(run("buildah", "inspect", "--type", "image", name))["OCIv1"]["rootfs"]["diff_ids"]
    sizes = layer_sizes()
    return sum(sizes[layer] for layer in layers)


def layer_sizes() -> dict[str, int]:
    """Uncompressed bytes by diff id, from containers-storage's own list of layers."""
    store = json.loads(run("buildah", "info"))["store"]
    listing = Path(store["GraphRoot"], f"{store['GraphDriverName']}-layers", "layers.json")
    return {
        layer["diff-digest"]: int(layer.get("diff-size", 0))
        for layer in json.loads(listing.read_text())
        if "diff-digest" in layer
    }


def write_sbom(image: str, tag: str, root: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    module_file = ROOT / "hack/tools/minio/go.mod" if image == "minio" else None
    (OUT / f"{image}.cdx.json").write_text(
        json.dumps(sbom.bill(reference(image, tag), root, module_file), indent=1) + "\n"
    )


def table(built: list[Built]) -> str:
    rows = [f"{'image':<16}{'MB above base':>14}{'limit':>8}{'seconds':>9}"]
    rows += [
        f"{one.image:<16}{one.megabytes:>14.0f}{LIMITS_MB.get(one.image, '–'):>8}{one.seconds:>9.1f}" for one in built
    ]
    return "\n".join(rows)


def too_heavy(built: list[Built]) -> list[str]:
    return [one.image for one in built if one.megabytes > LIMITS_MB.get(one.image, float("inf"))]


# containerd


def import_image(image: str, tag: str, address: str) -> None:
    """Pipe an image into containerd's k8s.io namespace, without the layers that are there."""
    name = reference(image, tag)
    wanted = run("buildah", "images", "--no-trunc", "--quiet", name).strip().removeprefix("sha256:")
    ctr = ["ctr", "--address", address, "--namespace", "k8s.io", "images"]
    marker = f"continual.dev/image-id={wanted[:40]}"
    if name in run(*ctr, "list", "--quiet", f'labels."{marker.replace("=", chr(34) + "==", 1)}').split():
        return
    for _ in range(IMPORT_TRIES):
        code = _pipe_image(ctr, wanted, name)
        if code == 0:
            break
    else:
        raise ImageError(f"`ctr images import` of {name} failed with {code}; its output is above")
    run(*ctr, "label", name, marker)


def _pipe_image(ctr: list[str], wanted: str, name: str) -> int:
    """One import, without the layers that are there now; ctr's exit code."""
    store = layers.Store(Path(json.loads(run("buildah", "info"))["store"]["GraphRoot"]))
    present = set(run(*ctr[:-1], "content", "list", "--quiet").split())
    importing = subprocess.Popen([*ctr, "import", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with contextlib.suppress(BrokenPipeError), importing:
        assert importing.stdin is not None
        layers.write_archive(store, wanted, name, present, importing.stdin)
    return importing.returncode


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="images.py", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("verb", choices=("build", "import"))
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help=f"default: {' '.join(IMAGES)}; also: {' '.join(OPTIONAL)}"
    )
    parser.add_argument("--tag", default="dev")
    parser.add_argument(
        "--base-image",
        help="an image of your own: a Debian with python3 and its venv module; default: one made by debootstrap",
    )
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--address", default="/run/containerd/containerd.sock", help="containerd's socket")
    options = parser.parse_args(words)
    unknown = sorted(set(options.images) - {*IMAGES, *OPTIONAL})
    if unknown:
        parser.error(f"unknown image {', '.join(unknown)}; one of: {', '.join((*IMAGES, *OPTIONAL))}")
    return options


def main(words: list[str]) -> int:
    options = parse(words)
    images = options.images or list(IMAGES)
    try:
        if options.verb == "import":
            need("buildah", "ctr")
            for image in images:
                import_image(image, options.tag, options.address)
            return 0
        need("buildah", "debootstrap", "runc")
        base = options.base_image or base_image()
        built = [build(image, options.tag, base, options.build_arg) for image in images]
    except (ImageError, imagechecks.CheckError, layers.LayerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    print(table(built))
    heavy = too_heavy(built)
    if heavy:
        print(f"error: above the limit: {', '.join(heavy)}", file=sys.stderr)
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
