"""Proofs of who somebody is: what is believed, for how long, and what is not."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from continual_contract.errors import UsageError
from continual_gateway.auth import COOKIE, SESSION_SECONDS, Authenticator, check_origin, is_encrypted, make_ticket
from continual_gateway.errors import ForbiddenError, UnauthenticatedError
from continual_gateway.roles import Role, role_named
from continual_gateway.settings import Token, read_networks, read_settings


@pytest.fixture
def auth(gateway_settings, clock):
    return Authenticator(gateway_settings, clock)


def cookie(auth, name="labeler"):
    return {"cookie": f"other=1; {COOKIE}={auth.session_for(name)}; more=2"}


def test_a_token_is_known_by_its_digest(auth):
    who = auth.identify({"authorization": "Bearer " + "admin" * 10})
    assert (who.name, who.role, who.how) == ("admin", Role.ADMIN, "token")


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer guess", "Basic " + "admin" * 10, "admin" * 10])
def test_a_wrong_token_is_nobody_whatever_cookie_comes_with_it(auth, header):
    """Pins that a bad Authorization is an error, never a fall back to another way in."""
    with pytest.raises(UnauthenticatedError):
        auth.identify({"authorization": header} | cookie(auth))


def test_a_session_lasts_its_time(auth, clock):
    headers = cookie(auth)
    assert auth.identify(headers).name == "labeler"
    clock.now += SESSION_SECONDS + 1
    assert auth.identify(headers) is None


def test_a_changed_cookie_is_nobody(auth):
    """Pins the signature: any changed character, another key, another purpose."""
    value = auth.session_for("viewer")
    for place in range(0, len(value), 7):
        changed = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
        assert auth.identify({"cookie": f"{COOKIE}={changed}"}) is None
    assert auth.identify({"cookie": f"{COOKIE}={auth.ticket_for('viewer')}"}) is None
    for junk in ("", ".", "a.b", "x" * 5000, "\udc80"):
        assert auth.identify({"cookie": f"{COOKIE}={junk}"}) is None


def test_a_session_ends_with_its_token(auth, gateway_settings, clock):
    """Pins revocation: who is taken out of the tokens file is signed out, and a changed role counts at once."""
    headers = cookie(auth, "admin")
    left = tuple(token for token in gateway_settings.tokens if token.name != "admin")
    assert Authenticator(replace(gateway_settings, tokens=left), clock).identify(headers) is None
    demoted = (*left, Token("admin", Role.VIEWER, hashlib.sha256(b"x").hexdigest()))
    assert Authenticator(replace(gateway_settings, tokens=demoted), clock).identify(headers).role is Role.VIEWER


def test_another_installations_key_opens_nothing(auth, gateway_settings, clock):
    other = Authenticator(replace(gateway_settings, session_key=b"o" * 32), clock)
    assert auth.identify(cookie(other)) is None
    assert auth.redeem(make_ticket(b"o" * 32, "admin", clock())) is None
    assert auth.redeem(make_ticket(gateway_settings.session_key, "admin", clock()))[0] == "admin"


def test_a_forms_token_belongs_to_its_session(auth):
    one, two = auth.identify(cookie(auth)), auth.identify(cookie(auth))
    auth.check_csrf(one, auth.csrf_token(one))
    for wrong in ("", auth.csrf_token(two), "é"):
        with pytest.raises(ForbiddenError):
            auth.check_csrf(one, wrong)


OWN = {"host": "gateway.test"}


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("GET", {"origin": "http://evil.test"}, True),
        ("POST", {"origin": "http://gateway.test"}, True),
        ("POST", {"origin": "https://gateway.test"}, True),
        ("POST", {"referer": "http://gateway.test/models/x"}, True),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("POST", {"authorization": "Bearer x", "origin": "http://evil.test"}, True),
        ("POST", {}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://evil.test"}, False),
        ("POST", {"origin": "http://gateway.test.evil.test"}, False),
        ("POST", {"origin": "http://gateway.test:81"}, False),
        ("POST", {"origin": "http://evil.test", "referer": "http://gateway.test/"}, False),
        ("POST", {"referer": "http://evil.test/http://gateway.test"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {"origin": "http://evil.test", "sec-fetch-site": "same-origin"}, False),
        ("DELETE", {"origin": "http://evil.test"}, False),
        ("PUT", {"sec-fetch-site": "same-site"}, False),
    ],
)
def test_a_change_comes_from_our_own_pages(method, headers, allowed):
    """D3. A browser never sends Authorization by itself, so a request with it is no foreign page's."""
    if allowed:
        check_origin(method, OWN | headers)
    else:
        with pytest.raises(ForbiddenError):
            check_origin(method, OWN | headers)


PROXIES = read_networks("10.0.0.0/8, 192.168.1.7, fd00::/8")


@pytest.mark.parametrize(
    ("scheme", "peer", "said", "encrypted"),
    [
        ("https", "203.0.113.5", None, True),
        ("http", "10.1.2.3", "https", True),
        ("http", "192.168.1.7", "HTTPS", True),
        ("http", "fd00::1", "https", True),
        ("http", "::ffff:10.1.2.3", "https", True),
        ("http", "10.1.2.3", "http, https", True),
        ("http", "10.1.2.3", None, False),
        ("http", "10.1.2.3", "http", False),
        ("http", "10.1.2.3", "https, http", False),
        ("http", "192.168.1.8", "https", False),
        ("http", "203.0.113.5", "https", False),
        ("http", "", "https", False),
    ],
)
def test_only_a_trusted_proxy_says_that_the_browser_spoke_https(scheme, peer, said, encrypted):
    headers = {} if said is None else {"x-forwarded-proto": said}
    assert is_encrypted(scheme, peer, headers, PROXIES) is encrypted
    assert is_encrypted(scheme, peer, headers, ()) is (scheme == "https")


def environment(folder, **changes):
    (folder / "tokens.json").write_text('[{"name": "a", "role": "admin", "sha256": "' + "0" * 64 + '"}]')
    (folder / "key").write_text("k" * 40 + "\n")
    return {
        "CONTINUAL_REDIS_URL": "redis://r:6379/0", "CONTINUAL_STORE_URL": "file:///s",
        "CONTINUAL_GATEWAY_TOKENS_FILE": str(folder / "tokens.json"), "CONTINUAL_GATEWAY_SESSION_KEY_FILE": str(folder / "key"),
        **changes,
    }  # fmt: skip


def test_settings_are_read_from_the_environment(tmp_path):
    found = read_settings(environment(
        tmp_path, CONTINUAL_GATEWAY_ADDRESS="0.0.0.0:8080", CONTINUAL_GATEWAY_TRUSTED_HEADER="X-Forwarded-User",
        CONTINUAL_WATCH_NAMESPACES="a, b", CONTINUAL_GATEWAY_BACKLOG="7",
    ))  # fmt: skip
    assert (found.host, found.port, found.trusted_header) == ("0.0.0.0", 8080, "x-forwarded-user")
    assert (found.namespaces, found.limits.backlog, found.session_key) == (("a", "b"), 7, b"k" * 40)
    assert read_settings(environment(tmp_path, CONTINUAL_WATCH_NAMESPACES="*")).namespaces == ()


def test_no_secret_is_in_a_settings_spelling(tmp_path):
    """Pins that a settings object may be logged."""
    found = read_settings(environment(tmp_path, CONTINUAL_GATEWAY_WEBHOOK_URL="https://hook.test/secret"))
    assert "secret" not in repr(found)
    assert "kkkk" not in repr(found)
    assert "0" * 20 not in repr(found)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"CONTINUAL_REDIS_URL": ""}, "CONTINUAL_REDIS_URL"),
        ({"CONTINUAL_GATEWAY_ADDRESS": "8080"}, "CONTINUAL_GATEWAY_ADDRESS"),
        ({"CONTINUAL_GATEWAY_TOKENS_FILE": ""}, "CONTINUAL_GATEWAY_TOKENS_FILE"),
        ({"CONTINUAL_GATEWAY_TOKENS_FILE": "/nowhere"}, "CONTINUAL_GATEWAY_TOKENS_FILE"),
        ({"CONTINUAL_GATEWAY_SESSION_KEY_FILE": ""}, "CONTINUAL_GATEWAY_SESSION_KEY_FILE"),
        ({"CONTINUAL_GATEWAY_WEBHOOK_URL": "ftp://x"}, "CONTINUAL_GATEWAY_WEBHOOK_URL"),
        ({"CONTINUAL_GATEWAY_BACKLOG": "many"}, "CONTINUAL_GATEWAY_BACKLOG"),
        ({"CONTINUAL_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "CONTINUAL_GATEWAY_TRUSTED_PROXIES"),
        ({"CONTINUAL_GATEWAY_TRUSTED_PROXIES": "10.0.0.1/8"}, "CONTINUAL_GATEWAY_TRUSTED_PROXIES"),
        ({"CONTINUAL_GATEWAY_ANSWER_SECONDS": "-1"}, "CONTINUAL_GATEWAY_ANSWER_SECONDS"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, changes, field):
    with pytest.raises(UsageError) as caught:
        read_settings(environment(tmp_path, **changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '[{"name": "a"}]',
        '[{"name": "a", "role": "king"}]',
        '[{"name": "a", "role": "admin", "sha256": "x"}]',
        "no json",
    ],
)
def test_a_wrong_tokens_file_is_refused(tmp_path, text):
    variables = environment(tmp_path)
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(UsageError):
        read_settings(variables)


def test_roles_hold_those_before_them():
    assert Role.VIEWER < Role.LABELER < Role.ADMIN
    assert role_named("labeler") is Role.LABELER
