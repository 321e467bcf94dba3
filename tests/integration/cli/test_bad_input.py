"""Bad input and absent servers: one clear message naming field, value and remedy, a documented exit code, nothing lost."""

from __future__ import annotations

import json

import pytest
from continual_cli import streams
from continual_contract.keys import ModelKeys

KEYS = ModelKeys("default", "digits")


@pytest.fixture
def request_id(run, serving, picture):
    """Of an image that was really answered."""
    return json.loads(run("predict", str(picture(7)), "-o", "json").stdout)[0]["request"]


def complaint(result) -> str:
    """The one line on stderr."""
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("error: ").rstrip()


def test_predict_answers_with_class_confidence_version_and_id(run, serving, picture):
    """Pins the good case beside the bad ones, for an image of another size too (letterboxed)."""
    result = run("predict", str(picture(7)), str(picture(3, (56, 56))), "-o", "json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert (first["class"], second["class"]) == ("7", "3")
    assert (first["version"], first["role"]) == ("v1", "stable")
    assert 0.5 < first["confidence"] <= 1
    assert first["request"] < second["request"]


def test_an_image_of_the_wrong_size_is_refused_where_the_model_says_so(run, serving, model, picture):
    model.update_model("digits", lambda d: d["spec"]["model"]["input"].update(fit="Refuse") or d)
    path = picture(7, (90, 60))
    result = run("predict", str(path))
    assert result.exit_code == 2
    assert complaint(result).startswith(
        f"{path}: image size: has another size than the model's input (got '90x60'); resize it to 28x28"
    )


@pytest.mark.parametrize(
    ("name", "content", "said", "code"),
    [
        ("a.gif", b"GIF89a" + b"\0" * 40, "image: is not PNG or JPEG or WEBP", 2),
        ("a.png", b"not an image", "image: is not PNG or JPEG or WEBP", 2),
        ("empty.png", b"", "image: is not PNG or JPEG or WEBP", 2),
    ],
)
def test_a_file_of_the_wrong_type_is_refused_before_anything_is_sent(
    run, model, redis_server, tmp_path, name, content, said, code
):
    path = tmp_path / name
    path.write_bytes(content)
    result = run("predict", str(path))
    assert result.exit_code == code
    assert complaint(result).startswith(f"{path}: {said}")
    assert redis_server.client().xlen("ctm:{default/digits}:requests") == 0


def test_a_missing_file_is_named(run, model):
    result = run("predict", "nowhere.png")
    assert (result.exit_code, complaint(result)) == (3, "file: no such file (got 'nowhere.png'); check the path")


def test_a_raw_request_of_the_wrong_length_is_a_dead_letter_and_can_be_replayed(run, serving, redis_server):
    """Pins `dead list` and `dead replay` on what a stranger's XADD left."""
    client = redis_server.client()
    request = client.xadd("ctm:{default/digits}:requests", {"d": b"too short"}).decode()
    [letter] = wait_for(lambda: json.loads(run("dead", "list", "-o", "json").stdout))
    assert (letter["request"], letter["reason"], letter["bytes"]) == (request, "InvalidImage", 9)
    assert "784 raw uint8 bytes" in letter["message"]
    replayed = run("dead", "replay", letter["entry"], "-o", "json")
    assert (replayed.exit_code, json.loads(replayed.stdout)["replayed"]) == (0, [letter["entry"]])
    unknown = run("dead", "replay", "1-1")
    assert (unknown.exit_code, complaint(unknown)) == (
        3,
        "ENTRY: no such dead letter (got '1-1'); see `continual dead list`",
    )


def test_dead_labels_stop_no_replay(run, model, redis_server):
    """Pins `dead replay --all` past letters of labels, and what is said to whoever names one."""
    client = redis_server.client()
    unknown = {"r": "key:nobody", "reason": "UnknownRequest", "message": "m", "v": "", "t": "1", "kind": "label"}
    label = client.xadd("ctm:{default/digits}:dead", unknown).decode()
    request = {"r": "1700000000000-0", "reason": "InvalidImage", "message": "m", "v": "v1", "t": "1", "x-d": b"short"}
    letter = client.xadd("ctm:{default/digits}:dead", request).decode()
    result = run("dead", "replay", "--all", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["replayed"]) == (0, [letter])
    assert result.stderr.startswith("1 dead letter(s) left")
    named = run("dead", "replay", label)
    assert (named.exit_code, complaint(named)) == (
        3,
        f"ENTRY: this dead letter holds no request (UnknownRequest) (got '{label}'); send the request or the label again",
    )


def test_what_a_stranger_adds_to_our_streams_stops_no_reader(run, serving, redis_server, picture):
    """Pins entries without our fields, with bytes that are no text, and with a terminal's control characters."""
    client = redis_server.client()
    for stream in ("predictions", "dead"):
        client.xadd(f"ctm:{{default/digits}}:{stream}", {"foo": "bar"})
        odd = {"r": b"\xff\x1b[2J", "deliveries": "many", "t": "9" * 30, "message": "red\nline" + "x" * 5000}
        client.xadd(f"ctm:{{default/digits}}:{stream}", odd)
    assert run("predict", str(picture(7))).exit_code == 0
    assert len(run("consume", "-o", "json").stdout.splitlines()) == 1
    listed = run("dead", "list")
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 3), listed.output
    assert "\x1b" not in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) < 500


def test_the_dead_letter_of_a_label_is_no_answer(run, model, redis_server, picture):
    """Pins that a label refused while its request waits does not end the wait as if the request had been refused."""
    client = redis_server.client()
    start = streams.cursor(client, KEYS)
    letter = {"r": "1-1", "reason": "UnknownClass", "message": "m", "v": "", "t": "1", "kind": "label"}
    client.xadd(KEYS.dead, letter)
    assert streams.await_answers(client, KEYS, ["1-1"], start, 0.2) == {}


def wait_for(look, seconds: float = 20):
    import time

    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_label_is_taken_for_an_answered_request_and_for_its_key(run, request_id, redis_server):
    assert run("label", "--id", request_id, "--class", "7", "--source", "audit").exit_code == 0
    [(_, fields)] = redis_server.client().xrange("ctm:{default/digits}:labels")
    assert (fields[b"r"].decode(), fields[b"c"], fields[b"src"]) == (request_id, b"7", b"audit")
    run("produce", "digits", "--count", "1", "--rate", "0", "--dedupe", "run", "--seed", "0")
    key = next(iter(redis_server.client().scan_iter("*seen:*"))).decode().partition("seen:")[2]
    assert run("label", "--id", f"key:{key}", "--class", "1").exit_code == 0


def test_an_unknown_class_is_named_with_the_known_ones(run, request_id, redis_server):
    result = run("label", "--id", request_id, "--class", "seven")
    assert result.exit_code == 2
    assert (
        complaint(result) == "class: the model has no such class (got 'seven'); classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )
    assert redis_server.client().xlen("ctm:{default/digits}:labels") == 0


@pytest.mark.parametrize("reference", ["1700000000000-0", "seventeen", "key:never-sent"])
def test_a_label_for_an_unknown_request_is_refused(run, model, redis_server, reference):
    result = run("label", "--id", reference, "--class", "7")
    assert result.exit_code == 3
    assert complaint(result) == (
        f"id: no such request, or older than feedback.window (got '{reference}'); "
        "take the id from `continual predict` or `continual consume`, or key:<the key you sent it under>"
    )
    assert redis_server.client().xlen("ctm:{default/digits}:labels") == 0


def test_a_csv_of_labels_sends_what_is_known_and_names_the_rest(run, request_id, tmp_path, redis_server):
    table = tmp_path / "labels.csv"
    table.write_text(f"id,class,source\n{request_id},7,truth\n1-1,3,truth\n")
    result = run("label", "--csv", str(table), "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"model": "digits", "sent": 1, "unknown": ["1-1"]}
    assert complaint(result).startswith(
        "id: 1 of 2 labels name requests that nobody knows; the others were sent (got '1-1')"
    )
    assert redis_server.client().xlen("ctm:{default/digits}:labels") == 1


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        ("request,class\n1-1,7\n", "lacks a column (got 'request,class'); begin it with the line: id,class", 2),
        ("id,class\n1-1,x\n", "class: the model has no such class (got 'x')", 2),
        (
            "id,class,source\n1-1,7,rumour\n",
            "source: not a label source (got 'rumour'); use truth, audit, correction",
            2,
        ),
    ],
)
def test_a_wrong_csv_is_refused_as_a_whole_with_its_line(run, model, tmp_path, text, said, code):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    result = run("label", "--csv", str(table))
    assert result.exit_code == code
    assert said in complaint(result)
    assert str(table) in complaint(result)


def test_a_missing_dataset_folder_is_named_with_what_belongs_there(run, model, tmp_path):
    result = run("produce", "mnist", "--data", str(tmp_path), "--count", "1")
    assert result.exit_code == 3
    assert f"{tmp_path}/mnist" in complaint(result)
    assert "nothing is downloaded" in complaint(result)
    unknown = run("produce", "imagenet", "--count", "1")
    assert (unknown.exit_code, "digits, mnist, fashion-mnist, cifar10" in complaint(unknown)) == (3, True)


def test_a_full_backlog_refuses_and_loses_nothing(run, model, redis_server):
    """Pins exit 4, how many were accepted before, and that exactly those are in the stream."""
    result = run(
        "produce", "digits", "--count", "20", "--rate", "0", "--backlog-limit", "5", "--on-full", "fail", "-o", "json"
    )
    assert result.exit_code == 4
    assert json.loads(result.stdout)["sent"] == 5
    assert complaint(result).startswith("backlog: 5 requests wait, limit 5; 5 requests were accepted before")
    assert redis_server.client().xlen("ctm:{default/digits}:requests") == 5


def test_a_producer_waits_for_a_full_backlog_by_itself(run, serving):
    """Pins that back-pressure is the default: all arrive once the worker has caught up."""
    result = run("produce", "digits", "--count", "200", "--rate", "0", "--backlog-limit", "20", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["sent"]) == (0, 200)


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "PICTURE"),
        ("consume",),
        ("dead", "list"),
        ("produce", "digits", "--count", "1"),
        ("label", "--id", "1-1", "--class", "7"),
    ],
)
def test_a_redis_that_is_away_is_one_line_and_exit_4(run, model, redis_server, picture, words):
    redis_server.kill9()
    result = run(*[str(picture(1)) if word == "PICTURE" else word for word in words])
    assert result.exit_code == 4
    assert complaint(result).startswith(f"redis 127.0.0.1:{redis_server.port}: no answer from Redis")


def test_without_a_cluster_the_remedy_is_local_up(run, home, model, picture):
    home.endpoints.unlink()
    result = run("predict", str(picture(1)))
    assert result.exit_code == 4
    assert "continual local up" in complaint(result)


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [("http://x", 2, "--redis-url: not a Redis address"), ("redis://127.0.0.1:1", 4, "no answer from Redis")],
)
def test_a_wrong_redis_address_is_named(run, home, run_folder, url, code, said):
    for words in (("serve", str(run_folder)), ("consume",)):
        result = run(*words, "--redis-url", url, "-m", "x")
        assert result.exit_code == code
        assert said in complaint(result)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "is not a JSON object with id and image"),
        ('{"id": 1}', "is not a JSON object with id and image"),
        ('{"id": 1, "image": "!!"}', "image: is not base64 of float32"),
        ('{"id": 1, "image": "AAAAAA=="}', "image: has the wrong length (got 1); send 784 values (28x28x1)"),
    ],
)
def test_a_wrong_json_line_is_named_by_its_number(run, model, line, said):
    result = run("produce", "-", "--shape", "json-base64-float32", stdin=f"\n{line}\n")
    assert result.exit_code == 2
    assert complaint(result).startswith(f"-:2: {said}") or complaint(result).startswith(
        f"-:2: image: {said.removeprefix('image: ')}"
    )


def test_doctor_is_well_with_redis_and_says_what_is_missing(run, model, redis_server, monkeypatch, tmp_path):
    """Pins exit 0 on a sound machine, exit 4 and the remedy without redis-server and with Redis down."""
    sound = run("doctor", "-o", "json")
    assert sound.exit_code == 0, sound.output
    found = {check["check"]: check["ok"] for check in json.loads(sound.stdout)}
    assert all(
        found[name] for name in ("python", "redis-server", "ports", "home", "disk", "redis", "functions", "store")
    )
    redis_server.kill9()
    monkeypatch.setenv("PATH", str(tmp_path))
    broken = run("doctor", "-o", "json")
    assert broken.exit_code == 4
    bad = {check["check"]: check for check in json.loads(broken.stdout) if check["ok"] is False}
    assert set(bad) == {"redis-server", "redis"}
    assert "apt install redis-server" in bad["redis-server"]["remedy"]


def test_a_port_in_use_is_named_with_what_to_do(run, home, redis_server):
    """Pins `local up` on a port where somebody listens: exit 4, nothing left running."""
    result = run("local", "up", "--redis-port", str(redis_server.port))
    assert result.exit_code == 4
    assert complaint(result).startswith(f"--redis-port: Redis cannot listen on 127.0.0.1:{redis_server.port}")
    assert "give another port" in complaint(result)


def test_no_redis_server_is_named_with_how_to_install_it(run, home, monkeypatch, tmp_path):
    """Pins `local up` on a machine without redis-server: exit 3 and the remedy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("local", "up")
    assert result.exit_code == 3
    assert "redis-server" in complaint(result)
    assert "install" in complaint(result)


def test_training_on_what_is_not_there_names_it(run, tmp_path):
    """Pins seed C's bad inputs: no dataset, a broken .npz, no run folder."""
    missing = run("train", "--dataset", str(tmp_path / "none.npz"), "--out", str(tmp_path / "run"))
    assert (missing.exit_code, "none.npz" in complaint_at_end(missing)) == (3, True)
    (tmp_path / "broken.npz").write_bytes(b"not a zip")
    broken = run("train", "--dataset", str(tmp_path / "broken.npz"), "--out", str(tmp_path / "run"))
    assert (broken.exit_code, "broken.npz" in complaint_at_end(broken)) == (2, True)
    for words in (("train", "evaluate", str(tmp_path)), ("predict", "x.png", "--checkpoint", str(tmp_path))):
        result = run(*words)
        assert result.exit_code == 3
        assert (
            complaint(result) == f"RUNDIR: not a run folder (got '{tmp_path}'); train one: `continual train --out DIR`"
        )


def complaint_at_end(result) -> str:
    """The one error line after lines of progress."""
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        result.stderr.splitlines()[-1]
    ]
    return result.stderr.splitlines()[-1]
