"""What the services of the node are told: their configuration files and commands, whole, from values.

Learned on a real machine: `restrict_oom_score_adj` where a sandbox lacks CAP_SYS_RESOURCE, else no pod gets a process; `ptp` instead of
a bridge, so that every packet between pods is routed, which neither services nor network policies work without on a kernel that has
no br_netfilter; nftables and no conntrack settings, which belong to the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CABLE = "continual-e2e"
HOST, NODE = "10.243.0.1", "10.243.0.2"
"""The two ends of the cable: the control plane and the node."""
PODS, SERVICES = "10.244.0.0/24", "10.245.0.0/24"
GATEWAY = "10.244.0.1"
DOMAIN = "cluster.local"
CGROUP = "continual-e2e"
NODE_NAME = "node"
PAUSE = "localhost/continual-pause:1"
STORAGE_CLASS = "node"
CNI_PLUGINS = "/usr/lib/cni"
TOKENS = {
    "node": "system:node:node",
    "scheduler": "system:kube-scheduler",
    "proxy": "system:kube-proxy",
    "dns": "continual:dns",
    "policies": "continual:policies",
}
"""Who talks to the API server beside the controllers: each as itself, with the rights Kubernetes gives it."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things lie: `state` goes with the run, `store` (images) stays."""

    state: Path
    store: Path

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    def kubeconfig(self, who: str) -> Path:
        return self.state / f"{who}.kubeconfig"


def containerd(folders: Folders) -> str:
    """containerd 1.6 and newer, its own root, state and socket."""
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""
version = 2
root = "{folders.store}/containerd"
state = "{folders.state}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = "{folders.containerd_socket}"

{cri}]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  {cri}.cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{folders.state}/cni"
  {cri}.containerd]
    snapshotter = "overlayfs"
    {cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      {cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni() -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": PODS, "gateway": GATEWAY}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}


def kubelet(folders: Folders, client_ca: Path) -> dict[str, Any]:
    """Full disks and swap of the machine are not the cluster's business; cgroup v1 will do."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": NODE, "port": 10250, "healthzBindAddress": NODE, "healthzPort": 10248,
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": False}, "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{CGROUP}", "failCgroupV1": False, "failSwapOn": False,
        "clusterDNS": [NODE], "clusterDomain": DOMAIN, "resolvConf": str(folders.state / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{folders.containerd_socket}",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(folders.state / "pods"), "volumePluginDir": str(folders.state / "plugins"),
        "protectKernelDefaults": False, "registryPullQPS": 0,
        "podsPerCore": 0, "maxPods": 60,
    }  # fmt: skip


def kube_proxy(folders: Folders) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "hostnameOverride": NODE_NAME, "clusterCIDR": PODS, "bindAddress": NODE,
        "healthzBindAddress": f"{NODE}:10256", "metricsBindAddress": f"{NODE}:10249",
        "clientConnection": {"kubeconfig": str(folders.kubeconfig("proxy"))},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"syncPeriod": "30s", "minSyncPeriod": "100ms"},
    }  # fmt: skip


def corefile(folders: Folders) -> str:
    return f""".:53 {{
    bind {NODE}
    errors
    ready {NODE}:8181
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {folders.kubeconfig("dns")}
        ttl 5
    }}
}}
"""


def roles() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the name server and the enforcer of policies may see: (role, binding)."""
    watch = {"verbs": ["list", "watch"]}
    dns = [
        {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], **watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **watch},
    ]
    policies = [
        {"apiGroups": [""], "resources": ["namespaces", "pods"], **watch},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], **watch},
    ]
    return [role("dns", dns), role("policies", policies)]


def role(who: str, rules: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A ClusterRole and its binding to the user of that name."""
    group, name = "rbac.authorization.k8s.io", {"name": f"continual-{who}"}
    subjects = [{"apiGroup": group, "kind": "User", "name": TOKENS[who]}]
    binding = {"metadata": name, "roleRef": {"apiGroup": group, "kind": "ClusterRole", **name}, "subjects": subjects}
    return {"metadata": name, "rules": rules}, binding


def storage_class() -> dict[str, Any]:
    """The default class; its volumes are made beforehand."""
    return {
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
    }  # fmt: skip


def volume(number: int, path: Path) -> dict[str, Any]:
    """A folder of the node as a local volume, which unlike hostPath gets the group that a pod asks for."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "metadata": {"name": f"folder-{number}"},
        "spec": {
            "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }  # fmt: skip
