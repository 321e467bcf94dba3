"""Networks: heads grow without touching old classes; weights of others are fitted or refused, never unpickled."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from continual_contract.artifacts import InputShape
from continual_contract.errors import UsageError
from continual_workers.training import models

GREY28 = InputShape(height=28, width=28, channels=1)
SMALL = InputShape(height=32, width=32, channels=3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", InputShape(height=8, width=8, channels=1)),
        ("lenet5", GREY28),
        ("lenet5", InputShape(height=33, width=40, channels=3)),
        ("cnn3", SMALL),
        ("cnn3", GREY28),
        ("resnet18", GREY28),
        ("resnet18", InputShape(height=64, width=64, channels=1)),
        ("resnet50", SMALL),
    ],
)
def test_every_architecture_takes_its_shape(name: str, shape: InputShape) -> None:
    """Any channels, any size from its smallest on; logits have one column per class."""
    net = models.build(name, shape, 7, seed=0).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, shape.channels, shape.height, shape.width)).shape == (2, 7)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet18"])
def test_appended_classes_keep_the_old_rows(name: str) -> None:
    """After growing 4 → 6 classes the first four logits are bit for bit what they were."""
    old, new = models.build(name, GREY28, 4, 0).eval(), models.build(name, GREY28, 6, 1).eval()
    grown = models.grow_head(models.arrays_of(old), models.arrays_of(new), models.architecture(name).head)
    models.load_arrays(new, grown)
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(new(x)[:, :4], old(x), atol=1e-6)


def test_classes_cannot_be_taken_away() -> None:
    """Growing from six to four is refused and says why."""
    old, new = models.build("mlp", GREY28, 6, 0), models.build("mlp", GREY28, 4, 0)
    with pytest.raises(UsageError, match="append-only"):
        models.grow_head(models.arrays_of(old), models.arrays_of(new), "head")


def test_the_seed_alone_decides_the_weights() -> None:
    """Two builds agree, whatever torch's global generator has been doing."""
    a = models.arrays_of(models.build("lenet5", GREY28, 10, 3))
    torch.rand(10)
    b = models.arrays_of(models.build("lenet5", GREY28, 10, 3))
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_an_unknown_architecture_lists_the_known() -> None:
    """The message names field, value and what would do."""
    with pytest.raises(UsageError, match=r"model\.architecture.*vgg.*lenet5"):
        models.architecture("vgg")


def test_too_small_an_input_is_refused() -> None:
    """cnn3 on 8x8 would have no pixels left."""
    with pytest.raises(UsageError, match="at least 18x18"):
        models.build("cnn3", InputShape(height=8, width=8, channels=1), 2, 0)


def test_pretrained_weights_of_another_stem_and_head_are_fitted() -> None:
    """ImageNet's 7x7x3 stem serves a small grey input; the 1000-class head starts anew; the body is taken as it is."""
    large = models.arrays_of(models.build("resnet18", InputShape(height=224, width=224, channels=3), 1000, 1))
    net = models.build("resnet18", GREY28, 10, 0)
    fitted = models.adapt(large, models.arrays_of(net), "fc")
    models.load_arrays(net, fitted)
    assert fitted["layer1.0.conv1.weight"].tobytes() == large["layer1.0.conv1.weight"].tobytes()
    assert fitted["conv1.weight"].shape == (64, 1, 3, 3)
    assert fitted["fc.weight"].shape == (10, 512)


def test_weights_of_another_network_are_refused_by_name() -> None:
    """The first array that does not fit is named."""
    with pytest.raises(UsageError, match=r"conv1\.weight.*found nothing"):
        models.adapt({}, models.arrays_of(models.build("lenet5", GREY28, 10, 0)), "head")


@pytest.mark.parametrize("name", ["weights.pt", "weights.npz", "weights.safetensors"])
def test_a_pickle_is_never_opened(name: str) -> None:
    """Whatever it is called, a pickle is an unreadable weight file; unpickling it would raise SystemExit here."""
    data = pickle.dumps(_Bomb())
    with pytest.raises(UsageError, match="not a readable weight file"):
        models.read_weights(data, name)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[int]]:
        return (SystemExit, (1,))


def test_npz_state_dicts_are_read() -> None:
    """A plain .npz of named arrays is as good as safetensors."""
    arrays = models.arrays_of(models.build("mlp", GREY28, 3, 0))
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]  # names are the network's
    read = models.read_weights(out.getvalue(), "w.npz")
    assert all(read[name].tobytes() == arrays[name].tobytes() for name in arrays)
