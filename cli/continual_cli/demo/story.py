"""The story: its phases are the table of contents, each waits for what it claims, with a deadline and a clear end.

Nothing here steers the system but what a person would do: send images, label them late, run CLI verbs, edit the resource, pull plugs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from continual_contract.ids import ZERO_ID, id_key
from continual_contract.routing import is_held_out, separation_unit

from continual_cli.demo import world
from continual_cli.demo.feeder import Feeder, Labeler, Scene
from continual_cli.demo.installation import BOOTSTRAP_KEY, Installation
from continual_cli.demo.ledger import Answered, Books, score_only
from continual_cli.demo.tracker import Tracker

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 240.0
"""For one step of the story on a busy machine; on an idle one none takes a tenth of it."""
EXAMPLE = Path(__file__).parents[3] / "examples" / "digits-fast.yaml"
CALM_LABELLED_RATE = 15.0
"""Labels cost: in the calm enough for the detector's baseline, and hardly more to retrain on."""
IDLE_LABELLED_RATE = 5.0
"""While a Job runs, so that little piles up for the next one."""
DRIFT_LABELLED_RATE = 170.0
"""Until the Job starts: what it learns the new world from comes in these seconds."""
DRIFT_SAMPLES = 500
"""Samples of the new world the Job waits for: with a hundred it ended six points below the calm once, with these within two."""
LABELLED_RATE = 45.0
SCORE_ONLY_RATE = 80.0
SCORED = 2000
"""Score-only requests behind every accuracy figure."""
HOLDOUT_PERCENT = 10.0
"""As in the example's manifest."""
JUDGES = ("gate", "probation", "bad")
WRONG_LABELS = 800
WRONG_RATE = 120.0
NIGHT_SHIFT = Labeler("night-shift", "truth", off_by=3)


class StoryError(Exception):
    """A phase did not reach what it waits for."""


@dataclass(slots=True)
class Marks:
    """Moments the summary is counted between: seconds since the start, and request ids."""

    streaming: float = 0.0
    drift: float = 0.0
    drift_id: str = ZERO_ID
    alarm_id: str = ZERO_ID
    canary: float = 0.0
    promoted: float = 0.0
    recovered_until: float = 0.0
    bad_version: str = ""
    good_version: str = ""
    correction: dict[str, Any] = field(default_factory=dict)
    shadow_kill: float = 0.0


class Story:
    """One run. `phase` is what the view shows."""

    def __init__(self, installation: Installation, seed: int, scored: int = SCORED) -> None:
        self.cluster = installation
        self.digits = world.load_digits()
        self.cast = world.deal(len(self.digits.labels), seed)
        self.seed, self.scored = seed, scored
        self.books, self.marks, self.phase = Books(), Marks(), "starting"
        connect = installation.connect
        self.feeder = Feeder(connect, installation.keys, self.digits, self.cast, self.books, seed)
        self.tracker = Tracker(
            connect, installation.keys, installation.status, self.books, self.feeder.seconds,
            lambda: len(self.feeder.labels), lambda: self.phase,
        )  # fmt: skip
        self.failure = ""

    # -- table of contents

    def run(self) -> None:
        """All phases in order. Raises StoryError at the first that does not come true."""
        with self._chapter("training v1"):
            self.bootstrap()
        with self._chapter("calm"):
            self.calm()
        with self._chapter("the world drifts"):
            self.drift()
        with self._chapter("retraining"):
            self.retrain()
        with self._chapter("rollout"):
            self.rollout()
        with self._chapter("probation"):
            self.probation()
        with self._chapter("a bad candidate"):
            self.bad_candidate()
        with self._chapter("a correction"):
            self.correct()
        with self._chapter("closing the books"):
            self.close()

    def bootstrap(self) -> None:
        """`continual local up` with the example; v1 is trained from 600 digits and routed."""
        if not EXAMPLE.exists():
            raise StoryError(f"{EXAMPLE} is not there: the demo runs from a clone of the repository")
        manifest = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        self.cluster.prepare(adapt(manifest), world.bootstrap_npz(self.digits, self.cast, self.seed))
        self.cluster.start()
        self.wait("endpoints of the local cluster", self._endpoints_there)
        self.tracker.start()
        self.wait("v1 to be stable and ready", lambda: self._stable() == "v1" and self._owners() == ["v1"])
        self.tell("decision", "v1 is trained, gated and serves")

    def calm(self) -> None:
        """Requests and late labels; one worker is killed with -9 on the way."""
        self.feeder.scene = Scene(labelled_rate=CALM_LABELLED_RATE, score_only_rate=SCORE_ONLY_RATE)
        self.feeder.start()
        self.marks.streaming = self.feeder.seconds()
        self.wait("a third of the calm requests", lambda: self._scored(0, self.feeder.seconds()) > self.scored / 3)
        self.cluster.kill_worker("v1")
        self.tell("fault", "a worker is killed with -9")
        self.wait("the calm accuracy window", lambda: self._scored(0, self.feeder.seconds()) >= self.scored)
        self.wait("the drift detector to be armed", lambda: self._drift("armed"))

    def drift(self) -> None:
        """Light and tilt change; the detector notices from labels alone."""
        before = self._newest_shard()
        self.wait("a shard to close", lambda: self._newest_shard() > before)
        self.marks.drift, self.marks.drift_id = self.feeder.seconds(), self._newest_request()
        self.feeder.show(weather=world.DRIFTED, pools=("calm", "learn"), labelled_rate=DRIFT_LABELLED_RATE)
        self.tell(
            "world", f"the world drifts: contrast {world.DRIFTED.contrast}, tilt {world.DRIFTED.tilt_degrees:.0f}°"
        )
        self.wait("the drift alarm", lambda: self._drift("alarms"))
        drift = self.report().drift
        self.marks.alarm_id = (drift.last_alarm_request if drift else None) or self._newest_request()
        self.tell("alarm", "drift detected")

    def retrain(self) -> None:
        """The operator starts a Job by itself; its candidate goes into the shadow."""
        self.wait("a training by trigger Drift", lambda: self._training("trigger") == "Drift")
        self.tell("training", "a Job retrains, trigger Drift")
        self.feeder.show(labelled_rate=IDLE_LABELLED_RATE)
        self.wait("a candidate in the shadow", lambda: bool(self._block("canary")))
        self.marks.good_version = self._block("canary")["version"]

    def rollout(self) -> None:
        """Shadow, 10 %, 50 %, promoted; the operator is killed with -9 in the shadow and started again."""
        self.wait("the candidate to be judged", self._judging)
        self.feeder.show(pools=("gate",), labelled_rate=LABELLED_RATE, same_frames=True)
        self.tell("decision", f"{self.marks.good_version} answers in the shadow")
        time.sleep(2.0)
        self.cluster.kill_operator()
        self.tell("fault", "the operator is killed with -9")
        time.sleep(3.0)
        self.cluster.start()
        for weight in (10, 50):
            self.wait(f"{weight} % for the canary", lambda w=weight: self._weight(self.marks.good_version) >= w)  # type: ignore[misc]  # the default binds the loop's value
            self.marks.canary = self.marks.canary or self.feeder.seconds()
            self.tell("decision", f"{self.marks.good_version} owns {weight} %")
        self.wait("the promotion", lambda: self._weight(self.marks.good_version) >= 100)
        self.marks.promoted = self.feeder.seconds()
        self.tell("decision", f"{self.marks.good_version} is promoted")

    def probation(self) -> None:
        """The old version stays warm and shadow-scores until the new one has proved itself."""
        self.feeder.show(pools=("gate", "probation"))
        self.wait("the end of probation", lambda: self._owners() == [self.marks.good_version] and self._settled())
        self.tell("decision", f"{self.marks.good_version} passed its probation")

    def bad_candidate(self) -> None:
        """Wrong labels are imported and learned without replay, the offline gate only observes: the live gate has to catch it."""
        self.cluster.patch(make_careless)
        self.feeder.show(pools=("calm", "learn"), labeler=NIGHT_SHIFT, labelled_rate=WRONG_RATE, same_frames=False)
        self.tell("world", "a night shift imports wrong labels; replay is off, the offline gate only observes")
        self.wait("the wrong labels", lambda: self._labels_by(NIGHT_SHIFT.name) >= WRONG_LABELS)
        before = self._newest_shard()
        self.wait("a shard of them", lambda: self._newest_shard() > before)
        versions = {record["version"] for record in self._versions()}
        self.cluster.verb("retrain")
        self.wait("the manual training", lambda: self._training("trigger") == "Manual")
        self.feeder.show(labeler=Labeler(), labelled_rate=IDLE_LABELLED_RATE)
        self.tell("training", "a Job retrains on them, trigger Manual")
        self.wait("the bad candidate in the shadow", self._judging)
        self.feeder.show(pools=JUDGES, labelled_rate=LABELLED_RATE, same_frames=True)
        self.marks.bad_version = self._block("canary")["version"]
        if self.marks.bad_version in versions:
            raise StoryError(f"{self.marks.bad_version} is no new version")
        self.tell("decision", f"{self.marks.bad_version} answers in the shadow")
        self.wait("the rollback", lambda: self._phase_of(self.marks.bad_version) == "RolledBack")
        self.tell("decision", f"{self.marks.bad_version} is rolled back")
        self.marks.recovered_until = self.feeder.seconds()
        self.cluster.patch(make_careful)

    def correct(self) -> None:
        """One image that was answered wrongly is corrected; the new checkpoint answers it rightly."""
        from continual_cli.demo.correction import correct_one

        stable = self._stable()
        self.feeder.show(pools=("gate",), key_suffix="/correction", same_frames=False)
        self.wait("a mistaken image", lambda: self._mistaken() is not None)
        mistaken = self._mistaken()
        assert mistaken is not None
        self.tell("correction", f"one image is corrected: {mistaken.class_name} was wrong")
        self.marks.correction = correct_one(
            self.cluster, self.feeder.pixels[mistaken.request_id], self._truth(mistaken.request_id)
        )
        self.tell("correction", f"checked again: fixed {str(self.marks.correction.get('fixed')).lower()}")
        self.wait("the corrected version to serve", lambda: self._stable() != stable or self._owners() != [stable])
        self.feeder.show(pools=JUDGES, same_frames=True)
        self.wait("the end of its probation", self._settled)
        self.tell("decision", f"{self._stable()} passed its probation")

    def close(self) -> None:
        """Stop sending and wait until every accepted request is answered."""
        self.feeder.finish()
        self.wait("every request to be answered", lambda: not self.books.unanswered())
        time.sleep(1.0)

    # -- helpers

    @contextmanager
    def _chapter(self, phase: str) -> Iterator[None]:
        self.phase = phase
        yield

    def _gave_up(self) -> str:
        """What makes further waiting pointless: a training that failed, a candidate that was rejected."""
        failed = self._block("training") if self._training("state") == "Failed" else {}
        rejected = next((record for record in self._versions() if record["phase"] == "Rejected"), {})
        last = (self.tracker.seen.status.get("decisions") or [{}])[-1]
        refused = last if last.get("action") == "Reject" else {}
        return " ".join(str(part.get("message") or part.get("reason")) for part in (failed, rejected, refused) if part)

    def wait(self, what: str, reached: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Poll until it is so.

        Raises:
            StoryError: it is not so after `seconds`, or `local up` has ended by itself.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if not self.cluster.running():
                raise StoryError(f"`continual local up` ended while waiting for {what}:\n{self.cluster.log_tail()}")
            if self._gave_up():
                raise StoryError(f"{self._gave_up()}, while waiting for {what}")
            if time.monotonic() > deadline:
                raise StoryError(f"waited {seconds:.0f} s for {what}, in vain; {self._condition()}")
            time.sleep(POLL_SECONDS)

    def tell(self, kind: str, text: str) -> None:
        self.tracker.tell(kind, text)

    def report(self) -> Any:
        return self.tracker.seen.report

    def _condition(self) -> str:
        status = self.tracker.seen.status
        blocks = {name: status.get(name) for name in ("stable", "canary", "probation", "waiting")}
        training = {k: v for k, v in (status.get("training") or {}).items() if k != "inputs"}
        said = [f"{d['action']} {d['reason']} {d.get('message', '')}" for d in (status.get("decisions") or [])[-4:]]
        return f"status {blocks}, training {training}, last decisions {said}"

    def _endpoints_there(self) -> bool:
        return self.cluster.home.endpoints.exists()

    def _block(self, name: str) -> dict[str, Any]:
        return dict(self.tracker.seen.status.get(name) or {})

    def _versions(self) -> list[dict[str, Any]]:
        return list(self.tracker.seen.status.get("versions") or [])

    def _stable(self) -> str:
        return str(self._block("stable").get("version", ""))

    def _judging(self) -> bool:
        return self._block("canary").get("stage") == "Judging"

    def _settled(self) -> bool:
        return not any(self._block(name) for name in ("canary", "probation", "waiting"))

    def _training(self, name: str) -> Any:
        return self._block("training").get(name)

    def _phase_of(self, version: str) -> str:
        return next((str(record["phase"]) for record in self._versions() if record["version"] == version), "")

    def _weights(self) -> dict[str, float]:
        samples = self.tracker.seen.samples
        return {now.version: now.weight for now in samples[-1].versions} if samples else {}

    def _weight(self, version: str) -> float:
        return self._weights().get(version, 0.0)

    def _owners(self) -> list[str]:
        return [version for version, weight in self._weights().items() if weight > 0]

    def _drift(self, name: str) -> Any:
        return getattr(self.report().drift, name) if self.report() and self.report().drift else None

    def _newest_shard(self) -> int:
        shards = self.report().shards if self.report() else ()
        return max((shard.sequence for shard in shards if shard.kind == "train"), default=0)

    def _labels_by(self, labeler: str) -> int:
        return sum(label.labeler == labeler for label in self.feeder.labels.copy())

    def _newest_request(self) -> str:
        return max(self.books.sent.copy(), key=id_key)

    def _scored(self, start: float, end: float) -> int:
        return score_only(self.books, start, end).requests

    def _truth(self, request_id: str) -> str:
        return self.books.sent[request_id].true_class

    def _mistaken(self) -> Answered | None:
        """The newest labelled image that the stable version got wrong; not one of the holdout, which never trains."""
        for request_id, pixels in reversed(self.feeder.pixels.copy().items()):
            answer = self.books.answers.get(request_id)
            if answer is None or answer.version != self._stable() or held_out(self.books.sent[request_id].key, pixels):
                continue
            if answer.class_name != self._truth(request_id):
                return answer
        return None


def held_out(key: bytes, pixels: bytes) -> bool:
    """Whether an image belongs to the holdout by the key it was streamed under, or will by its pixels when it is corrected."""
    return any(is_held_out(separation_unit(k, pixels), HOLDOUT_PERCENT) for k in (key, b""))


def make_careless(spec: dict[str, Any]) -> None:
    """What somebody in a hurry does: no replay, and an offline gate that is not in the way."""
    spec["rollout"]["offlineGate"] = {"mode": "Observe"}
    spec["retraining"]["strategy"] = "fine-tune"


def make_careful(spec: dict[str, Any]) -> None:
    del spec["rollout"]["offlineGate"], spec["retraining"]["strategy"]


def adapt(manifest: dict[str, Any]) -> dict[str, Any]:
    """The example for this story: v1 from 600 digits only; labels of a third of the keys never come; only `audit` labels judge."""
    spec = manifest["spec"]
    spec["retraining"]["triggers"][0]["drift"]["minSamples"] = DRIFT_SAMPLES
    spec["bootstrap"] = {"dataset": {"objectKey": BOOTSTRAP_KEY, "format": "npz"}}
    spec["rollout"]["gate"]["minCoverage"] = 30.0
    spec["feedback"]["gateSources"] = ["audit"]
    return manifest
