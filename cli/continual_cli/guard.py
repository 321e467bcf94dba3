"""One place where everything that can go wrong becomes a line on stderr and an exit code.

A person who mistypes a class, or whose Redis is down, reads a sentence that names the field, the value and the remedy; never a
traceback. The codes are those of `continual_contract.errors`, plus 130 for Ctrl-C, and are documented in `docs/cli.md`.
Only errors with an author are caught: a bug of ours still shows its traceback, because hiding it would help nobody.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from continual_contract.errors import ContinualError
from typer._completion_classes import completion_init
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit, TyperException

from continual_cli.where import hoisted

INTERRUPTED = 130
BROKEN_PIPE = 141
UNAVAILABLE = 4
USAGE = 2
FAILED = 1


class GuardedGroup(TyperGroup):
    """The root command: like Typer's, but its `main` ends in `guarded`, under CliRunner too."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = hoisted(sys.argv[1:] if args is None else args)

        def call() -> Any:
            return super(GuardedGroup, self).main(
                words, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args, **extra
            )

        if any(name.endswith("_COMPLETE") for name in os.environ):
            completion_init()
        if not standalone_mode:
            return call()
        sys.exit(guarded(call))


def guarded(call: Callable[[], Any]) -> int:
    """Run `call`; return its exit code, having written one line per problem to stderr."""
    try:
        result = call()
    except (KeyboardInterrupt, Abort):
        return INTERRUPTED
    except Exit as ended:
        return int(ended.exit_code)
    except BrokenPipeError:
        return silence_stdout()
    except (ContinualError, TyperException, OSError) as error:
        return explain(error)
    except redis_errors() as error:
        return complain(redis_line(error), UNAVAILABLE)
    return result if isinstance(result, int) else 0


def explain(error: ContinualError | TyperException | OSError) -> int:
    if isinstance(error, ContinualError):
        return complain(error.describe(), error.exit_code)
    if isinstance(error, TyperException):
        return complain(usage_line(error), int(getattr(error, "exit_code", USAGE)))
    return complain(os_line(error), FAILED)


def complain(text: str, code: int) -> int:
    """Write each problem on a line of its own."""
    for line in filter(None, map(str.strip, text.splitlines())):
        print(f"error: {line}", file=sys.stderr)
    return code


def usage_line(error: TyperException) -> str:
    """A wrong option or argument, with the command whose help explains it."""
    say = getattr(error, "format_message", None)
    message = " ".join(str(say() if say else error).split())
    context = getattr(error, "ctx", None)
    if context and not message:
        return f"say which of its verbs (see `{context.command_path} --help`)"
    return f"{message} (see `{context.command_path} --help`)" if context else message


def os_line(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def redis_errors() -> tuple[type[Exception], ...]:
    """What redis-py raises, if anybody has imported it: asked at the last moment, so that `--help` never loads the client."""
    module = sys.modules.get("redis.exceptions")
    return (module.RedisError,) if module else ()


def redis_line(error: Exception) -> str:
    return f"redis: {error}; see `continual local status`, or check --redis-url"


def silence_stdout() -> int:
    """`continual consume | head` ends quietly, without Python's own complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
