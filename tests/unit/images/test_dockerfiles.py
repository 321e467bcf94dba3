"""What a Dockerfile must be, read from its text: no image is built here, `make images` does that and tries each one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "images").glob("*.Dockerfile"))
NAMES = [path.name.removesuffix(".Dockerfile") for path in FILES]
PYTHON_IMAGES = {
    "operator": ["continual_operator"],
    "inference": ["continual_workers.inference", "continual_workers.evaluation"],
    "inference-gpu": ["continual_workers.inference"],
    "trainer": ["continual_workers.training"],
    "gateway": ["continual_gateway"],
}
"""Image → packages whose `__main__` a pod runs from it."""
SAME_MODULES = {"onnxruntime-gpu": "onnxruntime"}
"""Distributions that install another one's modules."""


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined, comments dropped."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word.upper(), rest) for word, rest in pairs]


def pins(path: Path) -> dict[tuple[str, str], frozenset[str]]:
    """(name, version) → hashes of a lock."""
    blocks = re.split(r"^(?=[a-z])", path.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for block in blocks:
        name, version = re.match(r"([\w.-]+)(?:\[[^]]*])?==([^\s;]+)", block).groups()  # type: ignore[union-attr]  # a lock's line
        found[name, version] = frozenset(re.findall(r"--hash=(sha256:\w+)", block))
    return found


def versions(lock: Path) -> dict[str, str]:
    """Name → version of a lock; of several for several Pythons, the last."""
    return dict(pins(lock).keys())


def locks(image: str) -> list[Path]:
    """The lock files that an image's Dockerfile installs."""
    copies = [rest for word, rest in instructions(ROOT / f"images/{image}.Dockerfile") if word == "COPY"]
    return [ROOT / name for rest in copies for name in re.findall(r"requirements/\S+\.txt", rest)]


def test_there_is_an_image_for_every_process() -> None:
    """The names are the chart's."""
    assert sorted(NAMES) == ["gateway", "inference", "inference-gpu", "minio", "operator", "redis", "trainer"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_base_is_the_users_choice(path: Path) -> None:
    """No registry is named anywhere: BASE_IMAGE has no default and every stage starts from it or from an earlier stage."""
    read = instructions(path)
    assert read[0] == ("ARG", "BASE_IMAGE")
    stages = [rest.split(" AS ") for word, rest in read if word == "FROM"]
    assert stages[0][0] == "${BASE_IMAGE}"
    earlier = {stage[1] for stage in stages if len(stage) == 2}
    assert {stage[0] for stage in stages} <= {"${BASE_IMAGE}", *earlier}
    assert not re.search(r"\b[\w-]+\.(io|com|org|dev|net)/", path.read_text())
    assert not [rest for word, rest in read if word == "ADD"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_process_is_nobody(path: Path) -> None:
    """uid and gid 10001 by number, said in the last stage, as runAsNonRoot needs it; nothing runs or is copied after it."""
    read = instructions(path)
    last = read[max(index for index, (word, _) in enumerate(read) if word == "FROM") :]
    users = [index for index, (word, _) in enumerate(last) if word == "USER"]
    assert [last[index][1] for index in users] == ["10001:10001"]
    assert {word for word, _ in last[users[0] + 1 :]} <= {"CMD"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_what_is_copied_exists_and_reaches_the_builder(path: Path) -> None:
    """A path that .dockerignore holds back fails on somebody else's machine only."""
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(path):
        if word != "COPY" or "--from=" in rest:
            continue
        sources = [part for part in rest.split()[:-1] if not part.startswith("--")]
        for source in sources:
            wanted = "out/images/minio" if source == "${MINIO_BINARY}" else source
            assert any(Path(wanted).match(one) or wanted.startswith(f"{one}/") for one in sent), source
            assert wanted == "out/images/minio" or (ROOT / wanted).exists(), source


@pytest.mark.parametrize("image", PYTHON_IMAGES)
def test_a_change_of_our_code_rebuilds_one_layer(image: str) -> None:
    """Dependencies are installed before any of our code is there, and the code comes in one COPY of the last stage."""
    read = instructions(ROOT / f"images/{image}.Dockerfile")
    stages = [index for index, (word, _) in enumerate(read) if word == "FROM"]
    before = [rest for word, rest in read[: stages[1]] if word == "COPY"]
    assert all(re.fullmatch(r"images/install requirements/[\w-]+\.txt /tmp/build/", rest) for rest in before)
    assert [rest.split()[-1] for word, rest in read[stages[2] :] if word == "COPY"] == ["/opt/continual/code"]


@pytest.mark.parametrize("image", PYTHON_IMAGES)
def test_pods_run_what_the_tests_ran(image: str) -> None:
    """Every version and every hash of an image's lock is the development lock's; `make lock` writes both."""
    tested = pins(ROOT / "requirements/dev.txt")
    assert locks(image)
    for lock in locks(image):
        for (name, version), hashes in pins(lock).items():
            if image == "inference-gpu" and name in {"onnxruntime-gpu", "nvidia-curand"}:
                continue  # no GPU, no use for them here
            assert hashes, name
            assert tested.get((name, version)) == hashes, f"{lock.name}: {name}=={version}; run `make lock`"


def test_the_gpu_image_has_the_runtime_that_the_tests_ran() -> None:
    """onnxruntime-gpu is the same release as onnxruntime."""
    gpu = versions(ROOT / "requirements/inference-gpu.txt")
    assert ("onnxruntime", gpu["onnxruntime-gpu"]) in pins(ROOT / "requirements/dev.txt")
    assert "onnxruntime" not in gpu


def test_torch_is_in_the_trainer_only_and_in_a_layer_of_its_own() -> None:
    """Six gigabytes do not travel with every fix."""
    with_torch = {image for image in PYTHON_IMAGES for lock in locks(image) if "torch" in versions(lock)}
    assert with_torch == {"trainer"}
    assert [lock.name for lock in locks("trainer")] == ["torch.txt", "trainer.txt"]
    assert {"torch", "torchvision"}.isdisjoint(versions(ROOT / "requirements/trainer.txt"))
    own = [name for name, _ in pins(ROOT / "requirements/torch.txt")]
    assert all(re.fullmatch(r"torch|torchvision|triton|(nvidia|cuda)-.*", name) for name in own)


def copied(image: str) -> dict[str, Path]:
    """Dotted name → file of every module of ours that an image carries."""
    modules: dict[str, Path] = {}
    for word, rest in instructions(ROOT / f"images/{image}.Dockerfile"):
        source = rest.split()[0]
        if word != "COPY" or not source.startswith(("contract/", "clients/", "operator/", "workers/", "gateway/")):
            continue
        for path in [ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts[1:]
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module imports when it runs: at its top or in a function, but not for annotations only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(image: str) -> tuple[set[str], set[str]]:
    """(modules of ours, top-level names of others) that the image's processes can import, from their `__main__` on."""
    modules, seen, others = copied(image), set[str](), set[str]()
    waiting = [f"{package}.__main__" for package in PYTHON_IMAGES[image]]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in modules:
            continue
        seen |= {name}
        found = set(imported(modules[name]))
        parents = {".".join(one.split(".")[:depth]) for one in {*found, name} for depth in range(1, one.count(".") + 1)}
        waiting += [one for one in {*found, *parents} if one.startswith("continual_")]
        missing = {one for one in found if one.startswith("continual_")} - set(modules)
        lost = {one for one in missing if one.rpartition(".")[0] not in modules}
        assert not lost, f"{name} imports {lost}, which the {image} image does not carry"
        others |= {one.split(".")[0] for one in found if not one.startswith("continual_")}
    return seen, others - set(sys.stdlib_module_names)


@pytest.mark.parametrize("image", PYTHON_IMAGES)
def test_an_image_carries_what_its_processes_import(image: str) -> None:
    """Our modules by its COPY lines, everybody else's by its lock: followed from each `__main__` through every import."""
    ours, others = reached(image)
    assert len(ours) > 10
    distributions = packages_distributions()
    installed = {name for lock in locks(image) for name, _ in pins(lock)}
    installed |= {SAME_MODULES[name] for name in installed & set(SAME_MODULES)}
    for module in others:
        owners = {re.sub(r"[-_.]+", "-", one).lower() for one in distributions.get(module, [])}
        assert owners & installed, f"the {image} image's processes import {module}, which its lock does not install"
