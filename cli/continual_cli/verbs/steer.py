"""Verbs that steer: they write an annotation or one field of the spec, exactly what `kubectl annotate` and `kubectl patch` would.

The operator acts on them; nothing here touches a worker, Redis or the store. A one-shot verb carries the time it was given, so that
giving it again is a new wish; a field that already has the value is left alone, so that giving it again is nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from continual_contract.errors import NotFoundError, UsageError

from continual_cli import person
from continual_cli.document import dig, put
from continual_cli.output import Format, OutputOption, say
from continual_cli.target import ModelArgument, ModelOption, Target, complete_version, note_remark

PREFIX = "continual.dev/"
VersionArgument = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="A version, as `continual history` lists it: v8.", autocompletion=complete_version
    ),
]


def retrain(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Ask for a training now, whatever the triggers say.

    The operator starts one Job as soon as none is in flight; cooldown is skipped, `retraining.maxPerDay` is not.

    Examples:
      continual retrain
      continual retrain digits && continual get --watch
    """
    target = Target.open(model)
    request(target, "retrain-requested-at", now())
    say(output, f"{target.name}: training requested", {"model": target.name, "requested": "retrain"})


def promote(version: VersionArgument, model: ModelOption = None, output: OutputOption = Format.table) -> None:
    """Make a version stable by hand.

    After its gate has passed this is the approval; before, the ledger says `Forced`, and who did it.

    Examples:
      continual promote v8
      continual promote v8 --model digits
    """
    target = Target.open(model)
    known_version(target, version)
    if version == dig(target.document, "status.stable.version"):
        say(output, f"{target.name}: {version} is stable already", answer(target, "promote", version, requested=False))
        return
    one_shot(target, "promote", version, output, f"promotion of {version} requested")


def approve(version: VersionArgument, model: ModelOption = None, output: OutputOption = Format.table) -> None:
    """Approve a candidate that waits because of `rollout.gate.requireApproval`.

    Examples:
      continual approve v8
    """
    target = Target.open(model)
    known_version(target, version)
    one_shot(target, "approve", version, output, f"approval of {version} requested")


def reject(version: VersionArgument, model: ModelOption = None, output: OutputOption = Format.table) -> None:
    """Reject a candidate: it leaves the stream, and its digest is remembered so that it never comes back by itself.

    Examples:
      continual reject v8
    """
    target = Target.open(model)
    known_version(target, version)
    one_shot(target, "reject", version, output, f"rejection of {version} requested")


def readmit(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:… of a rejected checkpoint.")],
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Forget that a checkpoint was rejected, so that it may become a candidate again.

    Examples:
      continual history -o json        # shows the digests
      continual readmit sha256:0123…
    """
    target = Target.open(model)
    if not digest.startswith("sha256:") or len(digest) != 71:
        raise UsageError("not a digest", field="digest", value=digest, remedy="give sha256: and 64 hexadecimal digits")
    request(target, "readmit", f"{digest}@{now()}")
    say(output, f"{target.name}: {digest} readmitted", {"model": target.name, "requested": "readmit", "digest": digest})


def rollback(
    model: ModelArgument = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Hold this version instead of the previous one (a pin).")
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Go back: to the version that was stable before, or with --to to any kept one.

    During a canary or probation the version under judgement leaves the stream at once. With --to the version is pinned: nothing replaces it until `continual unpin`.

    Examples:
      continual rollback
      continual rollback --to v3
    """
    target = Target.open(model)
    if to is not None:
        known_version(target, to)
        set_field(target, "spec.rollout.pinnedVersion", to)
        say(output, f"{target.name}: pinned to {to}", answer(target, "rollback", to))
        return
    request(target, "rollback-requested-at", now())
    say(output, f"{target.name}: rollback requested", {"model": target.name, "requested": "rollback"})


def pin(version: VersionArgument, model: ModelOption = None, output: OutputOption = Format.table) -> None:
    """Hold a version: it serves, and no candidate replaces it until `continual unpin`.

    Examples:
      continual pin v3
    """
    target = Target.open(model)
    known_version(target, version)
    set_field(target, "spec.rollout.pinnedVersion", version)
    say(output, f"{target.name}: pinned to {version}", answer(target, "pin", version))


def unpin(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Let rollouts go on after a pin.

    Examples:
      continual unpin
    """
    target = Target.open(model)
    set_field(target, "spec.rollout.pinnedVersion", None)
    say(output, f"{target.name}: not pinned", {"model": target.name, "requested": "unpin"})


def suspend(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Stop training and rollout decisions; serving goes on.

    Examples:
      continual suspend
    """
    target = Target.open(model)
    set_field(target, "spec.suspend", True)
    say(output, f"{target.name}: suspended; serving goes on", {"model": target.name, "suspend": True})


def resume(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Take up training and rollout decisions again.

    Examples:
      continual resume
    """
    target = Target.open(model)
    set_field(target, "spec.suspend", False)
    say(output, f"{target.name}: resumed", {"model": target.name, "suspend": False})


def cancel(model: ModelArgument = None, output: OutputOption = Format.table) -> None:
    """Cancel the training in flight. Its data waits for the next one.

    Examples:
      continual cancel
    """
    target = Target.open(model)
    request(target, "cancel-training-requested-at", now())
    say(output, f"{target.name}: cancellation requested", {"model": target.name, "requested": "cancel"})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def one_shot(target: Target, verb: str, version: str, output: Format, sentence: str) -> None:
    request(target, verb, f"{version}@{now()}")
    say(output, f"{target.name}: {sentence}", answer(target, verb, version))


def answer(target: Target, verb: str, version: str, *, requested: bool = True) -> dict[str, Any]:
    return {"model": target.name, "verb": verb, "version": version, "requested": requested}


def request(target: Target, verb: str, value: str) -> None:
    """Write the annotation of a one-shot verb, and who asked."""

    def write(document: dict[str, Any]) -> dict[str, Any]:
        annotations = document.setdefault("metadata", {}).setdefault("annotations", {})
        annotations[PREFIX + verb] = value
        annotations[PREFIX + "requested-by"] = person.name()
        return document

    target.world.update_model(target.name, write)
    note_remark(target.world)


def set_field(target: Target, path: str, value: Any) -> None:
    """Write one field of the spec; None removes it."""
    target.world.update_model(target.name, lambda document: put(document, path, value))
    note_remark(target.world)


def known_version(target: Target, version: str) -> None:
    """Errors: NotFoundError naming the versions there are."""
    names = versions_of(target)
    if version not in names:
        listed = ", ".join(names) if names else "none yet: wait for the first training"
        raise NotFoundError("no such version", field="version", value=version, remedy=f"known: {listed}")


def versions_of(target: Target) -> list[str]:
    """Every version the status knows, oldest first."""
    listed = [str(entry.get("version")) for entry in dig(target.document, "status.versions", [])]
    roles = (dig(target.document, f"status.{role}.version") for role in ("stable", "canary", "probation"))
    return list(dict.fromkeys([*listed, *(str(version) for version in roles if version)]))
