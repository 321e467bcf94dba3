"""Labels, the queue, uploads and what can be forgotten: through the gateway into the streams that the evaluator reads."""

from __future__ import annotations

import base64
import json

import pytest
from continual_contract.entries import decode_label
from continual_contract.keys import ModelKeys
from gateway_stand import CLASSES, KEYS, first, picture, pixels, zipped


def asked(stand, api, n, **headers):
    return first(stand.infer(api, pixels(n), **headers), "request_id")


def labels_of(stand, request_id):
    """What the evaluator would read of this request."""
    entries = [decode_label(fields) for _, fields in stand.client.xrange(KEYS.labels)]
    return [entry for entry in entries if entry.reference == request_id]


def test_a_label_reaches_the_stream_with_who_sent_it(stand):
    with stand.api("labeler") as api:
        request_id = asked(stand, api, 101)
        done = api.post("/v1/models/digits/labels", json={"id": request_id, "class": "class 3", "source": "truth"})
        assert done.status_code == 202
        ((label),) = labels_of(stand, request_id)
        assert (label.class_name, label.labeler, label.source) == ("class 3", "labeler", "truth")


def test_a_label_may_name_the_key_the_request_was_sent_under(stand, api):
    request_id = asked(stand, api, 102, **{"idempotency-key": "order-102"})
    assert api.post("/v1/models/digits/labels", json={"id": "key:order-102", "class": "class 2"}).status_code == 202
    assert len(labels_of(stand, request_id)) == 1


def test_a_late_label_carries_its_image(stand, api):
    """Pins that the image arrives as the raw pixels the evaluator takes."""
    request_id = asked(stand, api, 103)
    image = base64.b64encode(picture(103)).decode()
    api.post("/v1/models/digits/labels", json={"id": request_id, "class": "class 3", "image": image})
    assert labels_of(stand, request_id)[0].image == pixels(103)


def test_bulk_labels_are_judged_one_by_one(stand, api):
    good = asked(stand, api, 104)
    sent = [{"id": good, "class": "class 4"}, {"id": "9-9", "class": "class 4"}, {"id": good, "class": "elephant"}]
    said = api.post("/v1/models/digits/labels", json=sent).json()
    assert (said["accepted"], said["refused"]) == (1, 2)
    assert [one.get("status") for one in said["labels"]] == [None, 404, 400]
    assert "class 0" in said["labels"][2]["error"]
    assert len(labels_of(stand, good)) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "9-9", "class": "class 1"}, 404),
        ({"id": "x", "class": "class 1"}, 404),
        ({"id": "key:nobody", "class": "class 1"}, 404),
        ({"id": "1-1"}, 422),
        ({"id": "1-1", "class": "class 1", "source": "rumour"}, 422),
        ([], 400),
    ],
)
def test_a_wrong_label_is_refused(stand, api, body, status):
    before = stand.client.xlen(KEYS.labels)
    assert api.post("/v1/models/digits/labels", json=body).status_code == status
    assert stand.client.xlen(KEYS.labels) == before


def test_only_an_admin_labels_for_others(stand):
    """Pins that a labeler cannot multiply votes by inventing names: quotas and majorities count by name."""
    with stand.api("labeler") as labeler, stand.api("admin") as admin:
        request_id = asked(stand, admin, 105)
        body = {"id": request_id, "class": "class 5", "by": "somebody"}
        assert labeler.post("/v1/models/digits/labels", json=body).status_code == 403
        assert admin.post("/v1/models/digits/labels", json=body).status_code == 202
        assert [label.labeler for label in labels_of(stand, request_id)] == ["somebody"]


def test_the_queue_holds_what_was_chosen_and_not_yet_labelled(stand):
    """Pins the gate's fair sample: labelled by anybody, or skipped by me, and it is not offered again; the answer is not told."""
    with stand.api("labeler") as api, stand.api("admin") as other:
        ids = {asked(stand, api, n) for n in range(110, 116)}
        queue = api.get("/v1/models/digits/queue?limit=100").json()
        offered = {task["id"] for task in queue["tasks"]}
        assert ids <= offered
        assert queue["classes"] == list(CLASSES)
        assert "class" not in queue["tasks"][0]
        through_gateway, by_stream, skipped, *rest = sorted(ids)
        api.post("/v1/models/digits/labels", json={"id": through_gateway, "class": "class 0", "source": "audit"})
        stand.client.xadd(KEYS.labels, {"r": by_stream, "c": "class 0"})
        assert api.post(f"/v1/models/digits/queue/{skipped}/skip").status_code == 204
        left = {task["id"] for task in api.get("/v1/models/digits/queue?limit=100").json()["tasks"]}
        assert left & ids == set(rest)
        assert skipped in {task["id"] for task in other.get("/v1/models/digits/queue?limit=100").json()["tasks"]}


def test_a_task_shows_its_image(stand, api):
    asked(stand, api, 120)
    task = api.get("/v1/models/digits/queue?limit=1").json()["tasks"][0]
    shown = api.get(task["image"])
    assert shown.headers["content-type"] == "image/png"
    assert shown.content.startswith(b"\x89PNG")


def test_a_folder_is_taken_in_once(stand, api):
    """Pins seed B: each picture once, whatever the file is called; its folder or the table names its class; the table is searchable."""
    files = {f"class {n}/a{n}.png": picture(300 + n) for n in range(3)}
    files |= {
        "same.png": picture(300),
        "same.webp": picture(301, "WEBP"),
        "notes.txt": b"no image",
        "loose.png": picture(309),
    }
    table = b'file,country,label\na1.png,Norway,class 7\nloose.png,"Peru, north",class 9\n'
    send = {"archive": ("folder.zip", zipped(files)), "metadata": ("table.csv", table)}
    said = api.post("/v1/models/digits/samples", files=send).json()
    assert (said["added"], said["duplicate"], said["refused"]) == (4, 2, 0)
    labels = {one["file"]: one.get("label", "") for one in said["files"] if one["outcome"] == "added"}
    assert labels == {
        "class 0/a0.png": "class 0",
        "class 1/a1.png": "class 7",
        "class 2/a2.png": "class 2",
        "loose.png": "class 9",
    }
    requests = stand.client.xlen(KEYS.requests)
    again = api.post("/v1/models/digits/samples", files=send).json()
    assert (again["added"], again["duplicate"]) == (0, 6)
    assert stand.client.xlen(KEYS.requests) == requests
    (row,) = api.get("/v1/models/digits/samples", params={"text": "peru"}).json()["samples"]
    assert (row["file"], row["label"], row["values"], row["source"]) == (
        "loose.png",
        "class 9",
        {"country": "Peru, north"},
        "truth",
    )
    stand.wait(
        lambda: (
            api.get("/v1/models/digits/samples", params={"text": "a1.png", "state": "wrong"}).json()["samples"] != []
        )
    )
    (request,) = stand.client.xrange(KEYS.requests, row["id"], row["id"])
    assert json.loads(request[1][b"m"]) == {"country": "Peru, north"}
    assert labels_of(stand, row["id"])[0].image == pixels(309)


def test_an_upload_that_was_interrupted_goes_on(stand, api):
    """Pins the order of writes: the picture is stored last, so a half-done sample is taken up again, and asked only once."""
    send = {"files": ("one.png", picture(330))}
    done = api.post("/v1/models/digits/samples", files=send).json()["files"][0]
    stand.registry.store.delete(
        f"models/default/digits/samples/{done['hash']}.png"
    )  # as if the gateway had died before this write
    requests = stand.client.xlen(KEYS.requests)
    again = api.post("/v1/models/digits/samples", files=send).json()["files"][0]
    assert (again["outcome"], again["id"]) == ("added", done["id"])
    assert stand.client.xlen(KEYS.requests) == requests


def test_the_table_is_read_page_by_page(stand, api):
    api.post("/v1/models/digits/samples", files=[("files", (f"page{n}.png", picture(400 + n))) for n in range(5)])
    seen, cursor = [], ""
    while True:
        page = api.get("/v1/models/digits/samples", params={"text": "page", "limit": 2, "cursor": cursor}).json()
        seen += [row["file"] for row in page["samples"]]
        cursor = page["next"]
        if not cursor or not page["samples"]:
            break
    assert seen == [f"page{n}.png" for n in reversed(range(5))]


def test_a_persons_sample_is_forgotten_as_far_as_it_can_be(stand, api):
    """Pins what goes at once, the mark that keeps it out of later trainings, and that the rest is named."""
    done = api.post("/v1/models/digits/samples", files={"files": ("anna.png", picture(500))}).json()["files"][0]
    with stand.api("labeler") as labeler:
        assert labeler.post("/v1/models/digits/samples/forget", json={"id": done["id"]}).status_code == 403
    said = api.post("/v1/models/digits/samples/forget", json={"id": done["id"]}).json()
    assert said["removed"] == {"pictures": 1, "rows": 1, "corrections": 0}
    assert said["marked"] == [done["hash"]]
    assert any("versions" in sentence for sentence in said["remains"])
    assert api.get(f"/v1/models/digits/samples/{done['hash']}/image").status_code == 404
    assert api.get("/v1/models/digits/samples", params={"text": "anna"}).json()["samples"] == []
    assert stand.registry.store.exists(f"models/default/digits/forgotten/{done['hash']}.json")
    assert api.post("/v1/models/digits/samples/forget", json={}).status_code == 400


def test_all_requests_of_a_person_are_forgotten_by_their_key(stand, api):
    ids = []
    for n in (501, 502):
        body = {"parameters": {"partition_key": "person-5"}, "inputs": [{
            "name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": list(pixels(n)),
        }]}  # fmt: skip
        ids.append(first(api.post("/v2/models/digits/infer", json=body), "request_id"))
    said = api.post("/v1/models/digits/samples/forget", json={"key": "person-5"}).json()
    assert said["requests"] == ids
    assert len(said["marked"]) == 2


def test_changes_are_audited_with_who_made_them(stand, api):
    """D3. Pins the stream that the page shows."""
    asked(stand, api, 130)
    api.post("/v1/models/digits/verbs/retrain", json={})
    changes = api.get("/v1/models/digits/history").json()["changes"]
    assert (changes[0]["by"], changes[0]["role"], changes[0]["how"], changes[0]["verb"]) == (
        "admin",
        "admin",
        "token",
        "retrain",
    )
    document = stand.state.read_model("digits")
    assert document["metadata"]["annotations"]["continual.dev/requested-by"] == "admin"
    assert "continual.dev/retrain-requested-at" in document["metadata"]["annotations"]


def test_verbs_write_what_the_command_line_writes(stand, api):
    assert api.post("/v1/models/digits/verbs/pin", json={"version": "v1"}).status_code == 202
    assert stand.state.read_model("digits")["spec"]["rollout"]["pinnedVersion"] == "v1"
    api.post("/v1/models/digits/verbs/unpin")
    assert "pinnedVersion" not in stand.state.read_model("digits")["spec"]["rollout"]
    api.post("/v1/models/digits/verbs/suspend")
    assert stand.state.read_model("digits")["spec"]["suspend"] is True
    api.post("/v1/models/digits/verbs/resume")
    unknown = api.post("/v1/models/digits/verbs/promote", json={"version": "v9"})
    assert unknown.status_code == 404
    assert "v1" in unknown.json()["error"]


def test_events_tell_the_state_and_its_changes(stand, api):
    with api.stream("GET", "/v1/models/digits/events") as stream:
        lines = stream.iter_lines()
        said = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))
        assert said["stable"]["version"] == "v1"
        stand.set_status(waiting={"version": "v2"})
        changed = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))
    stand.set_status(waiting=None)
    assert changed["waiting"] == {"version": "v2"}
    assert ModelKeys("default", "digits") == KEYS
