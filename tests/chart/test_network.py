"""Who may talk to whom, judged from the rendered NetworkPolicies as Kubernetes defines them.

A connection is open when the policies that select its source allow it out and those that select its destination let it in; a pod that no
policy selects is free on that side. Nothing here enforces anything: that is the business of a cluster's network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from chart_rendering import Manifest, of_kind, pod_specs, render

WORKER = {"app.kubernetes.io/managed-by": "continual-operator", "continual.dev/component": "inference"}


@dataclass(frozen=True)
class End:
    """A pod, or (without a namespace) an address outside of the cluster."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    address: str = "10.244.0.9"


def ours(component: str, namespace: str = "here") -> End:
    return End(
        namespace,
        {
            "app.kubernetes.io/name": "continual",
            "app.kubernetes.io/instance": "continual",
            "app.kubernetes.io/component": component,
        },
    )


ENDS = {
    "operator": ours("operator"),
    "gateway": ours("gateway"),
    "redis": ours("redis"),
    "minio": ours("minio"),
    "test": ours("test"),
    "worker": End("here", WORKER),
    "worker in team-a": End("team-a", WORKER),
    "worker elsewhere": End("elsewhere", WORKER),
    "neighbour": End("here", {"app": "neighbour"}),
    "namesake": End(
        "elsewhere",
        {
            "app.kubernetes.io/name": "continual",
            "app.kubernetes.io/instance": "other",
            "app.kubernetes.io/component": "operator",
        },
    ),
    "dns": End("kube-system", {"k8s-app": "kube-dns"}),
    "prometheus": End("monitoring", {"app": "prometheus"}),
    "proxy": End("ingress-nginx", {"app": "nginx"}),
    "api server": End("", address="10.0.0.1"),
    "internet": End("", address="203.0.113.5"),
}
PORTS = {
    "dns": (53,),
    "redis": (6379,),
    "minio": (9000, 8081),
    "operator": (8080, 8082),
    "gateway": (8080,),
    "api server": (443, 6443),
}
"""What listens where; workers and everybody else: 8081 and 443."""
OURS = ("operator", "gateway", "redis", "minio", "test", "worker", "worker in team-a", "worker elsewhere")


class Network:
    def __init__(self, manifests: list[Manifest]) -> None:
        self.policies = of_kind(manifests, "NetworkPolicy")

    def open(self, source: End, target: End, port: int) -> bool:
        return self._passes(source, target, port, "Egress", "to") and self._passes(
            target, source, port, "Ingress", "from"
        )

    def _passes(self, here: End, there: End, port: int, direction: str, peers: str) -> bool:
        selecting = [
            policy
            for policy in self.policies
            if here.namespace == policy["metadata"]["namespace"]
            and direction in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"], here.labels)
        ]
        return not selecting or any(
            _ports(rule, port) and (not rule.get(peers) or any(_peer(p, there, policy) for p in rule[peers]))
            for policy in selecting
            for rule in policy["spec"].get(direction.lower(), ())
        )


def _ports(rule: dict[str, Any], port: int) -> bool:
    return not rule.get("ports") or any(p["port"] == port for p in rule["ports"])


def _peer(peer: dict[str, Any], end: End, policy: Manifest) -> bool:
    if "ipBlock" in peer:
        return ip_address(end.address) in ip_network(peer["ipBlock"]["cidr"])
    if not end.namespace:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
    else:
        in_namespace = end.namespace == policy["metadata"]["namespace"]
    return in_namespace and selects(peer.get("podSelector", {}), end.labels)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this judge knows matchLabels only"
    return selector.get("matchLabels", {}).items() <= labels.items()


def open_edges(values: dict[str, Any]) -> set[str]:
    """Every open connection that one of our pods is an end of, as `source -> target:port`."""
    network, found = Network(render(values)), set()
    for source, source_end in ENDS.items():
        for target, target_end in ENDS.items():
            if source == target or not {source, target} & set(OURS):
                continue
            for port in PORTS.get(target, (8081, 443)):
                if network.open(source_end, target_end, port):
                    found.add(f"{source} -> {target}:{port}")
    return found


def edges(*wanted: tuple[str, str]) -> set[str]:
    """`("a, b", "c:1, d:2")` stands for every pair."""
    return {
        f"{source} -> {target}"
        for sources, targets in wanted
        for source in sources.split(", ")
        for target in targets.split(", ")
    }


def among_known(found: set[str]) -> set[str]:
    """Without the pods of namespaces that the release does not serve: no policy of ours lies there."""
    return {edge for edge in found if "elsewhere" not in edge and "team-a" not in edge}


def test_each_needed_connection_is_open_and_no_other() -> None:
    """The default values. A chart does not know the API server's address: until it is told, its port is open to any address."""
    wanted = edges(
        ("operator, gateway", "redis:6379, minio:9000, dns:53, api server:443, api server:6443"),
        ("operator, gateway", "internet:443, neighbour:443, namesake:443, prometheus:443, proxy:443"),
        ("worker", "redis:6379, minio:9000, dns:53"),
        ("test", "gateway:8080, dns:53"),
        ("neighbour, namesake, dns, prometheus, proxy, api server, internet", "gateway:8080"),
    )
    found = among_known(open_edges({}))
    # The namesake is another release's operator elsewhere: its own policies are not here to hold it back.
    assert found ^ wanted == set()


def test_workers_of_a_served_namespace_reach_redis_and_the_store_only() -> None:
    """modelNamespaces: their policies lie beside their pods; a worker of an unserved namespace is refused."""
    found = open_edges({"modelNamespaces": ["team-a"]})
    team = {edge for edge in found if "worker in team-a" in edge}
    assert team == edges(("worker in team-a", "redis:6379, minio:9000, dns:53"))
    assert not {e for e in found if e.startswith("worker elsewhere -> ") and e.endswith((":6379", ":9000"))}


def test_a_cluster_wide_release_lets_workers_of_every_namespace_in() -> None:
    """They are known by the operator's label, wherever they run."""
    found = open_edges({"clusterWide": True})
    assert edges(("worker, worker elsewhere, worker in team-a", "redis:6379, minio:9000")) <= found
    assert not {e for e in found if e.startswith(("neighbour -> redis", "namesake -> redis", "neighbour -> minio"))}


NARROW = {
    "networkPolicy": {
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
        "gateway": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]},
        "metrics": {"namespace": "monitoring"},
    }
}


def test_narrowed_values_leave_what_they_name() -> None:
    """API server by address, gateway for the ingress only, Prometheus on the metrics ports."""
    found = among_known(open_edges(NARROW))
    wanted = edges(
        ("operator, gateway", "redis:6379, minio:9000, dns:53, api server:6443"),
        ("worker", "redis:6379, minio:9000, dns:53"),
        ("test", "gateway:8080, dns:53"),
        ("proxy", "gateway:8080"),
        ("prometheus", "gateway:8080, operator:8082, worker:8081"),
    )
    assert found ^ wanted == set()


def test_an_external_redis_and_store_are_reached_at_their_ports_and_addresses() -> None:
    """With CIDRs only there; there is no pod of ours to reach."""
    external = {
        "redis": {"mode": "external", "external": {"url": "rediss://r.example:6380/0", "cidrs": ["203.0.113.0/24"]}},
        "objectStore": {
            "mode": "external",
            "external": {"endpoint": "https://s3.example.com", "cidrs": ["198.51.100.0/24"]},
            "users": {
                c: {"existingSecret": "s3"} for c in ("operator", "inference", "evaluator", "trainer", "gateway")
            },
        },
        "networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1/32"]}},
    }
    network = Network(render(external))
    redis, store, other = End("", address="203.0.113.5"), End("", address="198.51.100.5"), End("", address="192.0.2.1")
    for name in ("operator", "gateway", "worker"):
        assert network.open(ENDS[name], redis, 6380), name
        assert network.open(ENDS[name], store, 443), name
        assert not network.open(ENDS[name], redis, 443), name
        assert not network.open(ENDS[name], other, 443), name
    assert not [p for p in network.policies if p["metadata"]["name"].endswith(("-redis", "-minio"))]


def test_every_pod_of_the_chart_is_under_a_policy_in_both_directions() -> None:
    """The deny policy selects each pod's labels: what has no rule of its own has no connection."""
    manifests = render()
    deny = next(p for p in of_kind(manifests, "NetworkPolicy") if p["metadata"]["name"] == "continual-deny")
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    templates = [
        m.get("spec", {}).get("template", m) for m in manifests if m["kind"] in {"Deployment", "StatefulSet", "Pod"}
    ]
    assert len(templates) == len(pod_specs(manifests))
    for made in templates:
        assert selects(deny["spec"]["podSelector"], made["metadata"]["labels"])


@pytest.mark.parametrize(
    "policy",
    [
        "continual-operator",
        "continual-gateway",
        "continual-redis",
        "continual-minio",
        "continual-workers",
        "continual-test",
    ],
)
def test_without_one_policy_the_first_test_would_fail(policy: str) -> None:
    """Mutation check: each policy carries connections that nothing else allows."""
    manifests = render()
    whole = Network(manifests)
    less = Network([m for m in manifests if not (m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == policy)])
    pairs = [
        (s, t, p) for sn, s in ENDS.items() for tn, t in ENDS.items() if sn != tn for p in PORTS.get(tn, (8081, 443))
    ]
    assert any(whole.open(*pair) != less.open(*pair) for pair in pairs)
