"""Tells a broken test from a disturbed one: the few that failed are tried once more, alone.

Three thousand tests with real servers share two cores with strangers in CI, and one disturbed second would hide what
all the others say. What fails twice is broken. What passes the second time is named in the output and is a fault to
mend all the same. Never forgiven: the exactly-once tests, where one failure in a hundred runs is the finding, and failures
in more than a few files.

Reads pytest's own list of the last failures (cache/lastfailed); without one, nothing is forgiven.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
AT_MOST = 3
"""Files: a server that did not come up fails all tests of its file."""
NEVER = ("tests/unit/", "tests/conformance/", "tests/integration/streams/")


def refusal(failed: list[str]) -> str | None:
    """Why these failures are final; None if they may be tried again."""
    if not failed:
        return "no test is on record as failed: what failed was something else"
    if len(files := {test.partition("::")[0] for test in failed}) > AT_MOST:
        return f"tests failed in {len(files)} files; those of at most {AT_MOST} are tried again"
    if final := [test for test in failed if test.startswith(NEVER)]:
        return "not tried again, since a single failure counts: " + ", ".join(final)
    return None


def main() -> int:
    failed = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    if why := refusal(failed):
        print(f"again: {why}")
        return 1
    print("again: tried once more, alone:", *failed, sep="\n  ", flush=True)
    code = subprocess.run([sys.executable, "-m", "pytest", *failed], check=False).returncode
    verdict = "failed twice" if code else "passed only when tried again; each is a fault to mend"
    print(f"again: {verdict}:", *failed, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main())
