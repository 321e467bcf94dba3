"""Data sets as people have them: original files, `.npz`, folders, objects; and one clear message when they are not there."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from continual_clients.objectstore import FileStore
from continual_contract.artifacts import DatasetRef, InputShape
from continual_contract.errors import MissingDatasetError, UnknownClassError, UsageError
from continual_workers.training.datasets import digits_images, load_dataset, local_files, read_image_folder
from PIL import Image

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The IDX format of yann.lecun.com: magic with the number of dimensions, sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist_folder(root: Path, family: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 10
    for part, chosen in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write_idx(root / family / "raw" / f"{part}-images-idx3-ubyte", images[chosen])
        write_idx(root / family / "raw" / f"{part}-labels-idx1-ubyte", labels[chosen])
    return images, labels


@pytest.mark.parametrize(("name", "family"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.parametrize("own_folder", [True, False])
def test_torchvision_reads_original_files(tmp_path: Path, name: str, family: str, own_folder: bool) -> None:
    """Through the real torchvision class, from `<data>/<name>` or `<data>`; train and test parts apart or together."""
    images, labels = mnist_folder(tmp_path / name if own_folder else tmp_path, family)
    train = load_dataset(DatasetRef(name=name), tmp_path, None, split="train")
    everything = load_dataset(DatasetRef(name=name), tmp_path, None)
    assert train.images[..., 0].tobytes() == images[:8].tobytes()
    assert everything.images[..., 0].tobytes() == images.tobytes()
    assert everything.labels.tolist() == labels.tolist()


def test_a_set_can_lie_in_the_object_store(tmp_path: Path) -> None:
    """In a cluster: under the prefix datasets/<name>/."""
    mnist_folder(tmp_path / "store" / "datasets" / "mnist", "MNIST")
    store = FileStore(tmp_path / "store")
    assert len(load_dataset(DatasetRef(name="mnist"), None, store)) == 12


def cifar_records(count: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def test_cifar10_in_its_binary_form(tmp_path: Path) -> None:
    """cifar-10-batches-bin: one label byte and three colour planes each; no unpickling, fewer batches will do."""
    images, labels = cifar_records(6)
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    records = np.concatenate([labels[:, None], images.reshape(6, -1)], axis=1).astype(np.uint8)
    records[:4].tofile(folder / "data_batch_1.bin")
    records[4:].tofile(folder / "test_batch.bin")
    test = load_dataset(DatasetRef(name="cifar10"), tmp_path, None, split="test")
    assert test.images.tobytes() == images[4:].transpose(0, 2, 3, 1).tobytes()
    assert load_dataset(DatasetRef(name="cifar10"), tmp_path, None).labels.tolist() == labels.tolist()


def write_cifar_python(folder: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Write the python version; the md5 of each file, which torchvision insists on."""
    images, labels = cifar_records(12)
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, name in enumerate(names):
        part = slice(2 * i, 2 * i + 2)
        batch = {"data": images[part].reshape(2, -1), "labels": labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    return images, {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_cifar10_in_its_python_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torchvision's own class, with its own md5 check (told the digests of this small copy)."""
    from torchvision.datasets import CIFAR10

    images, digests = write_cifar_python(tmp_path / "cifar10" / "cifar-10-batches-py")
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[file, digests[file]] for file, _ in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    loaded = load_dataset(DatasetRef(name="cifar10"), tmp_path, None)
    assert loaded.images.tobytes() == images.transpose(0, 2, 3, 1).tobytes()


def test_a_cifar10_pickle_with_another_digest_is_not_opened(tmp_path: Path) -> None:
    """Files that are not the originals: refused before unpickling, with torchvision's reason."""
    write_cifar_python(tmp_path / "cifar10" / "cifar-10-batches-py")
    with pytest.raises(MissingDatasetError, match=r"could not read CIFAR10.*corrupted"):
        load_dataset(DatasetRef(name="cifar10"), tmp_path, None)


@pytest.mark.parametrize(
    ("name", "expected"), [("mnist", "MNIST/raw/train-images-idx3-ubyte"), ("cifar10", "cifar-10-batches-py")]
)
def test_a_missing_folder_is_named_with_the_files_expected(tmp_path: Path, name: str, expected: str) -> None:
    """One message: which set, which folder, which files, what to do."""
    with pytest.raises(MissingDatasetError) as caught:
        load_dataset(DatasetRef(name=name), tmp_path, None)
    assert all(part in str(caught.value) for part in (name, str(tmp_path / name), expected, "CONTINUAL_DATA"))
    assert caught.value.exit_code == 3


def test_an_unknown_set_lists_the_known() -> None:
    """imagenet is not there: the message says what is."""
    with pytest.raises(UsageError, match=r"dataset\.name.*imagenet.*digits.*cifar10"):
        load_dataset(DatasetRef(name="imagenet"), None, None)


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]  # names are the format's
    return out.getvalue()


def stored(tmp_path: Path, data: bytes) -> FileStore:
    store = FileStore(tmp_path)
    store.put("set.npz", data)
    return store


IMAGES = RNG.integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0])
NPZ = DatasetRef(object_key="set.npz", format="npz")


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES[..., 0],
        IMAGES / 255,
        IMAGES.astype(np.float32),
        np.repeat(IMAGES, 3, axis=3).transpose(0, 3, 1, 2),
    ],
    ids=["uint8 nhwc", "uint8 nhw", "floats 0..1", "floats 0..255", "nchw"],
)
def test_npz_images_come_in_any_usual_form(tmp_path: Path, images: np.ndarray) -> None:
    """Whatever the form, uint8 NHWC with the same pixels comes out."""
    loaded = load_dataset(NPZ, None, stored(tmp_path, npz(image=images, label=LABELS)))
    assert loaded.images[..., :1].tobytes() == IMAGES.tobytes()
    assert loaded.labels.tolist() == LABELS.tolist()


def test_npz_labels_may_be_names(tmp_path: Path) -> None:
    """Text labels are matched to the model's classes by name, in the model's order."""
    store = stored(tmp_path, npz(image=IMAGES, label=np.array(["dog", "cat", "cat", "dog"]), k=np.array(list("aabb"))))
    loaded = load_dataset(NPZ, None, store, classes=("cow", "cat", "dog"))
    assert loaded.labels.tolist() == [2, 1, 1, 2]
    assert loaded.k == ("a", "a", "b", "b")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"not a zip", UsageError, "not a readable .npz"),
        (npz(image=IMAGES), UsageError, "no array `label`"),
        (npz(image=IMAGES, label=LABELS[:2]), UsageError, "one label per image"),
        (npz(image=IMAGES[0, 0, 0], label=LABELS), UsageError, r"\[n,H,W\]"),
        (npz(image=IMAGES * 2.0, label=LABELS), UsageError, "0..255"),
        (npz(image=IMAGES, label=LABELS + 5), UnknownClassError, "outside the model's 2 classes"),
        (npz(image=IMAGES, label=LABELS / 2), UsageError, "integers or text"),
        (npz(image=IMAGES, label=np.array([{}, 1, 2, 3])), UsageError, "not a readable .npz"),
    ],
)
def test_a_wrong_npz_is_one_clear_message(tmp_path: Path, data: bytes, error: type[UsageError], message: str) -> None:
    """Each way to be wrong has its sentence; object arrays are never unpickled."""
    with pytest.raises(error, match=message):
        load_dataset(NPZ, None, stored(tmp_path, data), classes=("a", "b"))


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    """Key and store are in the message."""
    with pytest.raises(MissingDatasetError, match=r"objectKey.*set\.npz"):
        load_dataset(NPZ, None, FileStore(tmp_path))


def test_a_class_the_model_lacks_is_named(tmp_path: Path) -> None:
    """A dataset with a bird for a model of cats and dogs."""
    store = stored(tmp_path, npz(image=IMAGES, label=np.array(["dog", "cat", "bird", "dog"])))
    with pytest.raises(UnknownClassError, match=r"bird.*add them"):
        load_dataset(NPZ, None, store, classes=("cat", "dog"))


def test_image_folders_are_read_from_disk_and_store(tmp_path: Path) -> None:
    """`<class>/<file>`: classes by folder name, images letterboxed to the model's input, other files ignored."""
    for name, value in (("cat", 10), ("dog", 200)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 10), value, np.uint8)).save(tmp_path / "pets" / name / "1.png")
    (tmp_path / "pets" / "notes.txt").write_text("not an image")
    shape = InputShape(height=8, width=8, channels=3)
    raw = read_image_folder(local_files(tmp_path / "pets"), "pets", shape)
    ref = DatasetRef(object_key="pets", format="image-folder")
    loaded = load_dataset(ref, None, FileStore(tmp_path), shape)
    assert loaded.classes == ("cat", "dog")
    assert loaded.images.shape == (2, 8, 8, 3)
    assert loaded.images.tobytes() == raw.images.tobytes()
    assert loaded.images[1, 4, 4].tolist() == [200] * 3
    assert loaded.images[1, 4, 0].tolist() == [0] * 3


def test_digits_come_in_the_models_size() -> None:
    """1 797 real digits, from 8x8 to what the model takes, without stretching the values."""
    images, labels = digits_images(InputShape(height=28, width=28, channels=1))
    assert images.shape == (1797, 28, 28, 1)
    assert (images.min(), images.max()) == (0, 255)
    assert np.bincount(labels).min() > 170
