"""Which fields an installed CRD must know, and that a document without one of them is seen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from continual_operator import safety
from continual_operator.safety import BRAKES, SCHEMA, missing_fields, remembered
from continual_operator.spec import ContinualModelSpec

CRD = Path(__file__).resolve().parents[3] / "crds/continualmodels.yaml"


def document() -> dict[str, Any]:
    """As the API server serves it: the schema of the CRD under the name of the kind."""
    [version] = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return {"components": {"schemas": {SCHEMA: copy.deepcopy(version["schema"]["openAPIV3Schema"])}}}


def without(path: str) -> dict[str, Any]:
    """The document with one field less; list items on the way are entered."""
    whole = document()
    place = whole["components"]["schemas"][SCHEMA]
    *parents, last = path.split(".")
    for parent in parents:
        place = place["properties"][parent]
        place = place.get("items", place)
    del place["properties"][last]
    return whole


def test_our_own_crd_lacks_nothing() -> None:
    assert missing_fields(document()) == ()


@pytest.mark.parametrize("path", [f"spec.{path}" for path in BRAKES])
def test_a_brake_that_would_be_dropped_is_missed(path: str) -> None:
    """Somebody sets suspend, requireApproval or a limit, and the API server throws it away without a word (O11)."""
    assert path in missing_fields(without(path))


@pytest.mark.parametrize(
    "path", ["quarantine", "training.spent", "versions.digest", "canary.evidenceId", "retrained.attempted"]
)
def test_a_memory_that_would_be_dropped_is_missed(path: str) -> None:
    """What decisions depend on, in blocks and in lists too."""
    assert f"status.{path}" in missing_fields(without(f"status.{path}"))


def test_a_field_that_only_informs_stops_nobody() -> None:
    """An operator that is newer by one number in the status goes on."""
    for path in ("status.backlog", "status.stable.accuracy", "status.canary.evidence.coveragePercent"):
        assert missing_fields(without(path)) == ()


def test_a_server_that_does_not_know_the_kind_knows_none_of_it() -> None:
    assert len(missing_fields({"components": {"schemas": {}}})) == len(BRAKES) + len(remembered())


def test_every_brake_is_a_field_of_the_spec() -> None:
    """A brake that is renamed must be renamed here too."""
    known = {f"{path}" for path in _spec_paths()}
    assert set(BRAKES) <= known


def _spec_paths() -> set[str]:
    return set(safety._paths(ContinualModelSpec))
