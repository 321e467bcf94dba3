"""D3 and the bounds of the front door, address by address: no route is forgotten because they are read from the app itself."""

from __future__ import annotations

import asyncio

import pytest
from continual_gateway import auth, frontdoor
from continual_gateway.auth import Authenticator
from continual_gateway.deadlines import Deadlines
from continual_gateway.frontdoor import OPEN_PATHS, STATIC
from continual_gateway.roles import Role
from continual_gateway.settings import Limits, read_networks
from fastapi.routing import APIRoute

SAFE = {"GET", "HEAD", "OPTIONS"}
OWN, FOREIGN = "http://gateway.test", "http://evil.test"


def routes(app):
    """(method, path) of every route, with something in place of each parameter."""
    found = []
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        for one in inner.routes if inner is not None else [route]:
            if isinstance(one, APIRoute):
                found += [(method, filled(one.path)) for method in sorted(one.methods)]
    return found


def filled(path: str) -> str:
    words = {"model": "digits", "version": "v1", "verb": "retrain", "request_id": "1-1", "content_hash": "a" * 40}
    for name, word in words.items():
        path = path.replace(f"{{{name}}}", word)
    return path.partition("{")[0] + ("1" if "{" in path else "")


async def session(visit, name):
    """A browser signed in as somebody: its cookie, and the token of its forms."""
    cookie = visit.app.state.gateway.auth.session_for(name)
    headers = {"cookie": f"{auth.COOKIE}={cookie}"}
    csrf = (await visit("GET", "/v1/whoami", None, headers=headers)).json()["csrf"]
    return headers, csrf


async def foreign_posts(visit):
    """Statuses of every changing address, asked by a foreign page with an admin's cookie and even the session's own token."""
    cookie, csrf = await session(visit, "admin")
    headers = cookie | {"origin": FOREIGN, "x-csrf-token": csrf}
    changing = [(method, path) for method, path in routes(visit.app) if method not in SAFE]
    assert len(changing) > 10
    return {f"{m} {p}": (await visit(m, p, None, headers=headers, json={})).status_code for m, p in changing}


def test_a_foreign_page_can_change_nothing(visit):
    """D3."""
    assert set(visit(foreign_posts).values()) == {403}


def test_without_the_check_of_origins_a_foreign_page_could(visit, monkeypatch):
    """Mutation check of D3."""
    monkeypatch.setattr(frontdoor, "check_origin", lambda *_: None)
    assert set(visit(foreign_posts).values()) != {403}


def test_a_browser_without_its_sessions_token_changes_nothing(visit):
    """D3: the second lock. Pins every changing address but sign-in, from our own origin, without and with a foreign token."""

    async def story(visit):
        cookie, _ = await session(visit, "admin")
        _, other = await session(visit, "viewer")
        found = {}
        for method, path in routes(visit.app):
            if method in SAFE or path == "/signin":
                continue
            for token in ({}, {"x-csrf-token": other}):
                answer = await visit(method, path, None, headers=cookie | {"origin": OWN} | token, json={})
                found[f"{method} {path}"] = answer.status_code
        return found

    assert set(visit(story).values()) == {403}


def test_without_the_second_lock_it_would(visit, monkeypatch):
    """Mutation check of the above."""
    monkeypatch.setattr(Authenticator, "check_csrf", lambda *_: None)

    async def story(visit):
        cookie, _ = await session(visit, "admin")
        answer = await visit("POST", "/v1/models/digits/verbs/suspend", None, headers=cookie | {"origin": OWN}, json={})
        return answer.status_code

    assert visit(story) == 202


def test_nobody_sees_anything(visit):
    """Pins that every address but the few open ones wants somebody: 401 for programs, the sign-in page for people."""

    async def story(visit):
        found = {}
        for method, path in routes(visit.app):
            if path not in OPEN_PATHS and not path.startswith(STATIC):
                answer = await visit(method, path, None, headers={"origin": OWN})
                found[f"{method} {path}"] = answer.status_code
        page = await visit("GET", "/", None, headers={"accept": "text/html"})
        return found, (page.status_code, page.headers["location"])

    statuses, page = visit(story)
    assert set(statuses.values()) == {401}
    assert page == (303, "/signin")


LABELER = {"POST /v1/models/digits/labels", "POST /v1/models/digits/corrections", "POST /v1/models/digits/samples"}
ADMIN = {"POST /v1/models/digits/verbs/retrain", "POST /v1/models/digits/samples/forget"}


def test_roles_hold(visit):
    """Pins who may do what: a viewer changes nothing, a labeler steers nothing."""

    async def story(visit):
        found = {}
        for role in Role:
            for line in LABELER | ADMIN:
                method, path = line.split()
                found[role, line] = (await visit(method, path, role, json={})).status_code
        return found

    found = visit(story)
    for (role, line), status in found.items():
        allowed = role >= (Role.ADMIN if line in ADMIN else Role.LABELER)
        assert (status != 403) is allowed, (role, line, status)


def test_every_response_says_how_it_may_be_used(visit):
    """D2: nosniff and a strict policy on everything, errors and pages alike; nothing but static files is kept."""
    says_how_it_may_be_used(visit)


def test_without_the_front_door_no_response_would(visit, monkeypatch):
    """Mutation check of the above."""
    monkeypatch.setattr(frontdoor, "SECURITY", ())
    with pytest.raises(KeyError):
        says_how_it_may_be_used(visit)


def says_how_it_may_be_used(visit):
    async def story(visit):
        asked = [
            ("GET", "/healthz", None),
            ("GET", "/v1/models", Role.VIEWER),
            ("GET", "/v1/nothing", Role.VIEWER),
            ("GET", "/v1/models", None),
        ]
        return [await visit(method, path, role) for method, path, role in asked]

    for answer in visit(story):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


async def bodies(visit):
    """The answers to a body that promises too much, one that is too long, and one that is too slow."""

    async def too_long():
        for _ in range(3):
            yield bytes(50_000)

    async def too_slow():
        yield b"x"
        await asyncio.sleep(2.5)

    path = "/v2/models/digits/infer"
    promised = await visit("POST", path, content=bytes(100_001))
    counted = await visit("POST", path, content=too_long())
    slow = await visit("POST", path, content=too_slow())
    return promised, counted, slow


def test_a_body_is_bounded_in_bytes_and_seconds(visit):
    """D1. Pins 413 by promise and by count, 408 by time; and that the connection is not kept."""
    answers = visit(bodies)
    assert [answer.status_code for answer in answers] == [413, 413, 408]
    assert all(answer.headers["connection"] == "close" for answer in answers)


def test_without_its_bounds_a_body_may_be_anything(visit, monkeypatch):
    """Mutation check of D1: each of the three is taken, and then found to be no image."""
    assert [answer.status_code for answer in visit(bodies, limits=Limits(body_bytes=1 << 30, body_seconds=1.0))] == [
        400, 400, 408,
    ]  # fmt: skip
    monkeypatch.setattr(Deadlines, "add", lambda *_: 0)
    assert [answer.status_code for answer in visit(bodies)] == [413, 413, 400]


@pytest.mark.parametrize("length", ["-1", "1e3", "x"])
def test_a_length_that_is_no_number_is_refused(visit, length):
    async def story(visit):
        return await visit("POST", "/v2/models/digits/infer", headers={"content-length": length})

    assert visit(story).status_code == 413


def test_a_ticket_signs_in_once(visit, clock):
    """Pins the one-time address of `continual dashboard`, also while Redis is away."""

    async def story(visit):
        ticket = visit.app.state.gateway.auth.ticket_for("admin")
        once = await visit("GET", f"/signin/ticket?ticket={ticket}", None)
        again = await visit("GET", f"/signin/ticket?ticket={ticket}", None)
        late = visit.app.state.gateway.auth.ticket_for("admin")
        clock.now += auth.TICKET_SECONDS + 1
        return once, again, await visit("GET", f"/signin/ticket?ticket={late}", None)

    once, again, late = visit(story)
    assert once.headers["location"] == "/"
    assert "httponly" in once.headers["set-cookie"].lower()
    assert "samesite" in once.headers["set-cookie"].lower()
    for refused in (again, late):
        assert "refused" in refused.headers["location"]
        assert "set-cookie" not in refused.headers


def test_signing_in_with_a_token_gives_a_session_of_that_role(visit):
    async def story(visit):
        wrong = await visit("POST", "/signin", None, data={"token": "guess"}, headers={"origin": OWN})
        right = await visit("POST", "/signin", None, data={"token": "labeler" * 10}, headers={"origin": OWN})
        cookie = right.headers["set-cookie"].partition(";")[0]
        return wrong, (await visit("GET", "/v1/whoami", None, headers={"cookie": cookie})).json()

    wrong, who = visit(story)
    assert "refused" in wrong.headers["location"]
    assert (who["name"], who["role"]) == ("labeler", "labeler")


async def cookies_behind_tls(visit):
    """The session cookie of both ways in, where a proxy says that the browser spoke HTTPS."""
    headers = {"origin": "https://gateway.test", "x-forwarded-proto": "https"}
    ticket = visit.app.state.gateway.auth.ticket_for("admin")
    signed_in = await visit("POST", "/signin", None, data={"token": "labeler" * 10}, headers=headers)
    redeemed = await visit("GET", f"/signin/ticket?ticket={ticket}", None, headers=headers)
    return ["; secure" in answer.headers["set-cookie"].lower() for answer in (signed_in, redeemed)]


def test_a_session_begun_over_https_never_travels_in_clear(visit):
    """Pins Secure behind the proxy that ends TLS, and that a stranger's word for it counts nothing."""
    assert visit(cookies_behind_tls, trusted_proxies=read_networks("127.0.0.0/8")) == [True, True]
    assert visit(cookies_behind_tls) == [False, False]
    assert visit(cookies_behind_tls, trusted_proxies=read_networks("10.0.0.0/8")) == [False, False]


def test_the_trusted_header_is_believed_only_where_the_installation_says_so(visit):
    """Pins the role of a known name, viewer for a stranger, and nobody where no header is trusted."""

    async def story(visit):
        found = []
        for name in ("anna@example.org", "stranger"):
            answer = await visit("GET", "/v1/whoami", None, headers={"x-forwarded-user": name})
            found.append((answer.status_code, answer.json().get("role")))
        return found

    assert visit(story) == [(401, None), (401, None)]
    assert visit(story, trusted_header="x-forwarded-user") == [(200, "labeler"), (200, "viewer")]


def test_a_readable_error_names_field_and_remedy(visit):
    async def story(visit):
        return (await visit("GET", "/v2/models/nope")).json()

    assert visit(story) == {
        "error": "model: there is no such model (got 'nope'); known: default.digits", "reason": "NotFound",
        "message": "there is no such model", "field": "model", "remedy": "known: default.digits",
    }  # fmt: skip


def test_metrics_name_routes_and_not_paths(visit):
    """Pins that a stranger's address never becomes a label: a thousand of them are one series."""

    async def story(visit):
        for n in range(5):
            await visit("GET", f"/v2/models/stranger-{n}")
            await visit("GET", f"/nothing/{n}", Role.VIEWER)
        return (await visit("GET", "/metrics", None)).text

    text = visit(story)
    assert "stranger" not in text
    assert "/nothing" not in text
    assert 'route="/v2/models/{model}"' in text
