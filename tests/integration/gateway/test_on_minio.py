"""The gateway over a real S3 (MinIO), as a cluster runs it: what it writes, reads and deletes there, and what it says when it is away."""

from __future__ import annotations

import io

import pytest
from continual_contract.artifacts import TrainingOutcome
from continual_contract.routing import is_held_out, separation_unit
from gateway_minio import minio
from gateway_stand import first, picture, pixels, running, zipped
from PIL import Image


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Worker and gateway that know no other store than MinIO."""
    folder = tmp_path_factory.mktemp("minio")
    with minio(folder / "minio") as server:
        with running(folder, store_url=server.url, store_credentials=server.credentials) as stand:
            yield stand
        assert not any(path.is_file() for path in stand.home.store.rglob("*")), "something went past the store"


def test_a_folder_is_uploaded_once_and_shown(own):
    """Pins upload, de-duplication by what lies in the bucket, the table, and the picture of our own making."""
    archive = zipped({f"class {n}/{n}.png": picture(600 + n) for n in range(4)})
    with own.api() as api:
        said = api.post("/v1/models/digits/samples", files={"archive": ("a.zip", archive)}).json()
        again = api.post("/v1/models/digits/samples", files={"archive": ("a.zip", archive)}).json()
        table = api.get("/v1/models/digits/samples").json()
        shown = api.get(f"/v1/models/digits/samples/{said['files'][0]['hash']}/image")
    assert (said["added"], again["duplicate"], table["total"]) == (4, 4, 4)
    assert sorted(row["label"] for row in table["samples"]) == [f"class {n}" for n in range(4)]
    assert Image.open(io.BytesIO(shown.content)).size == (28, 28)
    stored = {info.key.rpartition("/")[2] for info in own.registry.store.list("models/default/digits/samples/")}
    assert stored == {f"{one['hash']}.png" for one in said["files"]}


def test_a_correction_is_looked_at_again_with_the_checkpoint_in_the_bucket(own):
    """Pins shards, data list, manifest and model read over S3: the second look runs the checkpoint that the training left there."""
    n = next(n for n in range(1000, 9000) if n % 10 == 3 and not is_held_out(separation_unit(b"", pixels(n)), 10.0))
    with own.api("labeler") as api:
        begun = api.post(
            "/v1/models/digits/corrections", data={"label": "class 4"}, files={"image": ("x.png", picture(n))}
        ).json()
        job, data = own.begin_correction(begun["id"], n)
        trained = own.publish(1, mode="correction", job=job, data=data)
        own.registry.put_outcome(TrainingOutcome(job=job, manifest=trained))
        learned = api.get(f"/v1/models/digits/corrections/{begun['id']}").json()
    assert (begun["before"]["class"], learned["state"], learned["job"]) == ("class 3", "learned", job)
    assert (learned["fixed"], learned["after"]["class"]) == (True, "class 4")


def test_a_persons_sample_is_gone_from_the_bucket(own):
    """Pins `forget`: the picture is deleted, the mark for later trainings is written."""
    with own.api() as api:
        done = api.post("/v1/models/digits/samples", files={"files": ("anna.png", picture(700))}).json()["files"][0]
        said = api.post("/v1/models/digits/samples/forget", json={"id": done["id"]}).json()
        assert said["removed"] == {"pictures": 1, "rows": 1, "corrections": 0}
        assert api.get(f"/v1/models/digits/samples/{done['hash']}/image").status_code == 404
    store = own.registry.store
    assert not store.exists(f"models/default/digits/samples/{done['hash']}.png")
    assert store.exists(f"models/default/digits/forgotten/{done['hash']}.json")


def test_a_store_that_refuses_stops_uploads_and_nothing_else(own):
    """Pins 503 with its reason for what needs the store, and that requests are answered all the same."""
    good = own.store_credentials.read_text()
    own.store_credentials.write_text(good.replace("continual-test-secret", "another-secret-key"))
    try:
        own.restart_gateway()
        with own.api() as api:
            refused = api.post("/v1/models/digits/samples", files={"files": ("b.png", picture(701))})
            assert (refused.status_code, refused.json()["reason"]) == (503, "StoreUnavailable")
            assert "another-secret-key" not in refused.text + own.log()
            assert first(own.infer(api, pixels(5))) == "class 5"
    finally:
        own.store_credentials.write_text(good)
        own.restart_gateway()
