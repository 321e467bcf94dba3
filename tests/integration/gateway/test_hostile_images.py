"""D1 and D2: hostile images cost bounded resources, and nothing of what was sent is ever given out again."""

from __future__ import annotations

import io
import socket
import time
from dataclasses import dataclass, replace

import httpx
import numpy as np
import psutil
import pytest
from gateway_stand import TOKENS, Stand, first, picture, pixels, sabotage, zipped
from hostile import CORPUS, POLYGLOTS, SVG, png_bomb
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from PIL import Image

GROWTH_MB = 64.0
PROMPT_SECONDS = 1.0
TRIES = 5
"""What an image costs is the same each time, what others do on the machine only adds to it: the quickest of a few tries counts."""


@dataclass(frozen=True)
class Cost:
    """Of one request: what the front door's guarantee D1 bounds."""

    status: int
    seconds: float
    growth_mb: float
    """Of the gateway and its decoder, at the worst moment."""


def cost_of(stand, data, tries=TRIES):
    """The quickest of some tries, with the growth of the worst; the first prompt one ends it."""
    costs: list[Cost] = []
    with stand.api() as api:
        assert stand.infer(api, picture(1), "image/png").status_code == 200
        while len(costs) < tries and not any(cost.seconds <= PROMPT_SECONDS for cost in costs):
            stand.forget_peak()
            before, began = stand.peak_mb(), time.monotonic()
            answer = stand.infer(api, data, "image/png")
            costs.append(Cost(answer.status_code, time.monotonic() - began, stand.peak_mb() - before))
    return replace(min(costs, key=lambda cost: cost.seconds), growth_mb=max(cost.growth_mb for cost in costs))


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_image_is_refused_cheaply(stand, name):
    """D1. Pins 4xx within a second, and no more than 64 MB of growth, measured at the peak."""
    cost = cost_of(stand, CORPUS[name])
    assert 400 <= cost.status < 500, cost
    assert cost.growth_mb <= GROWTH_MB, cost
    assert cost.seconds <= PROMPT_SECONDS, cost


NO_BOUNDS = """
import resource
from PIL import Image
from continual_clients import images

resource.setrlimit = lambda *_: None
images.MAX_PIXELS = 1 << 40
Image.MAX_IMAGE_PIXELS = None
"""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """A stand whose gateway is started again for each experiment."""
    stand = Stand(tmp_path_factory.mktemp("laboratory"))
    try:
        stand.start_redis()
        stand.apply()
        stand.serve()
        yield stand
    finally:
        stand.close()


@pytest.fixture
def mutant(laboratory, tmp_path):
    """That stand, with a gateway that runs some code before its own."""

    def make(code):
        if laboratory.gateway is not None:
            laboratory.gateway.kill()
            laboratory.gateway.wait()
        laboratory.start_gateway(**sabotage(tmp_path / "mutant", code))
        return laboratory

    return make


def test_without_the_bounds_a_bomb_costs_more_than_it_may(mutant):
    """Mutation check of D1's growth: the same measure, of a gateway whose decoder knows no bounds."""
    assert cost_of(mutant(NO_BOUNDS), png_bomb(), tries=1).growth_mb > GROWTH_MB


def test_a_body_above_its_bound_is_refused_before_it_is_sent(stand):
    """D1. Pins that 100 MB are refused by their promised length, and that the connection is not read on."""
    before = stand.memory_mb()
    with socket.create_connection(("127.0.0.1", stand.port), 10) as connection:
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['viewer']}\r\n"
        connection.sendall(f"{head}Content-Type: image/png\r\nContent-Length: {100 << 20}\r\n\r\n".encode())
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    assert stand.memory_mb() - before <= GROWTH_MB


def test_a_body_without_a_length_is_cut_off_at_the_bound(stand):
    """D1. Pins the count of what really comes: chunks of 1 MB, no promised length."""
    before = stand.memory_mb()

    def endless():
        for _ in range(100):
            yield bytes(1 << 20)

    with stand.api() as api:
        try:
            answer = api.post("/v2/models/digits/infer", content=endless(), headers={"content-type": "image/png"})
            assert answer.status_code == 413
        except (httpx.WriteError, httpx.RemoteProtocolError):
            pass  # the connection was closed while we still sent
    assert stand.memory_mb() - before <= GROWTH_MB


LARGE = {
    "pixels of the wrong length": ("application/octet-stream", bytes((10 << 20) - 1)),
    "no JSON": ("application/json", b"[" * (4 << 20)),
    "no image": ("image/png", b"\x89PNG\r\n\x1a\n" + bytes((10 << 20) - 8)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_bodies_leave_nothing_behind(stand, name):
    """D1. Pins that thirty bodies as large as they may be cost no more than one: nothing of them waits for the collector."""
    kind, body = LARGE[name]
    with stand.api() as api:
        stand.infer(api, picture(1), "image/png")
        stand.forget_peak()
        before = stand.peak_mb()
        for _ in range(30):
            assert 400 <= stand.infer(api, body, kind).status_code < 500
        assert stand.peak_mb() - before <= GROWTH_MB


def test_a_slow_body_does_not_hold_others_up(stand):
    """D1. Pins that twenty clients that send one byte and wait cost nobody else anything."""
    slow = []
    try:
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", stand.port), 10)
            head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['viewer']}\r\n"
            connection.sendall(f"{head}Content-Type: application/octet-stream\r\nContent-Length: 784\r\n\r\nx".encode())
            slow.append(connection)
        with stand.api() as api:
            assert first(stand.infer(api, pixels(6))) == "class 6"
    finally:
        for connection in slow:
            connection.close()


def test_an_endless_head_is_cut_off(stand):
    """D1. Pins that a connection which never says what it wants is closed after 32 kB."""
    with socket.create_connection(("127.0.0.1", stand.port), 10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        deadline = time.monotonic() + 30
        with pytest.raises(ConnectionError):  # noqa: PT012 -- whichever write meets the closed connection
            while time.monotonic() < deadline:
                connection.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")
                time.sleep(0.001)


@pytest.mark.parametrize("name", POLYGLOTS)
def test_what_is_shown_is_never_what_was_sent(api, name):
    """D2. Pins that a stored picture is re-encoded: no byte behind or inside it survives, and it is served as what it is."""
    is_shown_anew(api, name)


def is_shown_anew(api, name):
    sent = POLYGLOTS[name]
    done = api.post("/v1/models/digits/samples", files={"files": (f"{name}.png", sent)})
    content_hash = done.json()["files"][0]["hash"]
    shown = api.get(f"/v1/models/digits/samples/{content_hash}/image")
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.content.startswith(b"\x89PNG")
    assert b"script" not in shown.content
    assert b"PK\x03\x04" not in shown.content
    assert b"script" in sent or b"PK\x03\x04" in sent


NAMES = {
    "../../etc/passwd.png": "../../etc/passwd.png",
    "nul\0byte.png": "nulbyte.png",
    "rtl\u202egnp.exe.png": "rtlgnp.exe.png",
    "control\x1b[31m.png": "control[31m.png",
    "x" * 5000 + ".png": "x" * 199 + "…",
    "<script>alert(1)</script>.png": "<script>alert(1)</script>.png",
}


def test_names_are_shown_and_never_used(stand, api):
    """D2. Pins that a stored picture lies under its content's hash whatever it was called, and that its name has no tricks."""
    are_names_harmless(stand, api)


NO_CARE = """
from dataclasses import replace
from continual_gateway import frontdoor, samples
from continual_gateway.decoding import Decoder

samples.tidy = lambda text, limit=0: text
frontdoor.SECURITY = ()
keep = Decoder.keep

async def as_sent(self, data, *rest):
    return replace(await keep(self, data, *rest), png=data)

Decoder.keep = as_sent
"""


def test_without_care_names_and_pictures_would_be_what_was_sent(mutant):
    """Mutation check of D2: each of the claims above is red of a gateway that shows what it was sent, under the name it was told."""
    stand = mutant(NO_CARE)
    with stand.api() as api:
        for name in POLYGLOTS:
            with pytest.raises((AssertionError, KeyError)):
                is_shown_anew(api, name)
        with pytest.raises(AssertionError):
            are_names_harmless(stand, api)


def are_names_harmless(stand, api):
    archive = zipped({name: picture(1000 + n) for n, name in enumerate(NAMES) if "\0" not in name})
    said = api.post("/v1/models/digits/samples", files={"archive": ("a.zip", archive)}).json()
    assert [one["file"] for one in said["files"]] == [shown for name, shown in NAMES.items() if "\0" not in name]
    for one in said["files"]:
        assert stand.registry.store.exists(f"models/default/digits/samples/{one['hash']}.png")
    stored = [info.key for info in stand.registry.store.list("models/default/digits/samples/")]
    assert all(key.removesuffix(".png").rpartition("/")[2].isalnum() for key in stored)


def test_an_svg_called_png_is_no_image(stand, api):
    """D2."""
    done = api.post("/v1/models/digits/samples", files={"files": ("logo.png", SVG, "image/png")}).json()
    assert done["files"][0]["outcome"] == "refused"
    assert stand.infer(api, SVG, "image/png").status_code == 400


def test_a_bomb_among_the_files_of_an_archive_is_refused_alone(stand, api):
    """Pins that the rest of an upload does not suffer, and that an archive which unpacks to too much is not unpacked."""
    good, bad = picture(2000), png_bomb()
    said = api.post(
        "/v1/models/digits/samples", files={"archive": ("a.zip", zipped({"good.png": good, "bad.png": bad}))}
    ).json()
    assert {one["file"]: one["outcome"] for one in said["files"]} == {"good.png": "added", "bad.png": "refused"}
    before = stand.memory_mb()
    huge = zipped({f"{n}.png": bytes(11 << 20) for n in range(3)})
    refused = api.post("/v1/models/digits/samples", files={"archive": ("b.zip", huge)}).json()
    assert refused["refused"] == 3
    assert stand.memory_mb() - before <= GROWTH_MB


SEEDS = [picture(1), picture(2, "JPEG", (60, 40)), picture(3, "WEBP")]


def test_fuzzed_images_never_break_anything(stand, api):
    """Pins the image path under 300 mutated files: no 5xx, no growth, the same worker, and the next good image is answered."""
    fuzz(stand, api, 300)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_no_seed_of_fuzzed_images_breaks_anything(stand, api, seed):
    """The same with 2000 files of each of eight seeds."""
    fuzz(stand, api, 2000, seed)


def fuzz(stand, api, examples, seed=None, phases=tuple(Phase)):
    assert stand.infer(api, picture(9), "image/png").status_code == 200
    workers, gateway = stand.worker_pids(), stand.gateway.pid
    stand.forget_peak()
    before = stand.peak_mb()
    flips = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12)

    def send(seed, flips, cut, tail):
        data = bytearray(seed[: max(1, int(len(seed) * cut))])
        for place, value in flips:
            data[int(place * len(data))] = value
        answer = stand.infer(api, bytes(data) + tail, "image/png")
        assert answer.status_code in {200, 400}, answer.text

    settled = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=seed is None,
        phases=phases,
    )  # fmt: skip
    given_data = given(seed=st.sampled_from(SEEDS), flips=flips, cut=st.floats(0.1, 1.0), tail=st.binary(max_size=40))
    whole = settled(given_data(send))
    (whole if seed is None else with_seed(seed)(whole))()
    assert stand.worker_pids() == workers
    assert stand.gateway.poll() is None
    assert stand.gateway.pid == gateway
    assert stand.peak_mb() - before <= GROWTH_MB
    assert first(stand.infer(api, picture(9), "image/png")) == "class 9"


CLUELESS = """
from continual_gateway import decoding

class Clueless(Exception):
    def __init__(self, *said, **more):
        pass

decoding.InvalidImageError = Clueless
"""


def test_without_knowing_whose_fault_it_is_fuzzed_images_would_break_it(mutant):
    """Mutation check of the fuzz run: the same files find a gateway out that does not tell a bad image from a fault of its own."""
    stand = mutant(CLUELESS)
    with stand.api() as api, pytest.raises(AssertionError):
        fuzz(stand, api, 30, phases=(Phase.generate,))  # the first one is enough


def test_the_decoder_cannot_take_more_memory_than_it_may(stand, api):
    """Mutation check of D1's last line of defence: an image at the very bound of 16.7 million pixels is decoded, or refused, in its
    own process; the gateway itself does not grow by it."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4096, 4096, 4), np.uint8)).save(buffer, "PNG", compress_level=1)
    gateway = psutil.Process(stand.gateway.pid)
    before = gateway.memory_info().rss / 2**20
    answer = stand.infer(api, buffer.getvalue(), "image/png")
    assert answer.status_code in {200, 400}
    assert gateway.memory_info().rss / 2**20 - before <= GROWTH_MB
    assert first(stand.infer(api, picture(9), "image/png")) == "class 9"
