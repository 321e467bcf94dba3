"""Which world a verb works on: the local cluster of this machine, or a Kubernetes cluster.

A production cluster must never be met by surprise, so nothing is guessed from a kubeconfig that happens to lie there. `continual` means
this machine; `kubectl continual` means what kubectl means; and whoever names a namespace, a context or a kubeconfig means a cluster.
The options stand before or after the verb, as kubectl's do, because kubectl hands its plug-ins everything after their name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from continual_contract import settings
from continual_contract.errors import UsageError

from continual_cli.local.paths import HOME_VARIABLE

TargetKind = Literal["local", "kubernetes"]
TARGET_VARIABLE = "CONTINUAL_TARGET"
IN_A_POD = "KUBERNETES_SERVICE_HOST"
PLUG_IN = "kubectl-continual"


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of the command line, None where not given."""

    target: str | None = None
    home: Path | None = None
    context: str | None = None
    namespace: str | None = None
    kubeconfig: Path | None = None
    redis_url: str | None = None
    redis_username: str | None = None
    redis_password_file: Path | None = None
    store_url: str | None = None
    store_credentials_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """The world of this call. Addresses are those the user gave: a cluster's Redis is not reachable by itself."""

    kind: TargetKind = "local"
    asked: bool = False
    """Whether somebody said so; else it is the default."""
    context: str | None = None
    namespace: str | None = None
    kubeconfig: Path | None = None
    redis_url: str | None = None
    redis_username: str | None = None
    redis_password_file: Path | None = None
    store_url: str | None = None
    store_credentials_file: Path | None = None


def decide(wishes: Wishes, environ: Mapping[str, str], program: str) -> Where:
    """The world meant by these options, this environment and the name under which the command was called.

    Errors: UsageError when they contradict each other.
    """
    kind, asked = _kind(wishes, environ, Path(program).name)
    if kind == "local":
        return Where(asked=asked)
    return Where(
        kind, asked, wishes.context, wishes.namespace, wishes.kubeconfig,
        redis_url=wishes.redis_url or environ.get(settings.REDIS_URL),
        redis_username=wishes.redis_username or environ.get(settings.REDIS_USERNAME),
        redis_password_file=wishes.redis_password_file or _path(environ, settings.REDIS_PASSWORD_FILE),
        store_url=wishes.store_url or environ.get(settings.STORE_URL),
        store_credentials_file=wishes.store_credentials_file or _path(environ, settings.STORE_CREDENTIALS_FILE),
    )  # fmt: skip


def _kind(wishes: Wishes, environ: Mapping[str, str], program: str) -> tuple[TargetKind, bool]:
    in_a_cluster = program == PLUG_IN or (IN_A_POD in environ and HOME_VARIABLE not in environ)
    naming, addresses = _given(wishes, NAMING), _given(wishes, ADDRESSES)
    said = wishes.target or (None if naming or wishes.home else environ.get(TARGET_VARIABLE))
    if said not in {None, "local", "kubernetes"}:
        raise UsageError("is not a target", field="--target", value=said, remedy="use local or kubernetes")
    cluster = said == "kubernetes" or (said is None and (naming or (in_a_cluster and wishes.home is None)))
    if cluster and wishes.home is None:
        return "kubernetes", bool(said or naming)
    if naming or addresses or cluster:
        raise UsageError(
            "is for a Kubernetes cluster, and this call is for the local one",
            field=(naming or addresses or ["--target"])[0],
            remedy="leave --home and --target local out and name the cluster (-n NAMESPACE), or leave this out",
        )
    return "local", bool(said or wishes.home)


NAMING = ("context", "namespace", "kubeconfig")
ADDRESSES = ("redis_url", "redis_username", "redis_password_file", "store_url", "store_credentials_file")
"""Options that only make sense in a cluster but do not choose it: whoever gives an address has not said which cluster."""


def _given(wishes: Wishes, names: Sequence[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(wishes, name) is not None]


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


# Options after the verb

VALUED = (
    "--target", "--home", "--context", "--namespace", "-n", "--kubeconfig", "--redis-url", "--redis-username",
    "--redis-password-file", "--store-url", "--store-credentials-file",
)  # fmt: skip
OWN_MEANING = {"produce": {"--redis-url"}, "consume": {"--redis-url"}, "serve": {"--redis-url"}}
"""Options that a verb has itself under the same name."""
UNTOUCHED = {"local", "train", "completion"}
"""Verbs that have no cluster, and options of their own."""


def hoisted(words: Sequence[str]) -> list[str]:
    """The words of a command line with the options that say where it works put before the verb; what follows `--` stays."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        verb = next((one for one in rest if not one.startswith("-")), None)
        if word == "--" or verb in UNTOUCHED:
            rest += [word, *waiting]
            break
        name, has_value, _ = word.partition("=")
        if name not in VALUED or name in OWN_MEANING.get(verb or "", ()):
            rest.append(word)
            continue
        front.append(word)
        if not has_value and waiting:
            front.append(waiting.pop(0))
    return front + rest


class _Now:
    """The world of this process: one command, one world. `settle` is called by the root command before every verb."""

    where = Where()


def settle(where: Where) -> None:
    _Now.where = where


def here() -> Where:
    return _Now.where
