"""`make bench-learning` in small: the product's own figures, reproducible row by row, on other sets too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from continual_contract.artifacts import Augmentation
from continual_workers.training.datasets import digits_images
from continual_workers.training.state import decode_checkpoint

from benchmarks.learning.__main__ import NOT_QUICK, main
from benchmarks.learning.lifelong import bootstrap, next_version, recipe
from benchmarks.learning.worlds import World, parts


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`--quick` once."""
    out = tmp_path_factory.mktemp("bench")
    assert main(["--quick", "--out", str(out)]) == 0
    return out


def table(out: Path) -> dict[str, dict]:
    return {line["what"]: line for line in json.loads((out / "table.json").read_text())}


def test_quick_prints_every_kind_of_row_and_meets_what_it_judges(quick: Path) -> None:
    """One seed, three epochs: replay already keeps nine digits in ten, drift, signals, gate and resume meet their goals in full."""
    lines = table(quick)
    assert lines["Job, class, M=200, augmented"]["mean"] > 90
    assert lines["online, class, M=200, ACC"]["mean"] > 88
    assert lines["online, rot, M=200, WC-ACC"]["mean"] > 80
    judged = [line for line in lines.values() if line["holds"] is not None]
    assert {line["row"] for line in judged} == {"drift", "signals", "resume", "gate"}
    assert all(line["holds"] for line in judged)
    assert {"table.txt", "table.csv", "cache.jsonl", "online.png", "drift.png"} <= {p.name for p in quick.iterdir()}


def test_a_row_alone_reproduces_its_figures(quick: Path, tmp_path: Path) -> None:
    """`--only` with an empty cache: the same numbers to the last digit."""
    assert main(["--quick", "--only", "job-class", "--out", str(tmp_path)]) == 0
    alone, together = table(tmp_path), table(quick)
    assert set(alone) == {"Job, class, M=100, augmented", "Job, class, M=200, augmented"}
    assert all(together[what] == line for what, line in alone.items())


@pytest.mark.long
@pytest.mark.parametrize("row", sorted(NOT_QUICK))
def test_every_row_can_be_measured_alone(tmp_path: Path, row: str) -> None:
    """`--quick --only ROW` for the rows that `--quick` leaves out: its lines, finite, unjudged at three epochs."""
    assert main(["--quick", "--only", row, "--out", str(tmp_path)]) == 0
    lines = table(tmp_path)
    assert lines
    assert {line["row"] for line in lines.values()} == {row}
    assert all(np.isfinite(line["mean"]) and line["holds"] is None for line in lines.values())


def test_an_experience_of_the_benchmark_is_a_job_weight_for_weight(lab) -> None:
    """The same digits through store, shards, data list and manifest: equal weights, equal buffer, first and second time."""
    train, _ = parts(World())
    lab.images, lab.labels = train.images, train.labels
    first, second = np.flatnonzero(train.labels < 5)[:150], np.flatnonzero(train.labels >= 5)[:150]
    drawn = Augmentation(shift_pixels=0.4, rotate_degrees=5, scale_percent=5)
    common = {"holdout_percent": 0.0, "replay_capacity": 60, "augmentation": drawn, "epochs": 2, "seed": 7}
    begun = lab.manifest(lab.train(lab.bootstrap_inputs(first, **common)))
    inputs = lab.retrain_inputs(begun.digest(), (lab.shard(second),), **common)
    done = lab.manifest(lab.train(inputs))
    how = recipe(World(), 7, {"epochs": 2})
    here = bootstrap(World(), how, train.take(first), 60, longer=True)
    there = next_version(World(), how, here, train.take(second), [])
    for version, manifest in ((here, begun), (there, done)):
        state = decode_checkpoint(
            lab.registry.get_blob(manifest.state), lab.registry.get_blob(manifest.state_meta), None
        )
        assert {n: a.tobytes() for n, a in version.weights.items()} == {
            n: a.tobytes() for n, a in state.weights.items()
        }
        assert version.buffer.images.tobytes() == state.buffer.images.tobytes()


def test_the_same_harness_runs_on_original_files(tmp_path: Path) -> None:
    """`--dataset mnist --data DIR` reads the IDX files torchvision knows; no goals are claimed there."""
    from continual_contract.artifacts import InputShape

    images, labels = digits_images(InputShape(height=28, width=28, channels=1))
    for part, chosen in (("train", slice(0, 500)), ("t10k", slice(500, 800))):
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images[chosen, :, :, 0])
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels[chosen])
    told = [
        "--quick",
        "--dataset",
        "mnist",
        "--data",
        str(tmp_path),
        "--limit",
        "300",
        "--only",
        "job-class",
        "--architecture",
        "mlp",
    ]
    assert main([*told, "--out", str(tmp_path / "out")]) == 0
    lines = table(tmp_path / "out")
    assert lines["Job, class, M=200, augmented"]["mean"] > 50
    assert {line["holds"] for line in lines.values()} == {None}


def test_a_missing_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code of a missing data set, the expected files named, no traceback."""
    code = main(["--dataset", "cifar10", "--data", str(tmp_path), "--only", "job-class", "--out", str(tmp_path / "o")])
    assert code not in (0, 1)
    assert "cifar-10-batches" in capsys.readouterr().err


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
