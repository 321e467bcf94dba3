"""What a Deployment or a Job means on one machine.

Local mode runs what it understands, passes over a written list of fields that only make sense for a pod, and refuses every other field:
a manifest that would behave otherwise here than in a cluster must not be accepted in silence. Pure: values in, values out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from continual_contract.errors import InvalidSpecError
from continual_contract.ids import canonical_json

Tree = Mapping[str, Any]
"""Field name → True (implemented), IGNORED, a Tree, or a list with one Tree (of its items)."""

IGNORED = "ignored"

_METADATA: Tree = dict.fromkeys(
    ("name", "namespace", "labels", "annotations", "ownerReferences"), True
) | dict.fromkeys(("uid", "generation", "resourceVersion", "creationTimestamp", "managedFields"), IGNORED)
_TIMINGS = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
_HTTP_GET: Tree = {"path": True, "port": IGNORED, "scheme": IGNORED, "host": IGNORED, "httpHeaders": IGNORED}
_READINESS: Tree = {"httpGet": _HTTP_GET, **dict.fromkeys(_TIMINGS, IGNORED)}
_LIVENESS: Tree = {"httpGet": _HTTP_GET, **dict.fromkeys(_TIMINGS, True)}
_ENV: Tree = {"name": True, "value": True, "valueFrom": {"fieldRef": {"fieldPath": True, "apiVersion": IGNORED}}}
_CONTAINER: Tree = (
    dict.fromkeys(("name", "command", "args"), True)
    | {
        "env": [_ENV],
        "readinessProbe": _READINESS,
        "livenessProbe": _LIVENESS,
    }
    | dict.fromkeys(
        (
            "image",
            "imagePullPolicy",
            "lifecycle",
            "ports",
            "resources",
            "securityContext",
            "startupProbe",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "volumeMounts",
        ),
        IGNORED,
    )
)
_POD_SPEC: Tree = (
    dict.fromkeys(("terminationGracePeriodSeconds", "restartPolicy"), True)
    | {"containers": [_CONTAINER]}
    | dict.fromkeys(
        (
            "affinity",
            "automountServiceAccountToken",
            "dnsPolicy",
            "enableServiceLinks",
            "imagePullSecrets",
            "nodeSelector",
            "priorityClassName",
            "runtimeClassName",
            "schedulerName",
            "securityContext",
            "serviceAccount",
            "serviceAccountName",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        ),
        IGNORED,
    )
)
_TEMPLATE: Tree = {"metadata": _METADATA, "spec": _POD_SPEC}
_TOP: Tree = {"apiVersion": True, "kind": True, "metadata": _METADATA, "status": IGNORED}
_STRATEGY: Tree = {"type": True, "rollingUpdate": IGNORED}
_DEPLOYMENT_SPEC: Tree = {
    "replicas": True,
    "selector": IGNORED,
    "template": _TEMPLATE,
    "strategy": _STRATEGY,
} | dict.fromkeys(("minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit"), IGNORED)
_JOB_NUMBERS = ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
_JOB_SPEC: Tree = dict.fromkeys((*_JOB_NUMBERS, "parallelism", "completions"), True) | {
    "template": _TEMPLATE,
    "completionMode": IGNORED,
    "podFailurePolicy": {
        "rules": [{"action": True, "onPodConditions": [{"type": True, "status": True}]}],
    },
    "podReplacementPolicy": True,
    "selector": IGNORED,
}
DEPLOYMENT: Tree = {**_TOP, "spec": _DEPLOYMENT_SPEC}
JOB: Tree = {**_TOP, "spec": _JOB_SPEC}


@dataclass(frozen=True, slots=True)
class EnvVar:
    """A variable: a value, or a field of the pod's metadata."""

    name: str
    value: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a process that runs is taken for hung, and killed."""

    path: str
    initial_delay_seconds: float
    period_seconds: float
    timeout_seconds: float
    failure_threshold: int


@dataclass(frozen=True, slots=True)
class Container:
    """The process to run."""

    name: str
    command: tuple[str, ...]
    env: tuple[EnvVar, ...]
    ready_path: str | None
    """Path polled for readiness; None: ready as soon as it runs."""
    live: Liveness | None


@dataclass(frozen=True, slots=True)
class Template:
    """What a pod of a Deployment or Job is made from."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    container: Container
    grace_seconds: float
    restart_policy: Literal["Always", "OnFailure", "Never"]
    digest: str
    """Of everything in it that matters here: other digest, other pods."""


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    replicas: int
    recreate: bool
    template: Template


@dataclass(frozen=True, slots=True)
class JobSpec:
    backoff_limit: int
    active_deadline_seconds: float | None
    ttl_seconds: float | None
    template: Template


def parse_deployment(manifest: Mapping[str, Any]) -> DeploymentSpec:
    """Read a Deployment.

    Raises:
        InvalidSpecError: a field that local mode does not implement, or a value it cannot use.
    """
    check_fields(manifest, DEPLOYMENT)
    spec = manifest["spec"]
    strategy = spec.get("strategy", {}).get("type", "RollingUpdate")
    _one_of(strategy, ("RollingUpdate", "Recreate"), "spec.strategy.type")
    replicas = _number(spec.get("replicas", 1), "spec.replicas")
    return DeploymentSpec(
        int(replicas), strategy == "Recreate", parse_template(spec["template"], "Always", ("Always",))
    )


def parse_job(manifest: Mapping[str, Any]) -> JobSpec:
    """Read a Job.

    Raises:
        InvalidSpecError: a field that local mode does not implement, or a value it cannot use.
    """
    check_fields(manifest, JOB)
    spec = manifest["spec"]
    for field in ("parallelism", "completions"):
        _one_of(spec.get(field, 1), (1,), f"spec.{field}")
    _one_of(spec.get("podReplacementPolicy", "Failed"), ("Failed",), "spec.podReplacementPolicy")
    for index, rule in enumerate((spec.get("podFailurePolicy") or {}).get("rules") or ()):
        _check_failure_rule(rule, f"spec.podFailurePolicy.rules[{index}]")
    limit, deadline, ttl = (spec.get(field) for field in _JOB_NUMBERS)
    return JobSpec(
        backoff_limit=6 if limit is None else int(_number(limit, "spec.backoffLimit")),
        active_deadline_seconds=None if deadline is None else _number(deadline, "spec.activeDeadlineSeconds"),
        ttl_seconds=None if ttl is None else _number(ttl, "spec.ttlSecondsAfterFinished"),
        template=parse_template(spec["template"], "Never", ("Never", "OnFailure")),
    )


def _check_failure_rule(rule: Mapping[str, Any], field: str) -> None:
    """That evictions do not count is how it is here: nobody evicts a process. Every other rule would change what does count."""
    _one_of(rule.get("action"), ("Ignore",), f"{field}.action")
    for index, condition in enumerate(rule.get("onPodConditions") or ()):
        _one_of(condition.get("type"), ("DisruptionTarget",), f"{field}.onPodConditions[{index}].type")


def parse_template(
    template: Mapping[str, Any], default: Literal["Always", "Never"], policies: tuple[str, ...]
) -> Template:
    metadata, spec = template.get("metadata") or {}, template["spec"]
    policy = spec.get("restartPolicy", default)
    _one_of(policy, policies, "spec.template.spec.restartPolicy")
    containers = spec.get("containers") or []
    if len(containers) != 1:
        raise InvalidSpecError(
            "local mode runs exactly one container per pod",
            field="spec.template.spec.containers",
            value=[c.get("name") for c in containers],
            remedy="run the others on a cluster",
        )
    container = _container(containers[0])
    grace = _number(spec.get("terminationGracePeriodSeconds", 30), "spec.template.spec.terminationGracePeriodSeconds")
    labels, annotations = dict(metadata.get("labels") or {}), dict(metadata.get("annotations") or {})
    seen = [labels, annotations, containers[0], grace, policy]
    digest = hashlib.sha256(canonical_json(seen)).hexdigest()[:10]
    return Template(labels, annotations, container, grace, policy, digest)


def _container(container: Mapping[str, Any]) -> Container:
    path = "spec.template.spec.containers[0]"
    command = (*(container.get("command") or ()), *(container.get("args") or ()))
    if not container.get("command") or not all(isinstance(word, str) for word in command):
        raise InvalidSpecError(
            "local mode has no images, so the command must be written out as strings",
            field=f"{path}.command",
            value=container.get("command"),
            remedy="give the whole command",
        )
    env = tuple(_variable(v, f"{path}.env[{i}]") for i, v in enumerate(container.get("env") or ()))
    ready = _http_path(container, "readinessProbe", path)
    return Container(container.get("name", "main"), command, env, ready, _liveness(container, path))


def _http_path(container: Mapping[str, Any], name: str, path: str) -> str | None:
    probe = container.get(name)
    if probe is None:
        return None
    if "httpGet" not in probe:
        raise InvalidSpecError("local mode polls httpGet only", field=f"{path}.{name}", value=probe)
    return str(probe["httpGet"].get("path", "/"))


def _liveness(container: Mapping[str, Any], path: str) -> Liveness | None:
    url_path = _http_path(container, "livenessProbe", path)
    if url_path is None:
        return None
    probe, field = container["livenessProbe"], f"{path}.livenessProbe"
    defaults = zip(_TIMINGS, (0, 10, 1, 3, 1), strict=True)
    delay, period, timeout, threshold, _ = (_number(probe.get(n, d), f"{field}.{n}") for n, d in defaults)
    return Liveness(url_path, delay, period, timeout, int(threshold))


def _variable(variable: Mapping[str, Any], path: str) -> EnvVar:
    field = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath", "")
    if field and not _FIELD_PATH.fullmatch(field):
        raise InvalidSpecError(
            "local mode knows metadata.name, .namespace, .uid, .labels['…'] and .annotations['…']",
            field=f"{path}.valueFrom.fieldRef.fieldPath",
            value=field,
        )
    value = variable.get("value", "")
    if not isinstance(value, str):
        raise InvalidSpecError("a variable's value is a string", field=f"{path}.value", value=value, remedy="quote it")
    return EnvVar(str(variable["name"]), value, field)


_FIELD_PATH = re.compile(r"metadata\.(?:(name|namespace|uid)|(labels|annotations)\['([^']+)'\])")
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def environment(container: Container, metadata: Mapping[str, Any]) -> dict[str, str]:
    """The container's variables, with fields of the pod and `$(NAME)` references to earlier variables filled in."""
    values: dict[str, str] = {}
    for variable in container.env:
        value = _field(variable.field_path, metadata) if variable.field_path else expand(variable.value, values)
        values[variable.name] = value
    return values


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` → its value, `$$` → `$`, an unknown name stays as it is: as Kubernetes does it."""

    def substitute(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(substitute, text)


def _field(path: str, metadata: Mapping[str, Any]) -> str:
    match = _FIELD_PATH.fullmatch(path)
    assert match is not None
    plain, mapping, key = match.groups()
    return str(metadata[plain] if plain else (metadata.get(mapping) or {}).get(key, ""))


def check_fields(value: Mapping[str, Any], tree: Tree, path: str = "") -> None:
    """Refuse every field that is neither implemented nor on the list of ignored ones.

    Raises:
        InvalidSpecError: naming the field.
    """
    for name, below in value.items():
        field = f"{path}.{name}" if path else name
        known = tree.get(name)
        if known is None:
            raise InvalidSpecError(
                "local mode does not implement this field",
                field=field,
                value=below,
                remedy="leave it out, or use a cluster",
            )
        if isinstance(known, list):
            for index, item in enumerate(below or ()):
                check_fields(item, known[0], f"{field}[{index}]")
        elif isinstance(known, Mapping):
            check_fields(below or {}, known, field)


def _one_of(value: object, allowed: tuple[object, ...], field: str) -> None:
    if value not in allowed:
        known = ", ".join(map(str, allowed))
        raise InvalidSpecError(
            f"local mode implements {known}", field=field, value=value, remedy="use a cluster for others"
        )


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidSpecError("not a number of at least 0", field=field, value=value)
    return float(value)
