"""One run of one scenario through the real `continual local`: Redis, workers, evaluator, training Jobs and gate, in a home of its own.

The director does what the world and its people do: it shows images, says late what they were, and now and then types a verb. It looks
at the status and the report as `continual get` does, and steers nothing by them but the moments a scenario names.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from continual_cli.demo.installation import MODEL, Installation
from continual_cli.demo.ledger import Books
from continual_cli.demo.tracker import Tracker
from continual_cli.local.paths import NAMESPACE
from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_contract.artifacts import StoreLayout
from continual_contract.report import DriftState
from continual_workers.training.state import decode_checkpoint

from benchmarks.closedloop.recording import Decision, Mark, Recording, Serving, Turn, save
from benchmarks.closedloop.traffic import Traffic
from benchmarks.closedloop.world import World, bootstrap_set

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 120.0
QUIET_SECONDS = 10.0
CLOSING_SECONDS = 30.0
"""How long a rollout that is under way when the script ends may still take; the stream goes on meanwhile."""
SPEC = """
model:
  architecture: mlp
  input: {height: 28, width: 28, channels: 1}
  classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
bootstrap: {dataset: {objectKey: demo/bootstrap.npz, format: npz}}
serving: {replicas: 1}
feedback: {window: 6s, auditPercent: 100}
retraining:
  augmentation: {shiftPixels: 1.4, rotateDegrees: 5, scalePercent: 5}
  triggers: [{drift: {falseAlarmEvery: 10000}}, {labels: 1000}]
  cooldown: 3s
  timeout: 3m
rollout:
  steps: [{weight: 0, hold: 3s}, {weight: 10, hold: 3s}, {weight: 50, hold: 3s}]
  gate: {margin: 0.03, minLabels: 100, minDuration: 6s}
  deadline: 60s
  probation: {minDuration: 5s, minLabels: 100, deadline: 30s}
retention: {requests: {maxAge: 10m}}
"""
"""The model's settings: the same in all scenarios but where one is about a setting. Times suit 30 labels a second, else the defaults."""
MARGIN = 0.03


class DirectorError(Exception):
    """The loop did not get to where a scenario begins."""


class Director:
    """One home, one stream, one scenario."""

    def __init__(self, scenario: str, seed: int, log: Path, without: tuple[int, ...] = ()) -> None:
        self.scenario, self.seed, self.without = scenario, seed, without
        self.cluster = Installation(Path(tempfile.mkdtemp(prefix="continual-loop-")), log)
        self.books = Books()
        self.traffic = Traffic(self.cluster.connect, self.cluster.keys, self.books, seed)
        self.tracker = Tracker(
            self.cluster.connect, self.cluster.keys, self.cluster.status, self.books, self.traffic.seconds,
            lambda: len(self.traffic.labels), lambda: scenario,
        )  # fmt: skip
        self.turns: list[Turn] = []
        self.marks: list[Mark] = []
        self._alarmed: dict[str, tuple[int, float]] = {}
        self._flagged = False
        self._wall = time.monotonic()
        self._epoch = 0.0

    # -- what a scenario says

    def show(self, world: World | None = None, **changes: object) -> None:
        """Change what is streamed; a new world is also the new truth."""
        if world is not None:
            changes["world"] = world
            self.turns.append(Turn(self.traffic.seconds(), world))
        self.traffic.play(**changes)

    def onset(self, text: str) -> None:
        """From here on the scenario counts."""
        newest = self.traffic.written.items[-1].request_id
        self.marks.append(Mark(self.traffic.seconds(), "onset", text, newest))

    def note(self, text: str) -> None:
        self.marks.append(Mark(self.traffic.seconds(), "note", text))

    def hold(self, seconds: float) -> None:
        """Let the stream run."""
        end = self.traffic.seconds() + seconds
        self._poll(lambda: self.traffic.seconds() >= end, seconds + 5)

    def until(self, what: str, reached: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
        """Wait for a moment; one that does not come is noted."""
        came = self._poll(reached, seconds)
        if not came:
            self.note(f"{what}: not within {seconds:.0f} s")
        return came

    def block(self, name: str) -> dict[str, Any]:
        """`canary`, `stable`, `training` … of the status; empty when there is none."""
        return dict(self.tracker.seen.status.get(name) or {})

    def judging(self) -> bool:
        return self.block("canary").get("stage") == "Judging"

    def settled(self) -> bool:
        training = self.block("training").get("state") in {"Pending", "Running", "Importing"}
        return not training and not any(self.block(name) for name in ("canary", "probation", "waiting"))

    # -- the frame around it

    def run(self, play: Callable[[Director], None], change: Callable[[dict[str, Any]], None] | None) -> None:
        """Bootstrap, play, and let what is under way end.

        Raises:
            DirectorError: v1 never served, or `local up` ended by itself.
        """
        self._bootstrap(change)
        self.traffic.begin()
        self._epoch = time.time()
        self.show(World())
        play(self)
        self._poll(self.settled, CLOSING_SECONDS)
        self.traffic.finish()
        self._poll(lambda: not self.books.unanswered(), 20)

    def stop(self) -> None:
        self.traffic.stop()
        self.tracker.stop()
        self.cluster.stop()
        shutil.rmtree(self.cluster.home.root, ignore_errors=True)

    def _bootstrap(self, change: Callable[[dict[str, Any]], None] | None) -> None:
        spec = yaml.safe_load(SPEC)
        if change is not None:
            change(spec)
        manifest = {
            "apiVersion": "continual.dev/v1alpha1", "kind": "ContinualModel", "metadata": {"name": MODEL}, "spec": spec,
        }  # fmt: skip
        images, labels = bootstrap_set(self.seed, self.without)
        data = io.BytesIO()
        np.savez(data, image=images, label=labels)
        self.cluster.prepare(manifest, data.getvalue())
        self.cluster.start()
        if not self._poll(self.cluster.home.endpoints.exists, 60):
            raise DirectorError("the local cluster does not start")
        self.tracker.start()
        if not self._poll(lambda: self._weights() == {"v1": 100.0}, PATIENCE_SECONDS):
            raise DirectorError(f"v1 does not serve: {self.tracker.seen.status.get('decisions')}")

    def _poll(self, reached: Callable[[], object], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not reached():
            if not self.cluster.running():
                raise DirectorError(f"`continual local up` ended:\n{self.cluster.log_tail()}")
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
            self._look()
        return True

    def _weights(self) -> dict[str, float]:
        samples = self.tracker.seen.samples
        return {now.version: now.weight for now in samples[-1].versions if now.weight} if samples else {}

    def _look(self) -> None:
        """Note a new alarm of the detector, or a flag of the label-free signals."""
        report = self.tracker.seen.report
        drift, signals = (report.drift, report.signals) if report else (None, None)
        if drift is not None:
            self._look_at(drift)
        flagged = signals is not None and signals.flagged
        if flagged and not self._flagged:
            self.marks.append(Mark(self.traffic.seconds(), "flag", "label-free signals"))
        self._flagged = flagged

    def _look_at(self, drift: DriftState) -> None:
        """One mark for a burst of alarms: until somebody answers, the detector raises another every few labels."""
        now = self.traffic.seconds()
        count, second = self._alarmed.get(drift.version, (0, -QUIET_SECONDS))
        if drift.alarms > count:
            if now - second >= QUIET_SECONDS:
                self.marks.append(Mark(now, "alarm", f"alarm of {drift.version}", drift.last_alarm_request or ""))
            self._alarmed[drift.version] = (drift.alarms, now)

    # -- what is kept

    def keep(self, folder: Path, code: str) -> None:
        """Write the recording, and every version's file, into `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        decisions = self.cluster.decisions()
        versions = {d["version"]: d["digest"] for d in decisions if d["action"] == "Accept"}
        registry = Registry(open_store(f"file://{self.cluster.home.store}"), StoreLayout(NAMESPACE, MODEL))
        digests = {r["version"]: r["digest"] for r in self.tracker.seen.status.get("versions") or []}
        for version in versions:
            manifest = registry.manifest(digests[version])
            (folder / f"{version}.onnx").write_bytes(registry.get_blob(manifest.onnx))
            if version == "v1" and manifest.state and manifest.state_meta and manifest.normalization:
                meta = registry.get_blob(manifest.state_meta)
                state = decode_checkpoint(registry.get_blob(manifest.state), meta, None)
                scale = {
                    "norm.mean": np.array(manifest.normalization.mean),
                    "norm.std": np.array(manifest.normalization.std),
                }
                np.savez(folder / "v1.npz", **state.weights, **scale)  # type: ignore[arg-type]  # numpy's own flag comes before the arrays
        recording = Recording(
            self.scenario, self.seed, code, tuple(self.turns), tuple(self.marks), tuple(self._served()),
            tuple(self._decision(d) for d in decisions), tuple(versions), self._answers(),
            len(self.books.unanswered()), round(time.monotonic() - self._wall, 1),
        )  # fmt: skip
        save(recording, self.traffic.written, folder)

    def _served(self) -> list[Serving]:
        samples = [s for s in self.tracker.seen.samples if s.second >= 0 and s.second <= self.traffic.seconds()]
        begun = next(place for place, s in enumerate(samples) if s.requests)
        return [Serving(s.second, {v.version: v.weight for v in s.versions if v.weight}) for s in samples[begun:]]

    def _decision(self, raw: dict[str, Any]) -> Decision:
        second = datetime.fromisoformat(raw["time"]).timestamp() - self._epoch
        return Decision(
            round(second, 2), raw["action"], raw["reason"], raw["message"], raw.get("version", ""),
            raw.get("baseline", ""), raw.get("trigger", ""), raw.get("acted", True),
        )  # fmt: skip

    def _answers(self) -> dict[str, tuple[str, str]]:
        return {name: (a.version, a.class_name) for name, a in self.books.answers.copy().items()}
