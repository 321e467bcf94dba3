"""O2 to O10 with the operator as a process: what it does when nothing happens, and when everything goes wrong around it.

Each scene has a namespace, an account and two proxies of its own, so that all of them play at the same time; each test below says what one of
them must have come to. Beside a scene stands the same one with its protection removed (`mutations.py`): there the claim must fail.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from continual_operator.kubernetes.patches import merge_patch
from control_plane import MODELS, ControlPlane
from operators import PATHS, OperatorProcess, chart_rights, digits, objects, operator_account, until
from proxy import ApiProxy, Call, Reply
from stories import Story

MUTATIONS = str(Path(__file__).with_name("mutations.py"))
IDLE_SECONDS, LONG_IDLE_SECONDS = 30.0, 120.0
LEASE_SECONDS = 9.0
STORM_SECONDS, STORM_MODELS = 20.0, 20
MOST_REQUESTS = 10.0
AT_ONCE = 6


class Scenes:
    """Everything that a scene needs; starts those that the selected tests ask for."""

    def __init__(self, plane: ControlPlane, redis: Any, folder: Path) -> None:
        self.plane, self.redis, self.folder = plane, redis, folder
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._playing: dict[str, Future[Any]] = {}

    def start(self, names: list[str]) -> None:
        for name in names:
            self._playing[name] = self._pool.submit(SCENES[name], self)

    def outcome(self, name: str) -> Any:
        return self._playing[name].result()

    def story(self, mutation: str = "", name: str = "digits", **environment: str) -> Story:
        command = (MUTATIONS, mutation) if mutation else ("-m", "continual_operator")
        return Story(self.plane, self.redis, self.folder, (), command, name, **environment)


Scene = Callable[[Scenes], Any]
SCENES: dict[str, Scene] = {}


def scene(play: Scene) -> Scene:
    """Register a scene under its name; a test asks for it by the fixture `outcome`."""
    SCENES[play.__name__] = play
    return play


@pytest.fixture(scope="module")
def scenes(
    nodes: ControlPlane, redis_of_module: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Scenes:
    made = Scenes(nodes, redis_of_module, tmp_path_factory.mktemp("faults"))
    wanted = [m for item in request.session.items if item.path == request.path for m in item.iter_markers("scene")]
    made.start(list(dict.fromkeys(mark.args[0] for mark in wanted)))
    return made


@pytest.fixture
def outcome(scenes: Scenes, request: pytest.FixtureRequest) -> Any:
    mark = request.node.get_closest_marker("scene")
    assert mark is not None
    return scenes.outcome(mark.args[0])


# O2: silence ----------------------------------------------------------------------------------------------------------------


@dataclass
class Silence:
    """What was written in a window in which nothing happened."""

    writes: list[str]
    versions: set[str]
    """Resource versions of the model, seen once a second."""
    difference: dict[str, Any] = field(default_factory=dict)
    """What the status became that it was not before."""


def _idle(story: Story, seconds: float) -> Silence:
    with story.on_stage():
        story.create()
        stop = threading.Event()
        evaluator = threading.Thread(target=_evaluate, args=(story, stop))
        evaluator.start()
        try:
            story.report()
            _until_silent(story)
            status, before, versions, end = story.status(), len(story.changes()), set[str](), time.monotonic() + seconds
            while time.monotonic() < end:
                versions.add(story.model()["metadata"]["resourceVersion"])
                time.sleep(1)
            writes = [f"{e['verb']} {e['objectRef']['resource']}" for e in story.changes()[before:]]
            return Silence(writes, versions, merge_patch(_by_type(status), _by_type(story.status())))
        finally:
            stop.set()
            evaluator.join()


def _by_type(status: dict[str, Any]) -> dict[str, Any]:
    return status | {"conditions": {c["type"]: c for c in status["conditions"]}}


def _evaluate(story: Story, stop: threading.Event) -> None:
    """An evaluator without labels: a report every two seconds, with the same numbers."""
    while not stop.wait(2):
        story.tell_report()


def _until_silent(story: Story) -> None:
    """An idle model is looked at every fifteen seconds: the last numbers of the start may be late."""

    def is_silent() -> bool:
        return time.monotonic() - story.gate.last_change > 17

    story.wait("it falls silent", is_silent)


@scene
def idle(scenes: Scenes) -> Silence:
    return _idle(scenes.story(), IDLE_SECONDS)


@scene
def idle_for_long(scenes: Scenes) -> Silence:
    return _idle(scenes.story(), LONG_IDLE_SECONDS)


@scene
def idle_with_a_clock_in_its_status(scenes: Scenes) -> Silence:
    story = scenes.story("telling_the_time")
    with story.on_stage():
        story.create()
        before = len(story.changes())
        time.sleep(15)
        return Silence([e["verb"] for e in story.changes()[before:]], set())


@pytest.mark.scene("idle")
def test_a_model_at_rest_is_not_written(outcome: Silence) -> None:
    """O2: half a minute of looks, a list and the same reports again and again: no write, one resource version."""
    assert outcome.writes == [], outcome.difference
    assert len(outcome.versions) == 1


@pytest.mark.long
@pytest.mark.scene("idle_for_long")
def test_a_model_at_rest_is_not_written_for_two_minutes(outcome: Silence) -> None:
    """O2, over two lists and eight looks."""
    assert outcome.writes == [], outcome.difference
    assert len(outcome.versions) == 1


@pytest.mark.long
@pytest.mark.scene("idle_with_a_clock_in_its_status")
def test_a_number_that_changes_by_itself_would_be_seen(outcome: Silence) -> None:
    """Mutation check: a status that holds the time is written again and again."""
    assert outcome.writes


# O3: one training -----------------------------------------------------------------------------------------------------------


@dataclass
class Jobs:
    """Names of all Jobs that were ever asked for, and how many there are at the end."""

    asked: set[str]
    left: int


@scene
def jobs_deleted(scenes: Scenes) -> Jobs:
    """The Job is deleted while its training runs, and again (as a TTL would) after the training has ended."""
    story = scenes.story()
    with story.on_stage():
        assert story.plane.apply(story.path, digits(story.name)).ok
        pod = story.wait("a training runs", story.trainer)
        _delete_jobs(story)
        story.wait("another pod runs", lambda: story.trainer() not in {"", pod})
        story.train()
        story.wait("v1 serves", lambda: story.condition("Ready") == "True")
        _delete_jobs(story)
        story.annotate("continual.dev/retrain-requested-at", "1")  # there is nothing to learn from: no training of it
        story.wait("the wish is answered", lambda: story.block("handled"), story.look)
        story.settle()
        return Jobs(_jobs_asked(story), len(objects(story.plane, "Job", story.namespace)))


def _jobs_asked(story: Story) -> set[str]:
    asked = [e["objectRef"] for e in story.changes() if e["verb"] == "create"]
    return {about["name"] for about in asked if about["resource"] == "jobs"}


def _delete_jobs(story: Story) -> None:
    path = PATHS["Job"].format(story.namespace)
    assert story.plane.request("DELETE", path, {"propagationPolicy": "Background"}).ok
    story.wait(
        "the Job is gone or another",
        lambda: all(
            not job["metadata"].get("deletionTimestamp") for job in objects(story.plane, "Job", story.namespace)
        ),
    )


@pytest.mark.scene("jobs_deleted")
def test_a_deleted_job_goes_on_as_itself_and_a_finished_one_never_comes_back(outcome: Jobs) -> None:
    """O3: taken away while it works, the same Job is made again; taken away afterwards, none."""
    assert len(outcome.asked) == 1
    assert outcome.left == 0


# O4: one actor --------------------------------------------------------------------------------------------------------------


@dataclass
class Takeover:
    """A leader whose connection to the API server was stopped, and its successor."""

    seconds: float
    """From the stop until the successor led."""
    first_ended: int | None
    """Its exit code; None while it lives."""
    first_acted_late: int
    """Changes that reached the API server from the first after the second led."""
    second_acted: bool


def _cut_off(scenes: Scenes, mutation: str, lease: float) -> Takeover:
    """Two operators, each behind a proxy; that of the leader becomes a black hole, and opens again when the other leads."""
    plane, namespace = scenes.plane, scenes.story().namespace
    command = (MUTATIONS, mutation) if mutation else ("-m", "continual_operator")
    with ApiProxy(plane) as before_first, ApiProxy(plane) as before_second:
        operators: list[OperatorProcess] = []
        try:
            for number, proxy in enumerate((before_first, before_second)):
                account = operator_account(plane, namespace, proxy=proxy.url)
                kept = account.rename(account.with_name(f"{account.name}-{number}"))
                operators.append(
                    OperatorProcess(
                        f"{namespace}-{number}", scenes.folder, kept, namespace, scenes.redis.url, command,
                        CONTINUAL_LEASE_SECONDS=str(lease),
                    )
                )  # fmt: skip
                if number == 0:
                    until("the first leads", operators[0].leads)
            first, second = operators
            until("the second waits", lambda: second.lines("waiting for the lease"))
            before_first.hold()
            held = time.monotonic()
            until("the second leads", second.leads, lease + 30)
            led = time.monotonic()
            before_first.release()
            plane.apply(f"{MODELS.format(namespace=namespace)}/digits", digits())
            until("the second works", lambda: any(c.changes for c in before_second.calls))
            time.sleep(2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                first.process.wait(5)
            late = sum(c.at >= led and c.changes for c in before_first.calls)
            acted = any(c.changes for c in before_second.calls)
            return Takeover(led - held, first.process.poll(), late, acted)
        finally:
            for operator in operators:
                operator.close()
            plane.request("DELETE", MODELS.format(namespace=namespace))


@scene
def leader_cut_off(scenes: Scenes) -> Takeover:
    return _cut_off(scenes, "", LEASE_SECONDS)


@scene
def leader_cut_off_with_the_default_lease(scenes: Scenes) -> Takeover:
    return _cut_off(scenes, "", 15.0)


@scene
def leader_that_ignores_its_deadline(scenes: Scenes) -> Takeover:
    return _cut_off(scenes, "leading_for_ever", LEASE_SECONDS)


def _is_clean(takeover: Takeover) -> bool:
    return takeover.first_ended == 1 and takeover.first_acted_late == 0 and takeover.second_acted


@pytest.mark.scene("leader_cut_off")
def test_a_leader_cut_off_from_the_api_server_ends_before_another_begins(outcome: Takeover) -> None:
    """O4: never two actors, although its way is open again; the successor leads soon after the Lease's nine seconds."""
    print(f"takeover after {outcome.seconds:.1f} s with a Lease of {LEASE_SECONDS:.0f} s")
    assert _is_clean(outcome)
    assert LEASE_SECONDS - 4 <= outcome.seconds <= 28


@pytest.mark.long
@pytest.mark.scene("leader_cut_off_with_the_default_lease")
def test_a_takeover_takes_less_than_half_a_minute(outcome: Takeover) -> None:
    """O4 with the Lease as it is installed."""
    print(f"takeover after {outcome.seconds:.1f} s with a Lease of 15 s")
    assert _is_clean(outcome)
    assert outcome.seconds <= 30


@pytest.mark.long
@pytest.mark.scene("leader_that_ignores_its_deadline")
def test_without_the_deadline_two_would_act(outcome: Takeover) -> None:
    """Mutation check: neither watchdog nor fence."""
    assert outcome.first_acted_late > 0
    assert not _is_clean(outcome)


# O5: stale and missed events ------------------------------------------------------------------------------------------------


def _deaf(story: Story) -> float:
    """Every watch goes on and tells nothing any more: seconds until a change is applied."""
    with story.on_stage():
        story.create()
        story.settle()
        story.api.drops = lambda _: True
        began = time.monotonic()
        assert story.plane.merge(f"{story.path}/scale", {"spec": {"replicas": 2}}).ok
        try:
            story.wait("it is applied", lambda: story.deployments()[f"{story.name}-v1"]["spec"]["replicas"] == 2)
        except AssertionError:
            return float("inf")
        return time.monotonic() - began


@scene
def deaf(scenes: Scenes) -> float:
    return _deaf(scenes.story())


@scene
def deaf_and_without_lists(scenes: Scenes) -> float:
    return _deaf(scenes.story("listing_once"))


@pytest.mark.long
@pytest.mark.scene("deaf")
def test_what_no_watch_tells_is_applied_within_a_minute(outcome: float) -> None:
    """O5: a frozen watch costs the time until the next list, and nothing else."""
    print(f"applied {outcome:.0f} s after the change")
    assert outcome <= 65


@pytest.mark.long
@pytest.mark.scene("deaf_and_without_lists")
def test_without_lists_it_would_never_be_applied(outcome: float) -> None:
    """Mutation check."""
    assert outcome == float("inf")


@dataclass
class Heir:
    """A child that an earlier resource of the same name left behind, and who followed."""

    touched: int
    """Changes to it by the operator."""
    owner_is_new: bool
    same_object: bool


def _heritage(story: Story) -> Heir:
    """The earlier child is held by a finalizer, so that garbage collection cannot be quick."""
    name = f"{story.name}-evaluator"
    path = f"{PATHS['Deployment'].format(story.namespace)}/{name}"
    owner = {
        "apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "name": story.name, "controller": True,
        "uid": "00000000-0000-4000-8000-000000000000",
    }  # fmt: skip
    marks = {"continual.dev/model": story.name, "continual.dev/component": "evaluator"}
    pod = {"metadata": {"labels": marks}, "spec": {"containers": [{"name": "evaluator", "image": "old"}]}}
    old = {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": marks, "ownerReferences": [owner], "finalizers": ["tests.continual.dev/hold"]},
        "spec": {"replicas": 1, "selector": {"matchLabels": marks}, "template": pod},
    }  # fmt: skip
    with story.on_stage():
        uid = story.plane.apply(path, old).body["metadata"]["uid"]
        assert story.plane.apply(story.path, digits(story.name)).ok
        story.wait("a training runs", story.trainer)
        story.settle()
        touched = len(_patched(story, name))
        assert story.plane.merge(path, {"metadata": {"finalizers": None}}).ok
        new = story.wait("there is one of its own", lambda: _owned(story, name), story.look)
        return Heir(touched, owner_is_new=True, same_object=new == uid)


def _patched(story: Story, name: str) -> list[Any]:
    return [
        e for e in story.changes() if e["objectRef"].get("name") == name and e["objectRef"]["resource"] == "deployments"
    ]


def _owned(story: Story, name: str) -> str:
    """Uid of the child, if the model owns it."""
    found, model = story.deployments().get(name, {}), story.model()["metadata"]["uid"]
    owners = found.get("metadata", {}).get("ownerReferences", ())
    return str(found["metadata"]["uid"]) if any(o["uid"] == model for o in owners) else ""


@scene
def heritage(scenes: Scenes) -> Heir:
    return _heritage(scenes.story())


@scene
def heritage_adopted(scenes: Scenes) -> Heir:
    return _heritage(scenes.story("adopting"))


@pytest.mark.scene("heritage")
def test_a_child_of_an_earlier_resource_of_that_name_is_waited_for_and_not_adopted(outcome: Heir) -> None:
    """O5: untouched as long as it is there; then there is another one."""
    assert outcome == Heir(touched=0, owner_is_new=True, same_object=False)


@pytest.mark.long
@pytest.mark.scene("heritage_adopted")
def test_without_a_look_at_the_owner_it_would_be_taken_over(outcome: Heir) -> None:
    """Mutation check."""
    assert outcome.touched > 0


# O6: storms -----------------------------------------------------------------------------------------------------------------


@dataclass
class Storm:
    """What an operator asked of an API server that refuses."""

    busiest: float
    """Requests per second, in the busiest ten seconds of the storm."""
    converged: bool


class Weather:
    """Refuses everything in turn with 429, 503, 500, 409 for changes and 410 for lists; watches that are open stay open."""

    def __init__(self, retry_after: int = 2) -> None:
        self.storms, self.retry_after, self._count = False, retry_after, 0

    def __call__(self, call: Call) -> Reply | None:
        if not self.storms or "/leases" in call.path:
            return None
        self._count += 1
        codes = [429, 503, 500, 410 if call.method == "GET" else 409]
        code = codes[self._count % len(codes)]
        headers = {"Retry-After": str(self.retry_after)} if code == 429 else {}
        said = {"kind": "Status", "status": "Failure", "code": code, "message": "a storm", "reason": "Storm"}
        return Reply(code, said, headers)


def _storm(story: Story) -> Storm:
    """Twenty models appear while the API server refuses everything."""
    with story.on_stage():
        assert story.plane.apply(story.path, digits(story.name)).ok
        story.wait("it works", lambda: objects(story.plane, "Job", story.namespace))
        weather = story.api.answer = Weather()
        story.settle()
        weather.storms, began = True, time.monotonic()
        models = MODELS.format(namespace=story.namespace)
        for number in range(STORM_MODELS):
            assert story.plane.apply(f"{models}/model-{number}", digits(f"model-{number}")).ok
        time.sleep(STORM_SECONDS)
        weather.storms = False
        busiest = max(story.api.rate(began + second, 10) for second in range(int(STORM_SECONDS) - 9))
        try:
            story.wait("all are trained", lambda: len(objects(story.plane, "Job", story.namespace)) > STORM_MODELS)
        except AssertionError:
            return Storm(busiest, converged=False)
        return Storm(busiest, converged=True)


@scene
def storm(scenes: Scenes) -> Storm:
    return _storm(scenes.story())


@scene
def storm_without_a_pace(scenes: Scenes) -> Storm:
    return _storm(scenes.story("rushing"))


@pytest.mark.scene("storm")
def test_an_api_server_in_trouble_is_asked_ten_times_a_second_at_most(outcome: Storm) -> None:
    """O6: 429, 5xx, 409 and 410 for twenty models at once; when it is over all of them are served."""
    print(f"busiest ten seconds of the storm: {outcome.busiest:.1f} requests/s")
    assert outcome.busiest <= MOST_REQUESTS
    assert outcome.converged


@pytest.mark.long
@pytest.mark.scene("storm_without_a_pace")
def test_without_a_pace_it_would_be_asked_more(outcome: Storm) -> None:
    """Mutation check: neither the common pace nor the pause between the looks at one model."""
    assert outcome.busiest > MOST_REQUESTS


# O7: deletion ---------------------------------------------------------------------------------------------------------------


def _deleted_while_all_is_down(scenes: Scenes, patience: float, mutation: str = "") -> tuple[float, float]:
    """Redis and the store are away when the model goes; returns how long deleting took (infinite: longer than `patience`), and sweeping once
    they are back."""
    lost = scenes.folder / f"lost{mutation}"
    story = scenes.story(mutation, CONTINUAL_STORE_URL=f"file://{lost}")
    story.use_store(lost)
    with story.on_stage():
        story.create()
        story.data.hold()
        away = lost.with_name(f"{lost.name}-and-found")
        lost.rename(away)
        lost.write_text("a file where the store belongs")
        began = time.monotonic()
        assert story.plane.request("DELETE", story.path).ok
        try:
            story.wait("the model and its children are gone", lambda: not _children(story), patience=patience)
            deleted = time.monotonic() - began
        except AssertionError:
            deleted = float("inf")
        assert story.left()
        lost.unlink()
        away.rename(lost)
        story.data.release()
        back = time.monotonic()
        story.wait("nothing is left", lambda: not story.left(), patience=120)
        return deleted, time.monotonic() - back


@scene
def deleted_while_all_is_down(scenes: Scenes) -> tuple[float, float]:
    return _deleted_while_all_is_down(scenes, 120)


@scene
def deleted_while_it_waits_for_redis(scenes: Scenes) -> tuple[float, float]:
    """Whether it is waited for long or not: as long as Redis is away, nothing goes."""
    return _deleted_while_all_is_down(scenes, 20, "tidying_up_before_leaving")


def _children(story: Story) -> list[Any]:
    return [
        o
        for kind in ("ContinualModel", "Deployment", "Job", "Pod")
        for o in objects(story.plane, kind, story.namespace)
    ]


@pytest.mark.scene("deleted_while_all_is_down")
def test_deleting_ends_while_redis_and_the_store_are_down_and_nothing_is_left_when_they_are_back(
    outcome: tuple[float, float],
) -> None:
    """O7: no finalizer waits for anybody, and what could not be swept is swept later."""
    print(f"deleted within {outcome[0]:.0f} s, swept {outcome[1]:.0f} s after Redis and the store came back")
    assert max(outcome) <= 120


@pytest.mark.long
@pytest.mark.scene("deleted_while_it_waits_for_redis")
def test_with_a_finalizer_deleting_would_wait_for_redis(outcome: tuple[float, float]) -> None:
    """Mutation check: it ends once Redis is back, and not before."""
    assert outcome[0] == float("inf")


@scene
def deleted_while_no_operator_ran(scenes: Scenes) -> float:
    """kill -9, delete, start: seconds until no key and no blob is left."""
    story = scenes.story()
    with story.on_stage():
        story.create()
        assert story.operator is not None
        story.operator.signal(signal.SIGKILL)
        story.operator.process.wait(20)
        assert story.plane.request("DELETE", story.path).ok
        until("deleting ends without an operator", lambda: not _children(story), 60)
        assert story.left()
        began = time.monotonic()
        story.wait("nothing is left", lambda: not story.left(), patience=120)
        return time.monotonic() - began


@pytest.mark.scene("deleted_while_no_operator_ran")
def test_what_was_deleted_while_no_operator_ran_is_swept_within_two_minutes(outcome: float) -> None:
    """O7: operator killed, resource deleted, operator started."""
    print(f"no key and no blob left {outcome:.0f} s after the start")
    assert outcome <= 120


@dataclass
class Refusal:
    """An operator for two namespaces, one of which refuses it."""

    kept: bool
    """What a deleted model left stays as long as nobody can say which models live."""
    swept: bool
    """Once the rights are there."""


@scene
def namespace_without_rights(scenes: Scenes) -> Refusal:
    """The model is served in the namespace that has the Role; then it is deleted, then the other namespace gets its Role."""
    story, other = scenes.story(), scenes.plane.new_namespace(f"closed-{secrets.token_hex(4)}")
    story.environment["CONTINUAL_WATCH_NAMESPACES"] = f"{other},{story.namespace}"
    with story.on_stage():
        story.create()
        assert story.plane.request("DELETE", story.path).ok
        assert story.operator is not None
        operator = story.operator
        story.wait("it was tried", lambda: any("403" in line["error"] for line in operator.lines("sweep failed")))
        kept = bool(story.left())
        for manifest in chart_rights(story.namespace, f"modelNamespaces={{{other}}}"):
            if manifest["metadata"].get("namespace") == other:
                path = f"{PATHS[manifest['kind']].format(other)}/{manifest['metadata']['name']}"
                assert story.plane.apply(path, manifest).ok
        story.wait("nothing is left", lambda: not story.left(), patience=120)
        return Refusal(kept, swept=True)


@pytest.mark.scene("namespace_without_rights")
def test_a_namespace_that_refuses_the_operator_stops_neither_the_others_nor_loses_anything(outcome: Refusal) -> None:
    """O7 and O9: a namespace that was deleted with its Role costs the others nothing; nothing is swept while it might be there."""
    assert outcome == Refusal(kept=True, swept=True)


# O8: the truth -------------------------------------------------------------------------------------------------------------


def _workers_dead(story: Story) -> tuple[float, str]:
    """All pods of the stable version stop being Ready: seconds until the resource says so (infinite: it has looked, and says something else),
    and its reason."""
    with story.on_stage():
        story.create()
        story.wait("it serves", lambda: story.condition("Serving") == "True")
        conditions = [{"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")]
        for pod in objects(story.plane, "Pod", story.namespace):
            path = f"{PATHS['Pod'].format(story.namespace)}/{pod['metadata']['name']}/status"
            assert story.plane.request(
                "PATCH", path, {"status": {"conditions": conditions}},
                content_type="application/strategic-merge-patch+json",
            ).ok  # fmt: skip
        began = time.monotonic()
        story.wait("it has looked", lambda: story.condition("Serving") == "False")
        seconds, ready = time.monotonic() - began, story.whole_condition("Ready")
        return seconds if ready["status"] == "False" else float("inf"), ready["reason"]


@scene
def workers_dead(scenes: Scenes) -> tuple[float, str]:
    return _workers_dead(scenes.story())


@scene
def workers_dead_and_ready_as_wished(scenes: Scenes) -> tuple[float, str]:
    return _workers_dead(scenes.story("ready_as_wished"))


@pytest.mark.scene("workers_dead")
def test_a_model_without_workers_says_so_within_half_a_minute(outcome: tuple[float, str]) -> None:
    """O8: `kubectl get ctm` does not show a model as Ready that answers nobody."""
    print(f"Ready=False {outcome[0]:.1f} s after the last worker")
    assert outcome[0] <= 30
    assert outcome[1] == "NoReadyPods"


@pytest.mark.long
@pytest.mark.scene("workers_dead_and_ready_as_wished")
def test_a_ready_that_only_repeats_the_spec_would_hide_it(outcome: tuple[float, str]) -> None:
    """Mutation check."""
    assert outcome == (float("inf"), "AsExpected")


# O9: one among many --------------------------------------------------------------------------------------------------------

MANY = 200


@scene
def one_among_many(scenes: Scenes) -> tuple[int, set[str], str]:
    """A model that cannot be imported, and one whose spec cannot be followed, among two hundred; returns how many others are Ready, which of
    them were written in half a minute afterwards, and what the bad ones say."""
    story = scenes.story()
    models = MODELS.format(namespace=story.namespace)
    key, digest = story.published()
    wrong = {"schedule": "0 3 * * *", "timeZone": "Europe/Nowhere"}
    with story.on_stage():
        for number in range(MANY):
            name = f"model-{number:03d}"
            checkpoint = {"objectKey": key, "digest": "sha256:" + "0" * 64 if number == 1 else digest}
            retraining = {"triggers": [wrong]} if number == 2 else {}
            spec = {"serving": {"replicas": 1}, "bootstrap": {"checkpoint": checkpoint}, "retraining": retraining}
            assert story.plane.apply(f"{models}/{name}", digits(name, **spec)).ok
        good = [f"model-{number:03d}" for number in range(MANY) if number not in {1, 2}]
        story.wait("the others are Ready", lambda: _ready(story) >= set(good), patience=400)
        story.wait("they are silent", lambda: time.monotonic() - story.gate.last_change > 12, patience=120)
        before = _versions(story)
        time.sleep(30)
        after = _versions(story)
        bad = " ".join(str(story.plane.get(f"{models}/model-00{n}").body["status"]["conditions"]) for n in (1, 2))
        return len(_ready(story) & set(good)), {name for name in good if before[name] != after[name]}, bad


def _versions(story: Story) -> dict[str, str]:
    return {
        m["metadata"]["name"]: m["metadata"]["resourceVersion"]
        for m in objects(story.plane, "ContinualModel", story.namespace)
    }


def _ready(story: Story) -> set[str]:
    return {
        m["metadata"]["name"]
        for m in objects(story.plane, "ContinualModel", story.namespace)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in m.get("status", {}).get("conditions", ()))
    }


@pytest.mark.long
@pytest.mark.scene("one_among_many")
def test_a_bad_resource_hurts_only_itself(outcome: tuple[int, set[str], str]) -> None:
    """O9: all others serve and are left in peace; the bad ones say what is wrong with them."""
    ready, written, bad = outcome
    assert (ready, written) == (MANY - 2, set())
    assert "Europe/Nowhere" in bad
    assert "digest" in bad


# O10: what becomes of bad pods ----------------------------------------------------------------------------------------------


@dataclass
class Fate:
    """What became of a second version."""

    reason: str
    stable: str
    stable_ready: int
    deployments: list[str]
    failures: int


def _second_version(scenes: Scenes, name: str, mutation: str = "") -> Fate:
    """v2's pods fare as the model's name says (`stages.yaml`)."""
    story = scenes.story(mutation, name)
    with story.on_stage():
        story.create()
        story.ask_for_training(1)
        story.wait(
            "v2 has an end", lambda: _version(story, "v2").get("phase") in {"Failed", "RolledBack"}, story.report
        )
        story.wait("its pods are gone", lambda: f"{name}-v2" not in story.deployments(), story.look)
        status = story.status()
        ready = story.deployments()[f"{name}-v1"]["status"].get("readyReplicas", 0)
        return Fate(
            _version(story, "v2")["reason"], status["stable"]["version"], ready, sorted(story.deployments()),
            status["retrained"]["failures"],
        )  # fmt: skip


def _version(story: Story, version: str) -> dict[str, Any]:
    return next((v for v in story.status().get("versions", ()) if v["version"] == version), {})


@scene
def never_ready(scenes: Scenes) -> Fate:
    return _second_version(scenes, "never-ready", "impatient")


@scene
def no_image(scenes: Scenes) -> Fate:
    return _second_version(scenes, "no-image", "impatient")


@scene
def out_of_memory(scenes: Scenes) -> Fate:
    return _second_version(scenes, "out-of-memory")


def _is_rolled_back(fate: Fate) -> bool:
    name = fate.deployments[0].removesuffix("-evaluator")
    kept = sorted([f"{name}-evaluator", f"{name}-v1"])
    return (fate.stable, fate.stable_ready, fate.deployments, fate.failures) == ("v1", 1, kept, 1)


@pytest.mark.scene("never_ready")
def test_a_version_that_never_becomes_ready_is_dropped(outcome: Fate) -> None:
    """O10: after its time (ten minutes, here eight seconds) it goes; v1 was never without its pods."""
    assert _is_rolled_back(outcome)
    assert outcome.reason == "CanaryNotReady"


@pytest.mark.long
@pytest.mark.scene("no_image")
def test_a_version_whose_image_cannot_be_pulled_is_dropped(outcome: Fate) -> None:
    """O10: with the reason that the kubelet names."""
    assert _is_rolled_back(outcome)
    assert outcome.reason in {"CanaryNotReady", "CanaryCrashed"}


@pytest.mark.scene("out_of_memory")
def test_a_version_that_is_killed_for_memory_is_dropped_at_once(outcome: Fate) -> None:
    """O10: three restarts are enough; nobody waits ten minutes."""
    assert _is_rolled_back(outcome)
    assert outcome.reason == "CanaryCrashed"


@dataclass
class Training:
    """How a training went on after its pod was taken away."""

    jobs: int
    failures: int
    version: str
    tries_left: list[int]
    """backoffLimit of every Job of it, in order."""


@scene
def evicted(scenes: Scenes) -> Training:
    """The training's pod is evicted through the Eviction API; another one takes its place."""
    story = scenes.story()
    with story.on_stage():
        assert story.plane.apply(story.path, digits(story.name)).ok
        pod = story.wait("a training runs", story.trainer)
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": story.namespace}}
        assert story.plane.request("POST", f"{PATHS['Pod'].format(story.namespace)}/{pod}/eviction", body).ok
        story.wait("another pod runs", lambda: story.trainer() not in {"", pod})
        story.train()
        story.wait("v1 serves", lambda: story.condition("Ready") == "True")
        return _training(story)


def _taken_by_its_node(story: Story) -> int:
    """A node under pressure ends the training's pod, as its kubelet tells it; returns how many failures are counted when another one runs."""
    with story.on_stage():
        assert story.plane.apply(story.path, digits(story.name)).ok
        pod = story.wait("a training runs", story.trainer)
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        ended = {"phase": "Failed", "reason": "Evicted", "conditions": [disrupted]}
        path = f"{PATHS['Pod'].format(story.namespace)}/{pod}/status"
        kind = "application/strategic-merge-patch+json"
        assert story.plane.request("PATCH", path, {"status": ended}, content_type=kind).ok
        story.wait("another pod runs", lambda: story.trainer() not in {"", pod})
        return int(_job(story)["status"].get("failed", 0))


@scene
def taken_by_its_node(scenes: Scenes) -> int:
    return _taken_by_its_node(scenes.story())


@scene
def taken_by_its_node_and_blamed(scenes: Scenes) -> int:
    return _taken_by_its_node(scenes.story("blaming_trainings_for_evictions"))


def _failed_and_deleted(story: Story) -> Training:
    """A pod of the training fails, then somebody deletes the Job: what was spent stays spent."""
    with story.on_stage():
        assert story.plane.apply(story.path, digits(story.name)).ok
        pod = story.wait("a training runs", story.trainer)
        failed = {"metadata": {"annotations": {"tests/exit": "1"}}}
        assert story.plane.merge(f"{PATHS['Pod'].format(story.namespace)}/{pod}", failed).ok
        story.wait("the failure is counted", lambda: _job(story).get("status", {}).get("failed") == 1)
        limits = [_job(story)["spec"]["backoffLimit"]]
        story.wait("it is known", lambda: story.block("training").get("jobFailures") == 1, story.look)
        uid = _job(story)["metadata"]["uid"]
        pods = {p["metadata"]["name"] for p in objects(story.plane, "Pod", story.namespace)}
        _delete_jobs(story)
        story.wait("it is created again", lambda: _job(story).get("metadata", {}).get("uid") not in {None, uid})
        limits.append(_job(story)["spec"]["backoffLimit"])
        story.wait("another pod runs", lambda: story.trainer() not in {"", *pods})
        story.train()
        story.wait("v1 serves", lambda: story.condition("Ready") == "True")
        ended = _training(story)
        ended.tries_left = limits
        return ended


@scene
def failed_and_deleted(scenes: Scenes) -> Training:
    return _failed_and_deleted(scenes.story())


@scene
def failed_deleted_and_forgotten(scenes: Scenes) -> Training:
    return _failed_and_deleted(scenes.story("forgetting_tries"))


def _job(story: Story) -> dict[str, Any]:
    return next(iter(objects(story.plane, "Job", story.namespace)), {})


def _training(story: Story) -> Training:
    status = story.status()
    return Training(len(_jobs_asked(story)), status["retrained"]["failures"], status["stable"]["version"], [])


@pytest.mark.scene("evicted")
def test_an_evicted_training_goes_on_and_counts_as_no_failure(outcome: Training) -> None:
    """O10: a node that is drained is nobody's fault."""
    assert (outcome.jobs, outcome.failures, outcome.version) == (1, 0, "v1")


@pytest.mark.long
@pytest.mark.scene("taken_by_its_node")
def test_a_training_that_its_node_takes_away_keeps_its_tries(outcome: int) -> None:
    """O10: whatever the reason of an eviction, another pod runs and nothing is counted."""
    assert outcome == 0


@pytest.mark.long
@pytest.mark.scene("taken_by_its_node_and_blamed")
def test_without_a_policy_an_eviction_would_use_up_a_try(outcome: int) -> None:
    """Mutation check."""
    assert outcome == 1


@pytest.mark.scene("failed_and_deleted")
def test_deleting_a_job_buys_its_training_no_new_tries(outcome: Training) -> None:
    """O10: the failure budget survives its child; deleting it was a try, too."""
    assert outcome.tries_left == [2, 0]
    assert outcome.version == "v1"


@pytest.mark.long
@pytest.mark.scene("failed_deleted_and_forgotten")
def test_a_budget_of_living_children_only_would_be_filled_up_by_deleting(outcome: Training) -> None:
    """Mutation check."""
    assert outcome.tries_left == [2, 2]
