"""Where labelled images come from: named sets, `.npz` files, folders of images, objects in the store, shards.

    digits          scikit-learn's 1 797 handwritten digits, always there; 8x8, scaled to the model's input
    mnist, fashion-mnist, cifar10
                    through torchvision, from a folder `<data>/<name>` (nothing is downloaded), or from the object
                    prefix `datasets/<name>/`; cifar10 also in its binary form, which needs no unpickling
    .npz            arrays `image` ([n,H,W] or [n,H,W,C], uint8 or floats in 0..1) and `label` ([n] indices or names);
                    optional `k` ([n] text): samples that must not be separated
    image folder    `<class>/<file>.png|jpg|jpeg|webp`

Labels come out as positions in the model's classes, whatever the set calls them: by name where the names agree, else by
position. A missing folder is a `MissingDatasetError` that names the folder and the files expected in it.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from continual_clients.images import decode_image, fit_image
from continual_clients.objectstore import ObjectStore
from continual_clients.shards import Shard
from continual_contract.artifacts import DatasetRef, InputShape
from continual_contract.errors import InvalidImageError, MissingDatasetError, UnknownClassError, UsageError
from numpy.typing import NDArray

from continual_workers.training.samples import Images, Samples

Split = Literal["train", "test", "all"]
_DIGITS = tuple(str(d) for d in range(10))
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Raw:
    """A set as it lies there: images of any one size, labels as positions in the set's own class names."""

    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    k: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set known by name: its classes, native shape, the files that prove it is there, and how to read it."""

    classes: tuple[str, ...]
    shape: InputShape
    expected: tuple[str, ...]
    read: Callable[[Path, Split], Raw]


def load_dataset(
    ref: DatasetRef,
    data_root: Path | None,
    store: ObjectStore | None,
    shape: InputShape | None = None,
    classes: tuple[str, ...] | None = None,
    split: Split = "all",
) -> Samples:
    """Samples of a dataset, images uint8 [n, H, W, C] of `shape`, labels positions in `classes`.

    Without `shape` and `classes` the set's own. `split` is the set's own division (named torchvision sets only; every
    other set has no test part and gives all of it for `train` and `all`).

    Raises:
        MissingDatasetError: the folder, file or object is not there.
        UnknownClassError: the set has a class that the model does not.
        UsageError: a set or file that cannot be read.
    """
    raw = _read(ref, data_root, store, shape, classes, split)
    wanted = classes or raw.classes
    return Samples(fitted(raw.images, shape), translate(raw.labels, raw.classes, wanted), wanted, raw.k)


def native(ref: DatasetRef) -> tuple[InputShape, tuple[str, ...]] | None:
    """Input shape and class names a named set has by itself; None for files and folders."""
    if ref.name is None:
        return None
    known = _named(ref.name)
    return known.shape, known.classes


def from_shard(shard: Shard, classes: tuple[str, ...]) -> Samples:
    """The evaluator's labelled samples. Raises UnknownClassError for a label beyond `classes`."""
    if len(shard.label) and not 0 <= int(shard.label.min()) <= int(shard.label.max()) < len(classes):
        raise UnknownClassError(
            f"a shard holds a label outside the model's {len(classes)} classes",
            field="label",
            value=int(shard.label.max()),
            remedy="append the class to spec.model.classes",
        )
    return Samples(
        shard.image,
        shard.label.astype(np.int64),
        classes,
        tuple(str(k) for k in shard.k),
        tuple(str(r) for r in shard.request_id),
    )


def translate(labels: NDArray[np.int64], own: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.int64]:
    """Positions in `own` → positions in `wanted`: by name where all names are known, else by position if none is."""
    known = [name in wanted for name in own]
    if all(known):
        return np.array([wanted.index(name) for name in own], dtype=np.int64)[labels]
    if not any(known) and len(wanted) >= len(own):
        return labels
    strangers = [name for name, is_known in zip(own, known, strict=True) if not is_known]
    raise UnknownClassError(
        "the dataset has classes that the model does not",
        field="model.classes",
        value=strangers[:5],
        remedy="add them to spec.model.classes (at the end), or rename the dataset's classes",
    )


def _read(
    ref: DatasetRef,
    data_root: Path | None,
    store: ObjectStore | None,
    shape: InputShape | None,
    classes: tuple[str, ...] | None,
    split: Split,
) -> Raw:
    if ref.name is not None:
        return _read_named(ref.name, data_root, store, split)
    if ref.object_key is None:
        raise UsageError(
            "names neither a set nor an object", field="bootstrap.dataset", remedy="give name or objectKey"
        )
    if store is None:
        raise UsageError("needs an object store", field="bootstrap.dataset.objectKey", value=ref.object_key)
    if ref.format == "image-folder":
        prefix = ref.object_key.rstrip("/") + "/"
        return read_image_folder(_stored_files(store, prefix), prefix, shape)
    if not store.exists(ref.object_key):
        raise MissingDatasetError(
            f"no such object in {store!r}",
            field="bootstrap.dataset.objectKey",
            value=ref.object_key,
            remedy="upload the .npz, or correct the key",
        )
    return read_npz(store.get(ref.object_key), ref.object_key, classes)


def _read_named(name: str, data_root: Path | None, store: ObjectStore | None, split: Split) -> Raw:
    known = _named(name)
    if not known.expected:
        return known.read(Path(), split)
    folder = _folder(name, known, data_root)
    if folder is not None:
        return known.read(folder, split)
    prefix = f"datasets/{name}/"
    objects = list(store.list(prefix)) if store is not None else []
    if not objects or store is None:
        raise _missing(name, known, data_root, prefix)
    with tempfile.TemporaryDirectory(prefix="continual-dataset-") as temporary:
        for info in objects:
            target = Path(temporary, *info.key.removeprefix(prefix).split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.get(info.key))
        folder = _folder(name, known, Path(temporary))
        if folder is None:
            raise _missing(name, known, data_root, prefix)
        return known.read(folder, split)


def _named(name: str) -> NamedSet:
    if name not in NAMED:
        raise UsageError(
            "unknown dataset", field="dataset.name", value=name, remedy=f"use one of {', '.join(NAMED)}, or a .npz file"
        )
    return NAMED[name]


def _folder(name: str, known: NamedSet, data_root: Path | None) -> Path | None:
    """The folder that holds one of the expected paths: `<data>/<name>` first, then `<data>` itself."""
    roots = (data_root / name, data_root) if data_root is not None else ()
    return next((root for root in roots if any((root / path).exists() for path in known.expected)), None)


def _missing(name: str, known: NamedSet, data_root: Path | None, prefix: str) -> MissingDatasetError:
    where = str(data_root / name) if data_root is not None else f"$CONTINUAL_DATA/{name}"
    return MissingDatasetError(
        f"dataset {name} is not in the folder {where}, nor under {prefix} of the object store: "
        f"expected {known.expected[0]} there",
        field="dataset.name",
        value=name,
        remedy="put the files there (nothing is downloaded), or set CONTINUAL_DATA to the folder that holds them",
    )


def digits_images(shape: InputShape) -> tuple[Images, NDArray[np.int64]]:
    """scikit-learn's digits (values 0..16) as uint8 [1797, H, W, C], bilinearly scaled; labels int64 [1797]."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 -- three seconds that only this set needs

    raw, labels = load_digits(return_X_y=True)
    small = np.rint(raw.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return fitted(small, shape), labels.astype(np.int64)


def _read_digits(_: Path, __: Split) -> Raw:
    images, labels = digits_images(InputShape(height=28, width=28, channels=1))
    return Raw(images, labels, _DIGITS)


def _read_idx(torchvision_class: str, classes: tuple[str, ...]) -> Callable[[Path, Split], Raw]:
    def read(folder: Path, split: Split) -> Raw:
        from torchvision import datasets  # noqa: PLC0415 -- only when a torchvision set is asked for

        kind = getattr(datasets, torchvision_class)
        parts = [_opened(kind, folder, train=train) for train in _parts(split)]
        images = np.concatenate([part.data.numpy() for part in parts])[..., None]
        return Raw(images, np.concatenate([part.targets.numpy() for part in parts]).astype(np.int64), classes)

    return read


def _read_cifar10(folder: Path, split: Split) -> Raw:
    if (folder / "cifar-10-batches-bin").is_dir():
        return _read_cifar10_binary(folder / "cifar-10-batches-bin", split)
    from torchvision import datasets  # noqa: PLC0415 -- only when a torchvision set is asked for

    parts = [_opened(datasets.CIFAR10, folder, train=train) for train in _parts(split)]
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    return Raw(np.concatenate([part.data for part in parts]), labels, _CIFAR)


def _read_cifar10_binary(folder: Path, split: Split) -> Raw:
    """The set's binary version: records of one label byte and 3x32x32 pixels; fewer batches than five will do."""
    names = [name for train in _parts(split) for name in (_CIFAR_TRAIN if train else ("test_batch",))]
    files = [folder / f"{name}.bin" for name in names if (folder / f"{name}.bin").is_file()]
    raw = np.concatenate([np.zeros(0, np.uint8), *(np.fromfile(file, dtype=np.uint8) for file in files)])
    if not len(raw) or len(raw) % _CIFAR_RECORD:
        raise MissingDatasetError(
            f"{folder} holds no whole CIFAR-10 records of {_CIFAR_RECORD} bytes for the {split} part",
            field="dataset.name",
            value="cifar10",
            remedy="expected data_batch_1.bin … data_batch_5.bin and test_batch.bin",
        )
    records = raw.reshape(-1, _CIFAR_RECORD)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Raw(images, records[:, 0].astype(np.int64), _CIFAR)


def _parts(split: Split) -> tuple[bool, ...]:
    return {"train": (True,), "test": (False,), "all": (True, False)}[split]


def _opened(kind: Callable[..., Any], folder: Path, *, train: bool) -> Any:
    """A torchvision dataset object; what it says about missing or damaged files becomes our error."""
    try:
        return kind(root=str(folder), train=train, download=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise MissingDatasetError(
            f"torchvision could not read {getattr(kind, '__name__', kind)} in {folder}: {error}",
            field="dataset.name",
            remedy="put the set's original files there; nothing is downloaded",
        ) from error


_IDX_SHAPE = InputShape(height=28, width=28, channels=1)
NAMED: Mapping[str, NamedSet] = {
    "digits": NamedSet(_DIGITS, _IDX_SHAPE, (), _read_digits),
    "mnist": NamedSet(_DIGITS, _IDX_SHAPE, tuple(f"MNIST/raw/{f}" for f in _IDX_FILES), _read_idx("MNIST", _DIGITS)),
    "fashion-mnist": NamedSet(
        _FASHION, _IDX_SHAPE, tuple(f"FashionMNIST/raw/{f}" for f in _IDX_FILES), _read_idx("FashionMNIST", _FASHION)
    ),
    "cifar10": NamedSet(
        _CIFAR,
        InputShape(height=32, width=32, channels=3),
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        _read_cifar10,
    ),
}


def read_npz(data: bytes, name: str, classes: tuple[str, ...] | None = None) -> Raw:
    """A `.npz` with `image` and `label`. Raises UsageError naming the array that is missing or wrong."""
    arrays = _npz_arrays(data, name)
    images, given = _as_uint8_nhwc(arrays["image"], name), arrays["label"]
    if given.ndim != 1 or len(given) != len(images):
        raise UsageError(f"{name}: one label per image", field="label", value=given.shape)
    labels, own = _labels_and_names(given, name, classes)
    k = tuple(str(v) for v in arrays["k"]) if "k" in arrays else ()
    return Raw(images, labels, own, k)


def _npz_arrays(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in ("image", "label", "k")}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(
            f"{name} is not a readable .npz: {error}", field="dataset", remedy="write it with numpy.savez"
        ) from error
    for needed in ("image", "label"):
        if needed not in arrays:
            raise UsageError(f"{name} has no array `{needed}`", field="dataset", remedy="it needs `image` and `label`")
    return arrays


def _as_uint8_nhwc(images: NDArray[Any], name: str) -> Images:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise UsageError(f"{name}: images are [n,H,W] or [n,H,W,C]", field="image", value=images.shape)
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    values = images.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise UsageError(f"{name}: pixels are 0..255, or floats in 0..1", field="image", value=str(images.dtype))
    scale = 255.0 if np.issubdtype(images.dtype, np.floating) and values.max() <= 1 else 1.0
    return np.ascontiguousarray(np.rint(values * scale).astype(np.uint8))


def _labels_and_names(
    given: NDArray[Any], name: str, classes: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if given.dtype.kind == "U":
        names = tuple(sorted({str(v) for v in given}))
        return np.array([names.index(str(v)) for v in given], dtype=np.int64), names
    if given.dtype.kind not in "iu":
        raise UsageError(f"{name}: labels are integers or text", field="label", value=str(given.dtype))
    labels = given.astype(np.int64)
    own = classes or tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(own):
        raise UnknownClassError(
            f"{name} holds a label outside the model's {len(own)} classes", field="label", value=int(labels.max())
        )
    return labels, own


def read_image_folder(files: Iterable[tuple[str, Callable[[], bytes]]], where: str, shape: InputShape | None) -> Raw:
    """Images of `<class>/<file>`, letterboxed to `shape` (28x28 grey without one), in the order of their paths."""
    target = shape or _IDX_SHAPE
    found = sorted((name, read) for name, read in files if name.lower().endswith(_IMAGE_SUFFIXES) and "/" in name)
    if not found:
        raise MissingDatasetError(
            f"{where} holds no images",
            field="dataset",
            remedy="expected <class>/<file>.png, .jpg, .jpeg or .webp",
        )
    classes = tuple(sorted({name.rsplit("/", 2)[-2] for name, _ in found}))
    images = np.stack([_decoded(name, read(), target) for name, read in found])
    labels = np.array([classes.index(name.rsplit("/", 2)[-2]) for name, _ in found], dtype=np.int64)
    return Raw(images, labels, classes)


def _decoded(name: str, data: bytes, shape: InputShape) -> Images:
    try:
        return decode_image(data, "", shape, "Letterbox")
    except InvalidImageError as error:
        raise UsageError(f"{name}: {error}", field="dataset", remedy="remove or repair this image") from error


def local_files(folder: Path) -> Iterable[tuple[str, Callable[[], bytes]]]:
    """Relative paths and readers of all files below a folder."""
    return ((p.relative_to(folder).as_posix(), p.read_bytes) for p in sorted(folder.rglob("*")) if p.is_file())


def _stored_files(store: ObjectStore, prefix: str) -> Iterable[tuple[str, Callable[[], bytes]]]:
    return ((info.key.removeprefix(prefix), partial(store.get, info.key)) for info in store.list(prefix))


def fitted(images: Images, shape: InputShape | None) -> Images:
    """Images uint8 [n, h, w, c] letterboxed to `shape`; unchanged where they have it, or without one."""
    if shape is None or images.shape[1:] == (shape.height, shape.width, shape.channels):
        return images
    return np.stack([fit_image(image, shape, "Letterbox") for image in images])
