"""A person's sample that was asked to be forgotten: in no later training, whichever way it would have come in."""

from __future__ import annotations

import numpy as np
from continual_contract.ids import content_hash
from continual_workers.training.prepare import Where, prepare


def forget(lab, image: np.ndarray) -> None:
    lab.store.put(lab.layout.forgotten(content_hash(image.tobytes())), b"{}")


def holds(images: np.ndarray, image: np.ndarray) -> bool:
    return any(np.array_equal(one, image) for one in images)


def test_a_forgotten_sample_is_in_no_later_training(school):
    """Pins shards, holdout and the parent's replay buffer alike; without the mark (mutation check) it is in all three."""
    lab = school.lab
    held = school.new[350:380]
    inputs = lab.retrain_inputs(school.parent, (lab.shard(school.new[:50]),), (lab.shard(held, "holdout"),))
    where = Where(lab.store, lab.registry, lab.layout, None)
    before = prepare(inputs, where)
    fresh, holdout, replayed = lab.images[school.new[7]], lab.images[held[3]], before.buffer.images[11].copy()
    assert holds(before.fresh.images, fresh)
    assert holds(before.task.holdout.images, holdout)
    for image in (fresh, holdout, replayed):
        forget(lab, image)
    after = prepare(inputs, where)
    assert not holds(after.fresh.images, fresh)
    assert not holds(after.task.holdout.images, holdout)
    assert not holds(after.buffer.images, replayed)
    assert len(after.buffer) < len(before.buffer)
    assert len(after.fresh) < len(before.fresh)


def test_a_shard_of_nothing_but_forgotten_samples_is_told(school):
    """Pins the reason: not a crash, and not a training on nothing."""
    lab = school.lab
    for index in school.new[:3]:
        forget(lab, lab.images[index])
    outcome = lab.train(lab.retrain_inputs(school.parent, (lab.shard(school.new[:3]),)))
    assert outcome.manifest is None
    assert outcome.failure is not None
    assert "data.train" in outcome.failure.message
