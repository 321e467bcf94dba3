"""The trio of a stream: produce requests (and their late labels), classify them, consume the predictions.

With a local cluster all is found by itself. With `--redis-url` the three are plain programs around any Redis: no operator, no resource.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from continual_cli.output import Format, OutputOption
from continual_cli.sources import Shape
from continual_cli.target import ModelOption
from continual_cli.verbs.ask import Source

UrlOption = Annotated[
    str | None,
    typer.Option("--redis-url", help="Work on this Redis without a cluster: redis://host:port.", metavar="URL"),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="CONTINUAL_DATA", help="Folder with the named datasets.", metavar="DIR"),
]


class OnFull(StrEnum):
    wait = "wait"
    fail = "fail"


def produce(
    source: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, fashion-mnist, cifar10, a .npz file, a folder of images, or JSON lines (- is stdin)."
        ),
    ],
    rate: Annotated[
        float, typer.Option(help="Requests per second; 0 sends as fast as the stream takes them.", min=0)
    ] = 20.0,
    count: Annotated[
        int | None, typer.Option(help="How many to send; without it, until Ctrl-C (JSON: until the input ends).", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Order of the samples.")] = 0,
    shape: Annotated[Shape, typer.Option(help="What the source is written in.")] = Shape.dataset,
    labels_after: Annotated[
        float | None, typer.Option(help="Send each true class this many seconds after its image.", min=0)
    ] = None,
    label_source: Annotated[Source, typer.Option(help="What those labels say they are.")] = Source.truth,
    dedupe: Annotated[
        str | None,
        typer.Option(
            help="Name of this run: under one name no sample is ever enqueued twice, however often you repeat."
        ),
    ] = None,
    retry_for: Annotated[
        float, typer.Option(help="With --dedupe: seconds to go on trying while Redis is away.", min=0)
    ] = 30.0,
    on_full: Annotated[OnFull, typer.Option(help="What to do when the backlog is full.")] = OnFull.wait,
    backlog_limit: Annotated[
        int, typer.Option(help="Unanswered requests above which nothing more is sent.", min=1)
    ] = 100_000,
    data: DataOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="With --redis-url: the run folder whose input and classes apply.", metavar="RUNDIR"),
    ] = None,
    redis_url: UrlOption = None,
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Send images as requests, and later what they really were.

    JSON lines are `{"id": "17", "image": "<base64 of float32, 0..1>", "label": 3}`; optional `k` (same key, same version) and `t` (event time, ms); other fields travel along as metadata. With --dedupe the id keeps a line from being sent twice.

    Examples:
      continual produce digits --rate 50 --labels-after 5
      continual produce photos/ --count 200 --seed 1
      continual produce test.npz --count 1000 --rate 0 --dedupe monday
      my-camera | continual produce - --shape json-base64-float32
    """
    from continual_cli import producing

    with producing.Peer.open(model, redis_url, checkpoint) as peer:
        options = producing.Options(
            rate=rate, count=count, seed=seed, labels_after=labels_after, label_source=label_source.value,
            dedupe=dedupe, retry_for=retry_for, wait_when_full=on_full is OnFull.wait, backlog_limit=backlog_limit,
        )  # fmt: skip
        producing.produce(peer, peer.items(source, shape, data, seed), options, output)


def consume(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin after this request id; 0 is the beginning. Default: the last 20, or what comes with -f.",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Stop after this many.", min=1)] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Show labels too, as they come: right or wrong, and the running accuracy.")
    ] = False,
    idle: Annotated[
        float | None, typer.Option(help="With -f: stop when nothing came for this many seconds.", min=0.1)
    ] = None,
    redis_url: UrlOption = None,
    model: ModelOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Print predictions: class, confidence, and the version, digest and role that answered.

    Examples:
      continual consume
      continual consume --follow
      continual consume --follow --score          # right/wrong and running accuracy, as labels come
      continual consume --from 0 -o json | jq -r .class | sort | uniq -c
    """
    from continual_cli import consuming, producing

    with producing.Peer.open(model, redis_url, None) as peer:
        options = consuming.Options(follow=follow, start=start, count=count, score=score, idle=idle)
        consuming.consume(peer.redis, peer.keys, options, output)


def serve(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="Run folder of `continual train`.")],
    redis_url: Annotated[
        str, typer.Option("--redis-url", help="redis://host:port", metavar="URL")
    ] = "redis://127.0.0.1:6379",
    model: Annotated[str, typer.Option("--model", "-m", help="Under this name the streams are found.")] = "local",
    version: Annotated[str, typer.Option("--version", help="What the predictions are stamped with: v1, v2 ….")] = "v1",
    batch_size: Annotated[int, typer.Option(help="Largest batch.", min=1, max=1024)] = 64,
) -> None:
    """Answer requests with a trained checkpoint: one inference worker, no cluster, no operator. Ctrl-C ends it.

    A later one with a higher --version takes the stream over without losing a request.

    The middle of the trio: `produce` writes the request stream, `serve` answers it, `consume` prints the predictions.

    Examples:
      redis-server --port 6379 &
      continual train --dataset fashion-mnist --out out/run
      continual serve out/run -m fashion &
      continual produce fashion-mnist --redis-url redis://127.0.0.1:6379 --checkpoint out/run -m fashion --count 100
      continual consume --redis-url redis://127.0.0.1:6379 -m fashion
    """
    from continual_cli import serving

    serving.serve(run, redis_url, model, version, batch_size)
