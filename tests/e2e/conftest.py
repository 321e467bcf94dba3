"""The end-to-end tests run when they are named (`make e2e`): they need root and a whole machine, so `pytest` alone leaves them out.

One node for all of them. When a step fails, what the cluster knows about it is saved before the cluster goes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kube import Kube, save_evidence, tail
from node import Node, provide_images, running

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "out" / "e2e"
SERVICES = ("containerd", "kubelet", "kube-proxy", "coredns", "policies")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True for this folder's tests unless the command line names the folder or a file in it."""
    named = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    wanted = any(path == HERE or HERE in path.parents for path in named)
    return None if wanted or HERE not in collection_path.parents else True


# The cluster ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A cluster of one node with our images in it."""
    with running() as node:
        provide_images(node)
        yield node


@pytest.fixture(scope="session")
def kube(node: Node, request: pytest.FixtureRequest) -> Kube:
    kube = Kube(node.plane, OUT)
    request.config.stash[STORY].cluster = (node, kube)
    return kube


# The table --------------------------------------------------------------------------------------------------------------------


@dataclass
class StoryLog:
    """The steps so far, and the cluster they happen in."""

    steps: list[tuple[str, str, float]] = field(default_factory=list)
    """(what the step claims, outcome, seconds)"""
    cluster: tuple[Node, Kube] | None = None
    began: float = field(default_factory=time.monotonic)

    def table(self) -> str:
        width = max((len(claim) for claim, _, _ in self.steps), default=0)
        rows = [f"{claim:<{width}}  {outcome:<7}{seconds:>7.1f} s" for claim, outcome, seconds in self.steps]
        notes = self.cluster[1].notes if self.cluster else []
        return "\n".join([*rows, f"{'all':<{width}}  {'':<7}{time.monotonic() - self.began:>7.1f} s", *notes])


STORY = pytest.StashKey[StoryLog]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STORY] = StoryLog()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Book every step; after the first that fails, save what may say why while the cluster is still there."""
    report = yield
    if HERE not in Path(str(item.path)).parents:
        return report
    story = item.config.stash[STORY]
    claim = item.name.removeprefix("test_").replace("_", " ")
    if report.when == "setup" and (report.failed or report.duration > 1):
        story.steps.append(("(cluster and images)", report.outcome, report.duration))
    if report.when == "call":
        story.steps.append((claim, report.outcome, report.duration))
    if report.failed and story.cluster is not None:
        node, kube = story.cluster
        logs = {name: node.log(name) for name in SERVICES}
        told = save_evidence(kube, OUT / "failed", logs)
        ends = "\n".join(f"--- {name}\n{tail(text, 5)}" for name, text in logs.items())
        report.sections.append(("the cluster when it failed (more in out/e2e/failed)", f"{told}\n{ends}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The story as a table, and in out/e2e/story.txt."""
    story = config.stash[STORY]
    if not story.steps:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "story.txt").write_text(story.table() + "\n")
    terminalreporter.section("the story")
    terminalreporter.write_line(story.table())
