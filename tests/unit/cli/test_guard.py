"""Everything that goes wrong is a line on stderr and a documented exit code; a start is quick."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from continual_cli.app import app
from continual_cli.guard import guarded
from continual_contract import errors
from typer.main import get_command

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ContinualError)]


def raising(error: BaseException):
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_of_our_errors_is_its_exit_code_and_one_line(kind, capsys):
    """Pins field, value and remedy on one line, and the code of the family tree."""
    assert guarded(raising(kind("is wrong", field="f", value=1, remedy="right it"))) == kind.exit_code
    assert capsys.readouterr().err == "error: f: is wrong (got 1); right it\n"


def test_a_redis_that_is_away_is_exit_4_without_a_traceback(capsys):
    assert guarded(raising(redis.ConnectionError("Connection refused"))) == 4
    assert (
        capsys.readouterr().err
        == "error: redis: Connection refused; see `continual local status`, or check --redis-url\n"
    )


def test_ctrl_c_is_130_and_silent(capsys):
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_of_ours_is_not_hidden():
    """Pins that only errors with an author are turned into lines."""
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_several_problems_are_several_lines(capsys):
    guarded(raising(errors.InvalidSpecError("a: is wrong; do b\nc: is wrong; do d")))
    assert capsys.readouterr().err == "error: a: is wrong; do b\nerror: c: is wrong; do d\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("get", "--frob"), "No such option: --frob"),
        (("predict",), "Missing argument 'FILE...'"),
        (("get", "-o", "xml"), "Invalid value for '--output'"),
    ],
)
def test_wrong_usage_is_exit_2_and_one_line(run, words, said):
    result = run(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def commands() -> list[list[str]]:
    def walk(command, path):
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    return list(walk(get_command(app), []))


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_verb_teaches_by_example(run, path):
    """Pins that each --help works, has a sentence, and (groups aside) an example that names the verb."""
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "\x1b[" not in result.stdout, "colour without a terminal"
    if path and path[0] != "local" and path not in (["dead"], ["simulate"]):
        assert f"continual {path[0]}" in result.stdout or "continual completion" in result.stdout
        assert "Examples:" in result.stdout


def test_help_opens_quickly_and_loads_nothing_heavy():
    """Pins that --help imports neither torch nor a client nor pydantic: what is not loaded costs nothing."""
    code = (
        "import sys; from continual_cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'redis', 'pydantic', 'numpy', 'onnxruntime', 'minio', 'kopf', 'scipy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dead",), "error: say which of its verbs (see `continual dead --help`)\n"),
        (
            ("completion",),
            "error: Missing argument 'shell'. Choose from: bash, zsh, fish (see `continual completion --help`)\n",
        ),
    ],
)
def test_half_a_command_is_one_line_on_stderr(run, words, said):
    result = run(*words)
    assert (result.exit_code, result.stderr) == (2, said)


def test_exit_codes_are_documented():
    """Pins that docs/cli.md names every error with the code it really has."""
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    table = dict(re.findall(r"\| `(\w+Error)` \| (\d+) \|", text))
    assert table == {kind.__name__: str(kind.exit_code) for kind in KINDS}


def test_every_verb_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for path in commands():
        if path:
            assert f"`continual {' '.join(path)}" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_name_it_is_called_by(run, shell):
    """Pins that nothing depends on the name: the same program is `kubectl continual`."""
    for name in ("continual", "kubectl-continual"):
        script = run("completion", shell, "--command", name).stdout
        assert name in script
        assert f"_{name.replace('-', '_').upper()}_COMPLETE" in script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("continual pro", {"produce", "promote"}),
        ("continual promote v", {"v6", "v7", "v8"}),
        ("continual describe di", {"digits"}),
    ],
)
def test_the_shell_is_offered_verbs_versions_and_models(run, digits, monkeypatch, typed, offered):
    """Pins that the script of `completion bash` gets answers: verbs, and what is in the home."""
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    monkeypatch.setenv("_CONTINUAL_COMPLETE", "complete_bash")
    assert set(run(prog_name="continual").stdout.split()) == offered
