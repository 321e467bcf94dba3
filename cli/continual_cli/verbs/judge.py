"""Verbs about decisions: what was decided and why, the same decision once more from its evidence, and the gate on trial."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from continual_contract.errors import IntegrityError

from continual_cli.output import Format, OutputOption, dump, emit, print_table
from continual_cli.target import ModelOption, Target

DECISION_HEADS = ("Seq", "Time", "Version", "Action", "Verdict", "Reason", "By", "Message")
SIMULATE_HEADS = ("Claim", "Figure", "Goal", "Holds", "Detail")

decisions_app = typer.Typer(invoke_without_command=True)
simulate_app = typer.Typer(no_args_is_help=True, help="Put the statistics on trial.")


@decisions_app.callback()
def decisions(
    context: typer.Context,
    model: ModelOption = None,
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest last.", min=1)] = 50,
    output: OutputOption = Format.table,
) -> None:
    """List the ledger: every decision with its reason, counts and bounds.

    Examples:
      continual decisions
      continual decisions -o json | jq '.[-1]'
      continual decisions replay
    """
    if context.invoked_subcommand is None:
        from continual_cli import ledger

        entries = ledger.read(Target.open(model))[-limit:]
        emit(output, entries, DECISION_HEADS, map(ledger.row, entries))


@decisions_app.command()
def replay(
    sequence: Annotated[
        int | None, typer.Argument(metavar="[SEQ]", help="One decision of the ledger; else all with evidence.")
    ] = None,
    gate_file: Annotated[
        Path | None,
        typer.Option(
            "--gate-file",
            help="Judge by another policy: fields of rollout.gate, parts of rollout, or a whole ContinualModel.",
            metavar="FILE",
        ),
    ] = None,
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Decide again from the stored evidence. Same evidence and gate, same verdict and numbers, bit for bit; else exit code 6.

    With --gate-file: what another gate would have decided.

    Examples:
      continual decisions replay
      continual decisions replay 12
      continual decisions replay --gate-file strict.yaml
    """
    from continual_cli import ledger

    replayed = [ledger.replay(one, gate_file) for one in ledger.judged(Target.open(model), sequence)]
    emit(output, [asdict(one) for one in replayed], ledger.REPLAY_HEADS, [one.row() for one in replayed])
    different = [one for one in replayed if not one.same]
    if different and gate_file is None:
        first = different[0]
        raise IntegrityError(
            f"{len(different)} of {len(replayed)} decisions come out differently",
            field=f"decision {first.sequence}",
            value=first.verdict,
            remedy=f"the ledger says {first.recorded}; was the evidence changed?",
        )


@simulate_app.command()
def gate(
    runs: Annotated[int, typer.Option(help="Simulated canaries per line.", min=10)] = 10_000,
    margin: Annotated[float, typer.Option(help="rollout.gate.margin", min=0.0, max=0.5)] = 0.02,
    alpha: Annotated[float, typer.Option(help="rollout.gate.alpha", min=0.0001, max=0.5)] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    output: OutputOption = Format.table,
) -> None:
    """Simulate canaries with a look after every label: false promotions, labels to promote, labels to roll back.

    Exit code 1 when a claim does not hold. Ten thousand runs take about a minute.

    Examples:
      continual simulate gate
      continual simulate gate --runs 2000 --margin 0.03
    """
    from continual_workers.evaluation.simulate import simulate_gate

    rows = simulate_gate(runs, margin, alpha, seed)
    data: list[dict[str, Any]] = [asdict(row) for row in rows]
    if output is Format.table:
        print_table(SIMULATE_HEADS, ((r.name, float(r.value), r.goal, r.holds, r.detail) for r in rows))
    else:
        print(dump(output, data))
    if any(row.holds is False for row in rows):
        raise typer.Exit(1)
