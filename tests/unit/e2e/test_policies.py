"""What the end-to-end node's enforcer makes of NetworkPolicies: their meaning, without a kernel."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "e2e/policies.py"
SPEC = importlib.util.spec_from_file_location("policies", PATH)
assert SPEC is not None
assert SPEC.loader is not None
policies = sys.modules["policies"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(policies)

WORKER = policies.Pod("learn", (("app", "worker"),), "10.0.0.2", (("health", "TCP", 8081),))
REDIS = policies.Pod("learn", (("app", "redis"),), "10.0.0.3", (("redis", "TCP", 6379),))
OTHER = policies.Pod("other", (("app", "worker"),), "10.0.0.4")
NAMESPACES = {"learn": {"kubernetes.io/metadata.name": "learn"}, "other": {"kubernetes.io/metadata.name": "other"}}


def rules(*specs: dict[str, Any]) -> str:
    """The rule set of a world with three pods and these policies in `learn`."""
    documents = tuple(
        {"metadata": {"namespace": "learn", "name": f"p{n}"}, "spec": spec} for n, spec in enumerate(specs)
    )
    return str(policies.ruleset(policies.World((WORKER, REDIS, OTHER), NAMESPACES, documents, ("10.9.9.9",))))


def chain(text: str, name: str) -> list[str]:
    """The rules of a chain; empty where there is none."""
    _, found, rest = text.partition(f"chain {name} {{\n")
    return [line.strip() for line in rest.split("}\n")[0].splitlines() if line.strip() != "}"] if found else []


def test_a_pod_that_no_policy_selects_is_left_alone() -> None:
    """Only the selected pod of the policy's own namespace is isolated, and only in the policy's direction."""
    text = rules({"podSelector": {"matchLabels": {"app": "worker"}}, "policyTypes": ["Egress"]})
    assert chain(text, "egress_10_0_0_2") == ["counter drop"]
    assert "10.0.0.3" not in text
    assert "10.0.0.4" not in text
    assert "ip daddr 10.0.0.2" not in text


def test_allowed_is_what_any_policy_allows() -> None:
    """Policies add up; what none allows is dropped."""
    deny = {"podSelector": {}, "policyTypes": ["Ingress"]}
    allow = {
        "podSelector": {"matchLabels": {"app": "redis"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "worker"}}}], "ports": [{"port": "redis"}]}],
    }
    text = rules(deny, allow)
    assert chain(text, "ingress_10_0_0_3") == ["ip saddr { 10.0.0.2 } tcp dport 6379 return", "counter drop"]
    assert chain(text, "ingress_10_0_0_2") == ["counter drop"]


PEERS = [
    ({"podSelector": {"matchLabels": {"app": "worker"}}}, "ip saddr { 10.0.0.2 }"),
    ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "worker"}}}, "ip saddr { 10.0.0.2, 10.0.0.4 }"),
    ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, "ip saddr { 10.0.0.4 }"),
    ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.4/32"]}}, "ip saddr != { 10.0.0.4/32 } ip saddr 10.0.0.0/8"),
]


@pytest.mark.parametrize(("peer", "match"), PEERS)
def test_a_peer_is_a_set_of_addresses(peer: dict[str, Any], match: str) -> None:
    """Pods here, pods of selected namespaces, blocks with exceptions."""
    text = rules({"podSelector": {"matchLabels": {"app": "redis"}}, "ingress": [{"from": [peer]}]})
    assert chain(text, "ingress_10_0_0_3") == [f"{match} counter return", "counter drop"]


def test_a_peer_that_nobody_is_allows_nobody() -> None:
    """An empty match is not everybody."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}
    text = rules({"podSelector": {"matchLabels": {"app": "redis"}}, "ingress": [rule]})
    assert chain(text, "ingress_10_0_0_3") == ["counter drop"]


PORTS = [
    ({"port": 53, "protocol": "UDP"}, "udp dport 53"),
    ({"port": 8000, "endPort": 8010}, "tcp dport 8000-8010"),
    ({"protocol": "TCP"}, "meta l4proto tcp"),
]


@pytest.mark.parametrize(("port", "match"), PORTS)
def test_ports_are_numbers_ranges_or_a_whole_protocol(port: dict[str, Any], match: str) -> None:
    """TCP unless it says otherwise; no list of peers is everybody."""
    text = rules({"podSelector": {"matchLabels": {"app": "worker"}}, "egress": [{"ports": [port]}]})
    assert chain(text, "egress_10_0_0_2") == [f"ip daddr 0.0.0.0/0 {match} return", "counter drop"]


EXPRESSIONS = [
    ({"key": "app", "operator": "In", "values": ["worker"]}, True),
    ({"key": "app", "operator": "NotIn", "values": ["worker"]}, False),
    ({"key": "tier", "operator": "NotIn", "values": ["worker"]}, True),
    ({"key": "app", "operator": "Exists"}, True),
    ({"key": "app", "operator": "DoesNotExist"}, False),
]


@pytest.mark.parametrize(("expression", "selected"), EXPRESSIONS)
def test_selectors_know_expressions(expression: dict[str, Any], selected: bool) -> None:
    """As Kubernetes reads them: NotIn holds for a label that is missing."""
    assert policies.selects({"matchExpressions": [expression]}, dict(WORKER.labels)) is selected


def test_the_node_reaches_everything_and_answers_come_back() -> None:
    """Probes and answers pass before any policy is asked, in both hooks."""
    text = rules({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    for hook in ("forward", "input"):
        lines = chain(text, hook)
        assert lines[1:3] == ["ct state established,related accept", "ip saddr 10.9.9.9 accept"]
        assert "ip saddr 10.0.0.2 jump egress_10_0_0_2" in lines
