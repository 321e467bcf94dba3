"""Producer, classifier and consumer as three programs around a plain Redis."""

from __future__ import annotations

import json
import signal
import time


def test_what_is_produced_is_classified_scored_and_consumed(run, serving, redis_server, run_folder):
    """Pins the trio end to end: each request one prediction, late labels judged, the running accuracy told."""
    where = ("--redis-url", redis_server.url, "-m", "digits")
    made = run("produce", str(run_folder.parent / "digits.npz"), *where, "--checkpoint", str(run_folder),
               "--count", "60", "--rate", "0", "--labels-after", "0.1", "-o", "json")  # fmt: skip
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout) == {"sent": 60, "duplicates": 0, "labels": 60, "labelsNotSent": 0}
    read = run("consume", *where, "--from", "0", "--count", "60", "--follow", "--idle", "10", "-o", "json")
    told = [json.loads(line) for line in read.stdout.splitlines()]
    assert len({entry["request"] for entry in told}) == 60
    assert {(entry["version"], entry["role"], entry["why"]) for entry in told} == {("v1", "stable", "owner")}
    scored = run("consume", *where, "--from", "0", "--score")
    assert scored.stdout.splitlines()[-1].startswith(tuple(f"{right} of 60 right" for right in range(55, 61)))


def test_json_lines_of_another_system_become_requests_once(run, serving, as_json_lines):
    """Pins the JSON shape (base64 float32), its labels, and that the same lines again send nothing."""
    words = (
        "produce",
        "-",
        "--shape",
        "json-base64-float32",
        "--rate",
        "0",
        "--labels-after",
        "0",
        "--dedupe",
        "file",
        "-o",
        "json",
    )
    first = run(*words, stdin=as_json_lines(range(20)))
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["sent"] == 20
    again = json.loads(run(*words, stdin=as_json_lines(range(22))).stdout)
    assert (again["sent"], again["duplicates"]) == (2, 20)
    told = run("consume", "--follow", "--from", "0", "--count", "22", "--idle", "10", "-o", "json").stdout.splitlines()
    assert len(told) == 22


def test_a_new_version_takes_the_stream_over(run, serving, redis_server, run_folder, spawn):
    """Pins that `serve --version v2` answers what comes after it, and the old worker leaves nothing behind."""
    where = ("--redis-url", redis_server.url, "-m", "digits")
    second = spawn("serve", str(run_folder), *where, "--version", "v2")
    deadline = time.monotonic() + 60
    while b"v2" not in (redis_server.client().get("ctm:{default/digits}:routing") or b""):
        assert time.monotonic() < deadline, second.popen.poll()
        time.sleep(0.05)
    run("produce", "digits", *where, "--count", "30", "--rate", "0")
    read = run("consume", *where, "--from", "0", "--follow", "--count", "30", "--idle", "10", "-o", "json")
    assert [json.loads(line)["version"] for line in read.stdout.splitlines()] == ["v2"] * 30


def test_ctrl_c_ends_each_of_the_three_cleanly(run, serving, spawn):
    """Pins exit 130 without a traceback for the clients, and that a producer says which labels it still owed."""
    consumer = spawn("consume", "--follow", "--score")
    producer = spawn("produce", "digits", "--rate", "50", "--labels-after", "600", "-o", "json")
    assert consumer.popen.stdout is not None
    assert consumer.popen.stdout.readline().startswith("TIME")
    for _ in range(2):  # the second was sent when the first had been counted
        assert consumer.popen.stdout.readline()
    code, out, err = producer.stop()
    told = json.loads(out)
    assert (code, err) == (130, "")
    assert told["labelsNotSent"] - told["sent"] in {0, 1}, "all of them, and the one that was in flight"
    code, out, err = consumer.stop()
    assert (code, err) == (130, "")
    assert out.splitlines()[-1].startswith("0 of 0 right")
    code, _, err = serving.stop(signal.SIGTERM)
    assert code == 0
    assert err.splitlines()[0].endswith("Ctrl-C ends it")


def test_serve_leaves_the_streams_of_a_continual_model_alone(run, model, redis_server, run_folder):
    """Pins exit 5 when the routing table carries another owner."""
    from continual_contract.functions import route_call
    from continual_contract.keys import ModelKeys

    call = route_call(ModelKeys("default", "digits"), 0, 1, "another-uid", [("v1", 10_000)])
    redis_server.client().execute_command(*call.command())
    result = run("serve", str(run_folder), "--redis-url", redis_server.url, "-m", "digits")
    assert result.exit_code == 5
    assert (
        result.stderr
        == "error: --model: the streams belong to a ContinualModel (got 'digits'); choose another name with -m\n"
    )
