"""Rows that are not about streams: one correction, drift with and without labels, the gate, and resuming.

Each calls the part of the product it measures: the instant correction and the operator's offline gate, the evaluator's
e-detector and label-free tests, `continual simulate gate`, the trainer's resume state.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from continual_contract.artifacts import Normalization
from continual_operator.judges import OfflineFacts, offline_gate
from continual_operator.spec import OfflineGate
from continual_workers.evaluation.signals import REFERENCE, WINDOW, Prediction, compare
from continual_workers.evaluation.simulate import simulate_gate
from continual_workers.evaluation.statistics import EDetector
from continual_workers.training.buffer import ReplayBuffer
from continual_workers.training.correction import correct
from continual_workers.training.experience import Past, first_task, following_task
from continual_workers.training.learner import LearnState, Task, learn, predict_logits, set_up_torch
from continual_workers.training.models import load_arrays
from continual_workers.training.runtime import softmax
from continual_workers.training.samples import Images, Samples
from continual_workers.training.scoring import score
from continual_workers.training.state import decode_resume, encode_resume
from continual_workers.training.stats import batches_of, normalization_of

from benchmarks.learning.lifelong import CPU, Result, Version, bootstrap, network, predictions, recipe, together
from benchmarks.learning.worlds import World, contrast, noisy, parts, shifted, stratified, turned


def correction(world: World, seed: int, *, images: int = 20, capacity: int = 200) -> Result:
    """Misclassified test images, turned by 15-30° and shifted by at most a pixel, each corrected alone from the same parent."""
    set_up_torch(1)
    train, test = parts(world)
    parent = bootstrap(world, recipe(world, seed * 100, {}), train, capacity)
    holdout, clean = stratified(test, 0.5, seed)
    mistakes = _mistakes(world, parent, clean, seed, images)
    changes, fixed, passed = [], [], []
    for number in range(len(mistakes)):
        one = mistakes.take([number])
        net = network(world, seed, parent.weights)
        made = correct(
            net, network(world, seed, parent.weights), one, parent.buffer, parent.normalization, seed + number, CPU
        )
        after = predictions(world, made.weights, parent.normalization, one.images)
        fixed.append(bool((after == one.labels).all()))
        before, now = (
            predictions(world, weights, parent.normalization, clean.images)
            for weights in (parent.weights, made.weights)
        )
        changes.append(100 * float((now == clean.labels).mean() - (before == clean.labels).mean()))
        passed.append(_passes(world, parent, made.weights, holdout))
    return {"fixed": float(np.mean(fixed)), "changes": changes, "passed": passed, "corrections": len(mistakes)}


def _mistakes(world: World, parent: Version, clean: Samples, seed: int, wanted: int) -> Samples:
    rng = np.random.default_rng([seed, 4])
    angles = rng.choice([-1, 1], len(clean)) * rng.uniform(15, 30, len(clean))
    images = turned(clean.images, angles)
    moves = rng.integers(-1, 2, (len(clean), 2))
    images = np.concatenate([shifted(images[i : i + 1], int(d), int(r)) for i, (d, r) in enumerate(moves)])
    wrong = np.flatnonzero(predictions(world, parent.weights, parent.normalization, images) != clean.labels)
    chosen = np.sort(rng.permutation(wrong)[:wanted])
    return replace(clean, images=images).take(chosen)


def _passes(world: World, parent: Version, weights: Any, holdout: Samples) -> bool:
    """The operator's own offline gate with its default limits, on images that neither was trained on."""
    before, after = (predictions(world, w, parent.normalization, holdout.images) for w in (parent.weights, weights))
    facts = OfflineFacts(
        gate=OfflineGate(), scores=score(after, before, holdout), classes=len(holdout.classes), finite_loss=True,
        parity_max_abs_diff=0.0, has_parent=True,
    )  # fmt: skip
    return offline_gate(facts).outcome == "Pass"


def drift(
    _: World, seed: int, *, runs: int = 1000, every: float = 10_000, before: float = 0.1, after: float = 0.2
) -> Result:
    """Labels until the alarm when the error goes from `before` to `after` behind 1 000 labels, and false alarms until then."""
    rng = np.random.default_rng([seed, 5])
    delays, false_alarms, spent, updates = [], 0, 0.0, 0
    for _run in range(runs):
        detector = EDetector(every)
        errors = (rng.random(4000) < np.where(np.arange(4000) < 1000, before, after)).tolist()
        started = time.process_time()
        alarm = False
        for count, error in enumerate(errors):
            raised = detector.update(error)
            if raised and count < 1000:
                alarm = True
            elif raised:
                delays.append(count - 999)
                break
        spent += time.process_time() - started
        updates += detector.labels
        false_alarms += alarm
    return {
        "delays": delays,
        "false_alarms": false_alarms / runs,
        "found": len(delays) / runs,
        "us": spent / updates * 1e6,
    }


def shifts(images: Images, seed: int) -> dict[str, Images]:
    """Eight ways the input can change."""
    height = images.shape[1]
    blurred = (images.astype(np.float64) + shifted(images, 1, 0) + shifted(images, 0, 1) + shifted(images, 1, 1)) / 4
    covered = images.copy()
    covered[:, : height // 2] = 0
    return {
        "inverted": 255 - images,
        "noise 0.3": noisy(images, 0.3, [seed, 6]),
        "contrast 0.3": contrast(images, 0.3),
        "shifted": shifted(images, max(1, height // 8), 0),
        "turned 36°": turned(images, np.full(len(images), 36.0)),
        "blurred": np.rint(blurred).astype(np.uint8),
        "half covered": covered,
        "brighter": np.minimum(images.astype(np.int64) + 100, 255).astype(np.uint8),
    }


def signals(world: World, seed: int, *, windows: int = 100) -> Result:
    """A trained model's predictions, drawn with replacement: eight shifts against clean windows, no labels used."""
    set_up_torch(1)
    train, test = parts(world)
    version = bootstrap(world, recipe(world, seed * 100, {}), train, 0)
    rng = np.random.default_rng([seed, 7])

    def drawn(images: Images, count: int) -> list[Prediction]:
        logits = predict_logits(network(world, 0, version.weights), images, version.normalization, CPU)
        p = softmax(logits)
        return [(str(int(p[i].argmax())), float(p[i].max())) for i in rng.integers(0, len(p), count)]

    reference = drawn(test.images, REFERENCE)
    flagged = {n: compare(reference, drawn(x, WINDOW)).flagged for n, x in shifts(test.images, seed).items()}
    clean = drawn(test.images, windows * (REFERENCE + WINDOW))
    false = 0
    for start in range(0, len(clean), REFERENCE + WINDOW):
        part = clean[start : start + REFERENCE + WINDOW]
        false += compare(part[:REFERENCE], part[REFERENCE:]).flagged
    return {"flagged": flagged, "clean_flagged": false, "clean_windows": windows}


def gate(_: World, seed: int, *, runs: int = 10_000, margin: float = 0.02) -> Result:
    """`continual simulate gate`."""
    rows = simulate_gate(runs, margin, seed=seed)
    return {"rows": [[row.name, row.value, row.goal, row.holds, row.detail] for row in rows]}


def resume(world: World, seed: int, *, method: str, epochs: int = 3) -> Result:
    """A run stopped after each epoch and continued from its stored bytes, against the one that never stopped."""
    set_up_torch(1)
    stored: list[bytes] = []
    whole = learn(_small_task(world, seed, method, epochs), None, lambda state: stored.append(encode_resume(state)))
    same = [_continued(world, seed, method, epochs, data) == encode_resume(whole) for data in stored]
    return {"identical": float(np.mean(same)), "stops": len(same)}


def _continued(world: World, seed: int, method: str, epochs: int, data: bytes) -> bytes:
    state: LearnState | None = decode_resume(data)
    return encode_resume(learn(_small_task(world, seed, method, epochs), state, lambda _: None))


def _small_task(world: World, seed: int, method: str, epochs: int) -> Task:
    """A second experience after a first one: new classes beside a filled buffer."""
    train, _ = parts(world)
    half = len(train.classes) // 2
    first = train.take(np.flatnonzero(train.labels < half)[:100])
    fresh = train.take(np.flatnonzero(train.labels >= half)[:100])
    how = recipe(world, seed, {"strategy": method, "epochs": epochs, "rates": (0.2,)})
    net = network(world, seed)
    begun = first_task(how, net, first, first.take([]), _buffer(world, seed), _normalization(world))
    learned = learn(replace(begun, epochs=2), None, lambda _: None)
    parent = network(world, seed, learned.ema)
    buffer = _buffer(world, seed)
    buffer.offer(first.images, first.labels, 0, how.policy)
    load_arrays(net, learned.ema)
    past = Past(parent, buffer)
    empty = fresh.take([])
    return following_task(how, net, past, fresh, empty, begun.normalization, lambda: together([first, fresh]))


def _buffer(world: World, seed: int) -> ReplayBuffer:

    return ReplayBuffer.empty(50, world.shape, len(parts(world)[0].classes), seed)


def _normalization(world: World) -> Normalization:

    train, _ = parts(world)
    return normalization_of(batches_of(train.images), train.images.shape[-1])
