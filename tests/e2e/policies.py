"""Enforces NetworkPolicies on the node: reads pods, namespaces and policies once a second, writes nftables rules.

The enforcers that others publish need a registry or are not served by the module proxy, and the semantics are small: a pod that a
policy selects talks only as some policy allows. Pods are routed (`ptp`), so the forward hook sees every packet between them, after
services have been resolved; the input hook sees what they send to the node itself. As everywhere, the node (kubelet's probes, and the
control plane on the other end of the cable) reaches every pod, and answers always pass. The node's name server counts as the pods that
policies name for it: `k8s-app: kube-dns` in `kube-system`.

    python policies.py KUBECONFIG       inside the node's network namespace; the standard library only
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = "continual_policies"
EVERY_SECONDS = 1.0
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """What policies look at."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    ip: str
    ports: tuple[tuple[str, str, int], ...] = ()
    """(name, protocol, number)"""


@dataclass(frozen=True, slots=True)
class World:
    pods: tuple[Pod, ...]
    namespaces: dict[str, dict[str, str]]
    """Labels by name."""
    policies: tuple[Document, ...]
    always: tuple[str, ...]
    """Addresses that reach every pod."""


# Selecting --------------------------------------------------------------------------------------------------------------------


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """A label selector; the empty one selects everything."""
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(holds(expression, labels) for expression in selector.get("matchExpressions", []))


def holds(expression: Document, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"operator {expression['operator']} is none of Kubernetes")


def directions(spec: Document) -> list[str]:
    """As Kubernetes defaults them: Ingress always, Egress where there are rules for it."""
    return list(spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])])


def isolating(world: World, pod: Pod, direction: str) -> list[Document]:
    """The policies that restrict a pod in one direction."""
    return [
        policy for policy in world.policies
        if policy["metadata"]["namespace"] == pod.namespace
        and selects(policy["spec"].get("podSelector", {}), dict(pod.labels))
        and direction in directions(policy["spec"])
    ]  # fmt: skip


def peers(world: World, namespace: str, peer: Document) -> Iterator[Pod]:
    """The pods that a rule's peer names."""
    for pod in world.pods:
        in_namespace = (
            selects(peer["namespaceSelector"], world.namespaces.get(pod.namespace, {}))
            if "namespaceSelector" in peer
            else pod.namespace == namespace
        )
        if in_namespace and selects(peer.get("podSelector", {}), dict(pod.labels)):
            yield pod


# Rules ------------------------------------------------------------------------------------------------------------------------


def statements(world: World, pod: Pod, direction: str, policy: Document) -> Iterator[str]:
    """One policy's rules for one pod as nftables statements that let a packet pass this chain."""
    far = "ip saddr" if direction == "Ingress" else "ip daddr"
    for rule in policy["spec"].get(direction.lower()) or []:
        listed = rule.get("from" if direction == "Ingress" else "to") or []
        for peer in listed or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]:
            if "ipBlock" in peer:
                block = peer["ipBlock"]
                refused = f"{far} != {{ {', '.join(block['except'])} }} " if block.get("except") else ""
                match, targets = f"{refused}{far} {block['cidr']}", [pod]
            else:
                found = list(peers(world, policy["metadata"]["namespace"], peer))
                if not found:
                    continue
                match, targets = f"{far} {{ {', '.join(sorted({one.ip for one in found}))} }}", found
            owners = [pod] if direction == "Ingress" else targets
            yield from (f"{match} {port} return" for port in ports(rule.get("ports") or [], owners))


def ports(wanted: list[Document], owners: Iterable[Pod]) -> Iterator[str]:
    """Port matches; a name means whatever the pods at that end call so. No list: every port."""
    if not wanted:
        yield "counter"
    for one in wanted:
        protocol, port = one.get("protocol", "TCP").lower(), one.get("port")
        if port is None:
            yield f"meta l4proto {protocol}"
        elif isinstance(port, str):
            named = {number for pod in owners for name, _, number in pod.ports if name == port}
            yield from (f"{protocol} dport {number}" for number in sorted(named))
        else:
            yield f"{protocol} dport {port}" + (f"-{one['endPort']}" if "endPort" in one else "")


def ruleset(world: World) -> str:
    """The whole table, replaced at once."""
    chains, jumps = [], []
    for direction, near in (("Egress", "ip saddr"), ("Ingress", "ip daddr")):
        for pod in world.pods:
            policies = isolating(world, pod, direction)
            if not policies:
                continue
            name = f"{direction.lower()}_{pod.ip.replace('.', '_')}"
            rules = sorted({line for policy in policies for line in statements(world, pod, direction, policy)})
            chains.append(f"chain {name} {{\n" + "".join(f"  {line}\n" for line in [*rules, "counter drop"]) + "}")
            jumps.append(f"{near} {pod.ip} jump {name}")
    pass_first = ["ct state established,related accept", *(f"ip saddr {ip} accept" for ip in world.always)]
    hooks = [
        f"chain {hook} {{\n  type filter hook {hook} priority 0; policy accept;\n"
        + "".join(f"  {line}\n" for line in [*pass_first, *jumps])
        + "}"
        for hook in ("forward", "input")
    ]
    return (
        f"table ip {TABLE} {{}}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n"
        + "\n".join([*chains, *hooks])
        + "\n}\n"
    )


# The world, as the API server tells it ----------------------------------------------------------------------------------------


def read_pod(document: Document) -> Pod | None:
    """None for one without an address of its own."""
    status, spec, metadata = document.get("status", {}), document["spec"], document["metadata"]
    if not status.get("podIP") or spec.get("hostNetwork") or status.get("phase") in {"Succeeded", "Failed"}:
        return None
    named = tuple(
        (port.get("name", ""), port.get("protocol", "TCP"), port["containerPort"])
        for container in spec["containers"]
        for port in container.get("ports", [])
    )
    return Pod(metadata["namespace"], tuple(sorted(metadata.get("labels", {}).items())), status["podIP"], named)


def read_world(get: Callable[[str], list[Document]], dns: str, always: tuple[str, ...]) -> World:
    pods = [pod for document in get("/api/v1/pods") if (pod := read_pod(document))]
    name_server = Pod("kube-system", (("k8s-app", "kube-dns"),), dns, (("dns", "UDP", 53), ("dns-tcp", "TCP", 53)))
    namespaces = {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in get("/api/v1/namespaces")}
    policies = get("/apis/networking.k8s.io/v1/networkpolicies")
    return World((*pods, name_server), namespaces, tuple(policies), always)


def reader(kubeconfig: Path) -> Callable[[str], list[Document]]:
    """Lists of objects, as whoever the kubeconfig names."""
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])

    def get(path: str) -> list[Document]:
        headers = {"Authorization": f"Bearer {user['token']}", "Accept": "application/json"}
        request = urllib.request.Request(f"{cluster['server']}{path}?resourceVersion=0", headers=headers)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return list(json.load(answer)["items"])

    return get


def main(kubeconfig: str, dns: str, *always: str) -> None:
    """Until killed; a read that fails leaves the rules as they are."""
    get, last = reader(Path(kubeconfig)), ""
    while True:
        try:
            wanted = ruleset(read_world(get, dns, always))
        except (urllib.error.URLError, OSError) as error:
            print(f"cannot read the cluster: {error}", flush=True)
        else:
            if wanted != last:
                subprocess.run(["nft", "-f", "-"], input=wanted, text=True, check=True)
                print(wanted, flush=True)
                last = wanted
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
