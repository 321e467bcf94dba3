"""The guides against the code: every condition and reason stands in operations.md, and nothing stands there that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from chart_rendering import render
from continual_operator import reasons
from continual_operator.conditions import conditions
from control_plane import ROOT

OPERATIONS = (ROOT / "docs/guides/operations.md").read_text()
INSTALL = (ROOT / "docs/guides/install.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def section(title: str) -> str:
    """Text under a heading of the second level."""
    return OPERATIONS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_reason_is_explained_and_no_other() -> None:
    """The constants of reasons.py are API; the table says what to do about each."""
    known = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    assert sorted(ROW.findall(section("Reasons, and what to do"))) == sorted(known)


def test_every_condition_is_explained_and_no_other() -> None:
    """The kinds that `conditions` makes, in its source."""
    import inspect

    made = re.findall(r'^ +"(\w+)": _\w+\(', inspect.getsource(conditions), re.MULTILINE)
    assert ROW.findall(section("Conditions")) == ["Ready", *made]


def named(text: str) -> Iterator[str]:
    """Values of the chart that a guide names: `a.b.c` in back-ticks, and --set a.b=…"""
    yield from re.findall(r"--set(?:-json|-string)? '?([a-zA-Z.]+)=", text)
    yield from re.findall(
        r"`((?:redis|objectStore|gateway|networkPolicy|crds|operator|workers|images|metrics|tests)\.[a-zA-Z.]+)`", text
    )


@pytest.mark.parametrize("guide", [OPERATIONS, INSTALL], ids=["operations", "install"])
def test_every_value_that_a_guide_names_exists(guide: str) -> None:
    """Renamed values would leave commands that helm refuses."""
    import yaml
    from chart_rendering import CHART

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in named(guide):
        node = values
        for part in path.rstrip(".").split("."):
            assert isinstance(node, dict), path
            assert part in node, path
            node = node[part]


@pytest.mark.parametrize("guide", [OPERATIONS, INSTALL], ids=["operations", "install"])
def test_every_object_that_a_guide_names_is_rendered(guide: str) -> None:
    """Deployments, StatefulSets, Services and Secrets of the release `continual`."""
    kinds = {"deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service", "secret": "Secret"}
    rendered = {(m["kind"], m["metadata"]["name"]) for m in render()}
    found = re.findall(r"\b(deployment|statefulset|service|secret)[/ ](continual-[a-z-]+)", guide)
    assert found or guide is INSTALL
    for kind, name in found:
        assert (kinds[kind], name) in rendered, f"{kind}/{name}"
