"""A cluster of one machine: the operator's `Cluster`, with child processes for pods and files for objects.

It is level-triggered like the controllers it stands in for. Every fifth of a second it looks at each pod's process and takes one
step; then Deployments and Jobs plan their pods. All of it can be killed at any point: objects are on disk before anything is started, and
a pod is removed from disk only after its process has ended, so a new one adopts what runs and starts nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Any

from continual_contract.errors import ConflictError, NotFoundError, StoreUnavailableError
from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef

from continual_cli.local import manifests, pods, workloads
from continual_cli.local.files import read_json, write_json
from continual_cli.local.paths import NAMESPACE
from continual_cli.local.pods import Action, Pod
from continual_cli.local.probes import Prober, Verdict
from continual_cli.local.runner import PodRunner
from continual_cli.local.state import KIND, LocalState, timestamp

log = logging.getLogger("continual.local")

TICK_SECONDS = 0.2
HOUSEKEEPING_SECONDS = 5.0
LOGS_KEPT = 200
"""Log files of processes that are gone."""


class LocalCluster:
    """Objects of one home, and the processes that they ask for."""

    def __init__(self, state: LocalState, environ: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._state, self._home, self._clock = state, state.home, clock
        self._runner = PodRunner(state.home, environ)
        self._objects: dict[tuple[str, str], Manifest] = {}
        self._pods: dict[str, Pod] = {}
        self._prober = Prober(self._runner)
        self._changed: dict[ModelRef, None] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._seen_models: dict[str, tuple[int, int]] = {}
        self._load()

    # -- the operator's side

    async def list_models(self) -> list[ModelRef]:
        return [ModelRef(NAMESPACE, name) for name in self._state.model_names()]

    async def get_model(self, ref: ModelRef) -> Manifest | None:
        return self._state.find_model(ref.name) if ref.namespace == NAMESPACE else None

    async def children(self, ref: ModelRef) -> list[Manifest]:
        views = [_public(o) for o in self._objects.values()] + [pods.view(pod) for pod in self._pods.values()]
        return [view for view in views if _model_of(view) == ref]

    async def apply(self, manifest: Manifest) -> None:
        """Apply a whole Deployment.

        Raises:
            InvalidSpecError: it has a field that local mode does not implement.
        """
        manifests.parse_deployment(manifest)
        current = self._objects.get(("Deployment", manifest["metadata"]["name"]))
        if current is None:
            self._store(self._new_object(manifest))
            return
        wanted = current | {"metadata": current["metadata"] | _metadata(manifest), "spec": manifest["spec"]}
        if wanted["spec"] != current["spec"]:
            wanted["metadata"]["generation"] = current["metadata"]["generation"] + 1
        if wanted != current:
            self._store(wanted)

    async def create(self, manifest: Manifest) -> None:
        """Create a Job, once.

        Raises:
            InvalidSpecError: it has a field that local mode does not implement.
        """
        manifests.parse_job(manifest)
        if ("Job", manifest["metadata"]["name"]) not in self._objects:
            job = self._new_object(manifest)
            job["local"] = asdict(workloads.JobRecord(started=self._clock()))
            self._store(job)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        if kind == "Pod":
            pod = self._pods.get(name)
            if pod is not None and pod.uid == uid:
                self._delete_pod(pod)
            return
        current = self._objects.get((kind, name))
        if current is not None and current["metadata"]["uid"] == uid and current["metadata"]["namespace"] == namespace:
            self._delete_object(current)

    async def write_status(self, ref: ModelRef, status: Manifest, resource_version: str) -> None:
        """Replace the status.

        Raises:
            ConflictError: the object changed meanwhile, or is gone.
        """
        try:
            self._state.update_model(ref.name, lambda model: model | {"status": status}, resource_version)
        except NotFoundError as error:
            raise ConflictError("the model is gone", field="metadata.name", value=ref.name) from error

    async def annotate(self, ref: ModelRef, annotations: dict[str, str | None]) -> None:
        def change(model: Manifest) -> Manifest:
            merged = model["metadata"].get("annotations", {}) | annotations
            kept = {key: value for key, value in merged.items() if value is not None}
            return model | {"metadata": model["metadata"] | {"annotations": kept}}

        self._state.update_model(ref.name, change)

    async def record_event(self, ref: ModelRef, type_: str, reason: str, message: str) -> None:
        self._state.record_event(ref.name, type_, reason, message)
        level = logging.WARNING if type_ == "Warning" else logging.INFO
        log.log(level, "%s: %s", ref.name, message, extra={"reason": reason})

    async def changes(self) -> AsyncIterator[ModelRef]:
        """Models that changed, or whose children did; for one reader."""
        while True:
            while self._changed:
                ref = next(iter(self._changed))
                del self._changed[ref]
                yield ref
            self._wake.clear()
            await self._wake.wait()

    # -- the machine's side

    async def run(self, stop: asyncio.Event) -> None:
        """Look, plan and act until `stop` is set; processes are left as they are."""
        next_housekeeping = 0.0
        probing = asyncio.create_task(self._probe_until(stop))
        try:
            while not stop.is_set():
                self.tick()
                if self._clock() >= next_housekeeping:
                    self._housekeeping()
                    next_housekeeping = self._clock() + HOUSEKEEPING_SECONDS
                await _wait(stop, TICK_SECONDS)
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def stop_all(self) -> None:
        """End every process, each with its own grace; Deployments and Jobs stay and go on with the next `run`."""
        self._draining = True
        for pod in list(self._pods.values()):
            if pod.finished is None:
                self._delete_pod(pod)
        while any(pod.finished is None for pod in self._pods.values()):
            self.tick_pods()
            await asyncio.sleep(TICK_SECONDS / 2)

    def tick(self) -> None:
        """One step of everything. A disk that is full now may have space at the next one."""
        try:
            self._watch_models()
            self._collect_garbage()
            self.tick_pods()
            for _, current in sorted(self._objects.items()):
                if self._draining:
                    break
                if current["kind"] == "Deployment":
                    self._step_deployment(current)
                else:
                    self._step_job(current)
        except StoreUnavailableError as error:
            log.error("state not written", extra={"error": str(error)})  # noqa: TRY400 -- a condition, not a defect

    def running(self) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.pid is not None]

    # -- pods

    def tick_pods(self) -> None:
        """Look at every pod once and take its next step."""
        for pod in list(self._pods.values()):
            seen, message = self._runner.observe(pod) if pod.finished is None else (None, "")
            after, action = (
                pods.step(pod, seen, message, self._clock())
                if seen
                else (pod, Action.REMOVE if pod.deleting else Action.NOTHING)
            )
            if after != pod:
                self._store_pod(after, pod)
            if action is Action.REMOVE:
                self._remove_pod(after)
            else:
                self._runner.act(after, action)

    def _create_pod(self, owner: Manifest, template: manifests.Template) -> None:
        metadata = owner["metadata"]
        pod = Pod(
            name=f"{metadata['name']}-{template.digest[:5]}-{secrets.token_hex(3)}",
            namespace=metadata["namespace"],
            uid=str(uuid.uuid4()),
            owner_kind=owner["kind"],
            owner_name=metadata["name"],
            owner_uid=metadata["uid"],
            component=template.labels.get(labels.COMPONENT, "other"),
            template=owner["spec"]["template"],
            digest=template.digest,
            created=self._clock(),
            grace_seconds=template.grace_seconds,
            restart_policy=template.restart_policy,
            labels=template.labels,
        )
        self._store_pod(pod, None)

    def _delete_pod(self, pod: Pod) -> None:
        if not pod.deleting:
            self._store_pod(pods.delete(pod, self._clock()), pod)
            self._runner.terminate(pod)

    def _remove_pod(self, pod: Pod) -> None:
        self._runner.forget(pod)
        (self._home.objects("Pod") / f"{pod.name}.json").unlink(missing_ok=True)
        del self._pods[pod.name]
        self._notify(_model_of(pods.view(pod)))

    def _store_pod(self, pod: Pod, before: Pod | None) -> None:
        write_json(self._home.objects("Pod") / f"{pod.name}.json", pods.view(pod) | {"local": asdict(pod)})
        self._pods[pod.name] = pod
        _tell(pod, before)
        self._notify(_model_of(pods.view(pod)))

    async def _probe_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for verdict in await self._prober.round(list(self._pods.values())):
                self._take(verdict)
            await _wait(stop, TICK_SECONDS)

    def _take(self, verdict: Verdict) -> None:
        """Note an answer, unless it is of a pod or an attempt that is no more; kill what hangs."""
        pod = self._pods.get(verdict.pod)
        if pod is None or pod.attempt != verdict.attempt:
            return
        after = pods.observe_ready(pod, verdict.ready, self._clock())
        if after != pod:
            self._store_pod(after, pod)
        if verdict.hung and pod.active:
            log.warning("process does not answer, killed", extra={"pod": pod.name, "pid": pod.pid})
            self._runner.kill(pod)

    # -- Deployments and Jobs

    def _step_deployment(self, deployment: Manifest) -> None:
        spec = manifests.parse_deployment(_public(deployment))
        owned = self._owned(deployment)
        plan = workloads.plan_deployment(spec, owned)
        self._act(deployment, spec.template, plan)
        status = workloads.deployment_status(spec, deployment["metadata"]["generation"], self._owned(deployment))
        if status != deployment.get("status"):
            self._store(deployment | {"status": status})

    def _step_job(self, job: Manifest) -> None:
        spec = manifests.parse_job(_public(job))
        before = workloads.JobRecord(**{**job["local"], "counted": tuple(job["local"]["counted"])})
        plan = workloads.plan_job(spec, before, self._owned(job), self._clock())
        if plan.expired:
            self._delete_object(job)
            return
        self._act(job, spec.template, workloads.PodPlan(plan.create, plan.delete))
        after = job | {"local": asdict(plan.record), "status": workloads.job_status(plan.record, self._owned(job))}
        if plan.record != before or after["status"] != job.get("status"):
            self._store(after)

    def _act(self, owner: Manifest, template: manifests.Template, plan: workloads.PodPlan) -> None:
        for name in plan.delete:
            self._delete_pod(self._pods[name])
        for _ in range(plan.create):
            self._create_pod(owner, template)

    def _owned(self, owner: Manifest) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.owner_uid == owner["metadata"]["uid"]]

    def _collect_garbage(self) -> None:
        """Delete what belongs to an owner that is gone: children of a deleted model, pods of a deleted Deployment or Job."""
        for current in list(self._objects.values()):
            if not self._owner_lives(current):
                self._delete_object(current)
        living = {current["metadata"]["uid"] for current in self._objects.values()}
        for pod in list(self._pods.values()):
            if pod.owner_uid not in living:
                self._delete_pod(pod)

    def _owner_lives(self, current: Manifest) -> bool:
        owners = [o for o in current["metadata"].get("ownerReferences", ()) if o["kind"] == KIND]
        if not owners:
            return True
        model = self._state.find_model(owners[0]["name"])
        return model is not None and model["metadata"]["uid"] == owners[0]["uid"]

    # -- files

    def _load(self) -> None:
        for kind in ("Deployment", "Job"):
            for path in sorted(self._home.objects(kind).glob("[!.]*.json")):
                if (document := read_json(path)) is not None:
                    self._objects[kind, path.stem] = document
        for path in sorted(self._home.objects("Pod").glob("[!.]*.json")):
            if (document := read_json(path)) is not None:
                self._pods[path.stem] = pods.from_record(document["local"])
        for pod in self._pods.values():
            if pod.deleting:
                self._runner.terminate(pod)

    def _new_object(self, manifest: Manifest) -> Manifest:
        metadata = _metadata(manifest) | {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": timestamp(self._clock()),
            "resourceVersion": "0",
        }
        return {key: manifest[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": metadata}

    def _store(self, current: Manifest) -> None:
        """Write an object; its resourceVersion grows with every write."""
        metadata = current["metadata"] | {"resourceVersion": str(int(current["metadata"]["resourceVersion"]) + 1)}
        current = current | {"metadata": metadata}
        write_json(self._home.objects(current["kind"]) / f"{metadata['name']}.json", current)
        self._objects[current["kind"], metadata["name"]] = current
        self._notify(_model_of(current))

    def _delete_object(self, current: Manifest) -> None:
        kind, name = current["kind"], current["metadata"]["name"]
        (self._home.objects(kind) / f"{name}.json").unlink(missing_ok=True)
        self._objects.pop((kind, name), None)
        for pod in self._owned(current):
            self._delete_pod(pod)
        self._notify(_model_of(current))

    def _watch_models(self) -> None:
        """Notice what other processes (the command line) wrote."""
        seen: dict[str, tuple[int, int]] = {}
        for name in self._state.model_names():
            try:
                stat = (self._home.objects(KIND) / f"{name}.json").stat()
            except FileNotFoundError:
                continue
            seen[name] = (stat.st_mtime_ns, stat.st_ino)
        for name in seen.keys() | self._seen_models.keys():
            if seen.get(name) != self._seen_models.get(name):
                self._notify(ModelRef(NAMESPACE, name))
        self._seen_models = seen

    def _housekeeping(self) -> None:
        for pod in self._pods.values():
            self._runner.rotate_log(pod)
        self._runner.prune_logs({pod.name for pod in self._pods.values()}, LOGS_KEPT)

    def _notify(self, ref: ModelRef | None) -> None:
        if ref is not None:
            self._changed[ref] = None
            self._wake.set()


def _metadata(manifest: Manifest) -> dict[str, Any]:
    metadata = manifest["metadata"]
    kept = {key: metadata[key] for key in ("name", "labels", "annotations", "ownerReferences") if key in metadata}
    return {"namespace": metadata.get("namespace", NAMESPACE), **kept}


def _public(document: Manifest) -> Manifest:
    """An object without what only local mode knows."""
    return {key: value for key, value in document.items() if key != "local"}


def _model_of(document: Manifest) -> ModelRef | None:
    metadata = document["metadata"]
    name = (metadata.get("labels") or {}).get(labels.MODEL)
    return ModelRef(metadata.get("namespace", NAMESPACE), name) if name else None


def _tell(pod: Pod, before: Pod | None) -> None:
    """One line for a person, where something happened."""
    if before is None or (pod.pid is not None and before.pid is None):
        word = "pod created" if before is None else "process started"
        log.info(word, extra={"pod": pod.name} | ({"pid": pod.pid} if pod.pid else {}))
    elif pod.last is not None and pod.last != before.last:
        level = logging.INFO if pod.last.exit_code == 0 or pod.deleting else logging.WARNING
        log.log(
            level, "process ended", extra={"pod": pod.name, "exit_code": pod.last.exit_code, "reason": pod.last.reason}
        )
    elif pod.ready and not before.ready:
        log.info("pod ready", extra={"pod": pod.name})


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
