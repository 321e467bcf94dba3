"""The API as its own document describes it, asked by a client that reads only the document: never a 5xx, whatever is sent."""

from __future__ import annotations

import json

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI, Response
from gateway_stand import TOKENS, picture, pixels
from hypothesis import HealthCheck, Phase

EXAMPLES = 15
STREAMS = "/events"
"""Addresses that answer without end."""


def operations(document):
    found = []
    for path, methods in document["paths"].items():
        found += [(method.upper(), path) for method in methods if not path.endswith(STREAMS)]
    return found


def test_no_operation_ever_fails_on_our_side(stand, api):
    """Pins no 5xx for any operation of the document, under generated parameters and bodies, valid and not; and that the worker and the
    gateway are the same afterwards."""
    ask_everything(stand, api, EXAMPLES)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_no_operation_fails_however_often_it_is_asked(stand, api, seed):
    """The same with four times as many examples of each operation, of four seeds."""
    ask_everything(stand, api, 4 * EXAMPLES, seed)


def ask_everything(stand, api, examples, seed=None):
    for n in range(3):
        api.post("/v2/models/digits/infer", content=pixels(n), headers={"content-type": "application/octet-stream"})
    document = api.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = stand.url
    before, workers = stand.memory_mb(), stand.worker_pids()
    statuses: dict[str, set[int]] = {}
    for method, path in operations(document):
        ask(schema[path][method], statuses.setdefault(f"{method} {path}", set()), examples, seed)
    assert len(statuses) > 25
    assert {name: seen for name, seen in statuses.items() if not seen} == {}
    assert stand.worker_pids() == workers
    assert stand.gateway.poll() is None
    assert stand.memory_mb() - before < 128
    assert (
        api.post("/v2/models/digits/infer", content=picture(3), headers={"content-type": "image/png"}).status_code
        == 200
    )


def ask(operation, statuses, examples, seed):
    """A few generated requests about the model that there is; the same ones each time, where no seed says otherwise."""

    def send(case):
        if "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "digits"
        case.headers = {**dict(case.headers or {}), "Authorization": f"Bearer {TOKENS['admin']}"}
        answer = case.call(timeout=20)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.as_curl_command(), answer.status_code, answer.text[:500])

    settled = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed is None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    given = settled(hypothesis.given(case=operation.as_strategy())(send))
    (given if seed is None else hypothesis.seed(seed)(given))()


def test_without_care_a_handler_would_fail():
    """Mutation check: the same client finds the 500 of a handler that trusts what it is sent."""
    app = FastAPI()

    @app.get("/items/{item}")
    def item(item: str) -> Response:
        return Response(item, 200 if item.isdecimal() else 500)

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)

    @hypothesis.settings(
        max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=schema["/items/{item}"]["GET"].as_strategy())
    def send(case):
        assert case.call().status_code < 500

    with pytest.raises(AssertionError):
        send()


def test_the_documents_examples_are_true(stand, api):
    """Pins that what a reader pastes works: examples have the shape the API takes."""
    document = api.get("/openapi.json").json()
    bodies = [
        (path, media["example"])
        for path, methods in document["paths"].items()
        for operation in methods.values()
        for media in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in media
    ]
    assert len(bodies) >= 3
    example = next(body for path, body in bodies if path == "/v2/models/{model}/infer")
    answer = api.post("/v2/models/digits/infer", json=json.loads(json.dumps(example)))
    assert answer.status_code == 200, answer.text
