"""The scripts around the images, as far as no image is needed: the bill of materials, pip's settings, the restricted container."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"continual_hack_{name}", ROOT / f"hack/{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_the_bill_names_debian_python_and_go_parts(tmp_path: Path) -> None:
    """Each with its purl; a package that was removed but left its configuration is not in the image."""
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    paragraph = "Package: {}\nStatus: {}\nArchitecture: amd64\nVersion: 5:7.0.15-1~deb12u1+b1\n"
    removed = paragraph.format("old", "deinstall ok config-files")
    status.write_text("\n".join([paragraph.format("redis-server", "install ok installed"), removed]))
    metadata = tmp_path / "opt/continual/lib/python3.11/site-packages/Typing_Ext-1.2.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.4\nName: Typing_Ext\nVersion: 1.2\nLicense-Expression: PSF-2.0\n")
    module_file = tmp_path / "go.mod"
    module_file.write_text("module x\nrequire (\n\tgithub.com/minio/minio v1.2.3 // indirect\n)\n")
    bill = load("sbom").bill("localhost/continual-x:dev", tmp_path, module_file)
    assert [part["purl"] for part in bill["components"]] == [
        "pkg:deb/debian/redis-server@5%3A7.0.15-1~deb12u1%2Bb1?arch=amd64",
        "pkg:golang/github.com/minio/minio@v1.2.3",
        "pkg:pypi/typing-ext@1.2",
    ]
    assert bill["components"][2]["licenses"] == [{"license": {"name": "PSF-2.0"}}]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load("images")


def test_pip_reaches_in_a_build_what_it_reaches_on_the_machine(images: ModuleType) -> None:
    """Index and proxy are handed on; a folder of wheels is not, for it does not exist in the container."""
    listing = "global.index-url='http://index.test/simple'\n:env:.proxy='http://p:1'\n:env:.find-links='/opt/wheels'\n"
    assert images.pip_settings(listing) == "[global]\nindex-url = http://index.test/simple\nproxy = http://p:1\n"


def test_an_unknown_image_is_refused_with_the_known_ones(
    images: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, as everywhere for usage; nothing is built."""
    with pytest.raises(SystemExit) as stopped:
        images.main(["build", "nonsense"])
    assert stopped.value.code == 2
    assert "unknown image nonsense; one of: operator" in capsys.readouterr().err


def test_an_image_above_its_limit_is_named(images: ModuleType) -> None:
    """200 MB for the operator, 350 MB for inference; the others have none."""
    sizes = {"operator": 200.1, "inference": 350.0, "trainer": 6000.0}
    assert images.too_heavy([images.Built(image, 1.0, size) for image, size in sizes.items()]) == ["operator"]


def test_images_are_tried_as_restricted_pods(tmp_path: Path) -> None:
    """Read-only root, uid 10001, no capability, no new privileges, no network but loopback."""
    document = load("imagechecks").specification(tmp_path, tmp_path / "hosts", ("true",))
    assert document["root"]["readonly"] is True
    assert document["process"]["user"] == {"uid": 10001, "gid": 10001}
    assert document["process"]["noNewPrivileges"] is True
    assert not any(document["process"]["capabilities"].values())
    assert {"type": "network"} in document["linux"]["namespaces"]
    writable = [mount["destination"] for mount in document["mounts"] if "ro" not in mount.get("options", [])]
    assert writable == ["/proc", "/dev", "/dev/shm", "/tmp"]


def test_every_image_is_tried(images: ModuleType) -> None:
    """An image without a check would be believed because it built."""
    names = {path.name.removesuffix(".Dockerfile") for path in (ROOT / "images").glob("*.Dockerfile")}
    assert set(images.imagechecks.CHECKS) == names == {*images.IMAGES, *images.OPTIONAL}
