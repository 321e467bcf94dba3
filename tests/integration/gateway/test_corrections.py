"""Corrections: asked, taught, followed by the data that the training really had, and looked at again with the checkpoint it made.

The training itself is played by its own formats (shards, data list, manifest, outcome, status), so that every state can be met in
seconds; the story with a real trainer and operator is told by the browser tests.
"""

from __future__ import annotations

import json

import pytest
from continual_contract.artifacts import TrainingFailure, TrainingOutcome
from continual_contract.entries import decode_label
from continual_contract.routing import is_held_out, separation_unit
from gateway_stand import CLASSES, KEYS, first, picture, pixels, running


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A stand whose status this module may write."""
    with running(tmp_path_factory.mktemp("corrections")) as stand:
        yield stand


def numbers(held_out=False):
    """Endless images that are, or are not, in the holdout."""
    return (n for n in range(1000, 100_000) if is_held_out(separation_unit(b"", pixels(n)), 10.0) is held_out)


def teach(api, n, label, **form):
    files = {} if form else {"image": ("x.png", picture(n))}
    return api.post("/v1/models/digits/corrections", data={"label": label, **form}, files=files or None)


def state(api, request_id):
    return api.get(f"/v1/models/digits/corrections/{request_id}").json()


def test_a_correction_is_followed_to_the_second_look(own):
    """Pins each state in its turn, from the facts that say so, and the label with its image in the stream."""
    n = next(numbers())
    with own.api("labeler") as api:
        begun = teach(api, n, "class 9" if n % 10 != 9 else "class 8")
        assert begun.status_code == 202
        said = begun.json()
        request_id, label = said["id"], said["label"]
        assert said["before"]["class"] == f"class {n % 10}"
        sent = decode_label(own.client.xrevrange(KEYS.labels, count=1)[0][1])
        assert (sent.reference, sent.class_name, sent.source, sent.image) == (
            request_id,
            label,
            "correction",
            pixels(n),
        )
        assert state(api, request_id)["state"] == "waiting"
        job = own.begin_correction(request_id, n)[0]
        own.client.hset(KEYS.progress(job), mapping={"phase": "learning", "epoch": 2, "epochs": 4, "loss": "0.5"})
        learning = state(api, request_id)
        assert (learning["state"], learning["job"]) == ("training", job)
        assert learning["progress"] == {"phase": "learning", "epoch": 2, "epochs": 4, "loss": "0.5", "accuracy": ""}
        shift = (CLASSES.index(label) - n) % 10
        digest = own.publish(shift, mode="correction", job=job)
        own.registry.put_outcome(TrainingOutcome(job=job, manifest=digest))
        learned = state(api, request_id)
        assert (learned["state"], learned["fixed"], learned["after"]["class"]) == ("learned", True, label)
        assert learned["live"] is False
        own.set_status(
            stable={"version": "v2", "digest": digest},
            versions=[{"version": "v2", "digest": digest, "phase": "Stable"}],
        )
        live = state(api, request_id)
        assert (live["version"], live["live"]) == ("v2", True)
        mine = api.get("/v1/models/digits/corrections?mine=true").json()["corrections"]
        assert mine[0]["id"] == request_id


def test_a_training_that_has_ended_is_found_by_its_version(own):
    """Pins that a page opened late still finds its training: the status names another one by now, the manifest's data names this one."""
    n = next(n for n in numbers() if n % 10 == 3)
    with own.api() as api:
        request_id = teach(api, n, "class 4").json()["id"]
        job = own.begin_correction(request_id, n)[0]
        data = own.state.read_model("digits")["status"]["training"]["inputs"]["data"]
        digest = own.publish(1, mode="correction", job=job, data=data)
        own.registry.put_outcome(TrainingOutcome(job=job, manifest=digest))
        own.set_status(training=None, versions=[{"version": "v3", "digest": digest, "phase": "Canary"}])
        learned = state(api, request_id)
        assert (learned["state"], learned["job"], learned["after"]["class"]) == ("learned", job, "class 4")
        assert (learned["version"], learned["live"]) == ("v3", False)


def test_somebody_elses_training_is_not_taken_for_ours(own):
    """Pins that data decide, not times: a correction Job without this request leaves it waiting."""
    one, other = [n for n in numbers() if n % 10 == 5][:2]
    with own.api() as api:
        request_id = teach(api, one, "class 6").json()["id"]
        job = own.begin_correction("1-1", other)[0]
        own.registry.put_outcome(TrainingOutcome(job=job, manifest=own.publish(1, mode="correction", job=job)))
        assert state(api, request_id)["state"] == "waiting"


def test_a_failed_training_says_why(own):
    n = next(n for n in numbers() if n % 10 == 7)
    with own.api() as api:
        request_id = teach(api, n, "class 8").json()["id"]
        job = own.begin_correction(request_id, n)[0]
        own.registry.put_outcome(
            TrainingOutcome(job=job, failure=TrainingFailure(reason="Diverged", message="the loss is NaN"))
        )
        failed = state(api, request_id)
        assert (failed["state"], failed["fixed"]) == ("failed", False)
        assert "Diverged" in failed["message"]


def test_a_checkpoint_whose_bytes_were_changed_is_not_run(own):
    """Pins that the second look trusts nothing: a blob with another digest is a failure, not an answer."""
    n = next(n for n in numbers() if n % 10 == 2)
    with own.api() as api:
        request_id = teach(api, n, "class 3").json()["id"]
        job = own.begin_correction(request_id, n)[0]
        digest = own.publish(4, mode="correction", job=job)
        blob = own.registry.manifest(digest).onnx
        own.registry.store.put(own.registry.layout.blob(blob.digest), bytes(blob.size))
        own.registry.put_outcome(TrainingOutcome(job=job, manifest=digest))
        failed = state(api, request_id)
        assert failed["state"] == "failed"
        assert "sha256" in failed["message"]


def test_what_is_right_already_is_not_taught(own):
    labels = own.client.xlen(KEYS.labels)
    with own.api() as api:
        answer = teach(api, 1004, "class 4")
    assert (answer.status_code, answer.json()["state"], answer.json()["fixed"]) == (200, "right", True)
    assert own.client.xlen(KEYS.labels) == labels


def test_a_picture_that_may_be_in_the_holdout_is_told_so(own):
    """Pins the honest warning where a wait may never end."""
    n = next(n for n in numbers(held_out=True) if n % 10 != 1)
    with own.api() as api:
        said = teach(api, n, "class 1").json()
    assert said["state"] == "waiting"
    assert "another picture" in said["message"]


def test_a_request_asked_before_is_corrected_by_its_id(own):
    n = next(n for n in numbers() if n % 10 == 6)
    with own.api() as api:
        request_id = first(own.infer(api, pixels(n)), "request_id")
        said = teach(api, n, "class 1", request_id=request_id).json()
    assert (said["id"], said["before"]["class"]) == (request_id, "class 6")


def test_events_follow_a_correction_to_its_end(own):
    n = next(n for n in numbers() if n % 10 == 0)
    with own.api() as api:
        request_id = teach(api, n, "class 1").json()["id"]
        job = own.begin_correction(request_id, n)[0]
        outcome = TrainingOutcome(job=job, manifest=own.publish(1, mode="correction", job=job))
        said = []
        with api.stream("GET", f"/v1/models/digits/corrections/{request_id}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    said.append(json.loads(line.removeprefix("data: ")))
                    own.registry.put_outcome(outcome)
    assert said[0]["state"] == "training"
    assert (said[-1]["state"], said[-1]["after"]["class"]) == ("learned", "class 1")


@pytest.mark.parametrize(
    ("spec", "status"), [({"retraining": {"instantCorrections": "Off"}}, 409), ({"suspend": True}, 409)]
)
def test_a_model_that_does_not_learn_now_says_so(own, spec, status):
    """Last of the module, because it changes the spec."""
    own.apply(**spec)
    with own.api() as api:
        own.wait(lambda: teach(api, 1003, "class 1").status_code == status)
        assert "remedy" in teach(api, 1003, "class 1").json()
    own.apply()


def test_a_correction_wants_a_label_and_an_image(own):
    with own.api() as api:
        assert api.post("/v1/models/digits/corrections", data={"label": "class 1"}).status_code == 400
        assert api.post("/v1/models/digits/corrections", files={"image": ("x.png", picture(1))}).status_code == 400
        assert api.get("/v1/models/digits/corrections/1-1").status_code == 404
