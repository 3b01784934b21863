"""Files of ``torch.save``, in both formats, read without torch and without executing anything.

*Zip* (torch 1.6 and later): ``NAME/data.pkl`` and one stored entry ``NAME/data/KEY`` a storage.
*Legacy*: five pickles (magic number, protocol, system, the object, storage keys), then for each key
its number of elements, int64, and the elements.

Tensors come out as numpy arrays; objects of torch's and of the user's classes as `Instance`.
Offsets, sizes, strides and lengths are checked against the storage and the file, so that no more is
allocated than the file holds.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.protopnet import pickled
from exporters.protopnet.pickled import Global
from xai_onnx.errors import PrototypeError, reason

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGEST_MAP = 2**33  # bytes of a file: 30 times the largest published ProtoPNet
# What zipfile raises, depending on which byte is wrong.
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error)

_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class Storage:
    """The numbers behind tensors: where to find them, not yet read.

    Attributes:
        kind: as torch calls the type, e.g. ``"FloatStorage"``.
        key: the file's name for it.
        length: elements of all of it.
        first, count: the view of it that tensors count from.
    """

    kind: str
    key: str
    length: int
    first: int
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor whose place in its storage has been checked."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """An open file: the object in it, and its tensors on demand.

    Attributes:
        name: the path, for error messages.
        content: the object that was saved.
    """

    def __init__(self, path: Path) -> None:
        """Open and read a file of ``torch.save``.

        Raises:
            PrototypeError: missing, not such a file, damaged, or dangerous.
        """
        self.name = str(path)
        try:
            with path.open("rb") as file:
                if path.stat().st_size > _LARGEST_MAP:
                    raise self._wrong("is larger than any ProtoPNet")
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise self._wrong(f"can't be read: {reason(error)}") from error
        if self._data[:4] == b"PK\x03\x04":
            self._storages, self.content = self._open_zip()
        elif self._data[:1] == b"\x80":
            self._storages, self.content = self._open_legacy()
        else:
            raise self._wrong("is not a file of torch.save")

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor's content, copied; bfloat16 as float32."""
        storage = tensor.storage
        dtype = np.dtype(_TYPES[storage.kind])
        raw = self._storages(storage, storage.length * dtype.itemsize)
        flat = np.frombuffer(raw, dtype)[storage.first + tensor.offset :]
        steps = [stride * dtype.itemsize for stride in tensor.strides]
        array = np.lib.stride_tricks.as_strided(flat, tensor.size, steps, writeable=False).copy()
        if storage.kind == "BFloat16Storage":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array

    def _wrong(self, problem: str) -> PrototypeError:
        return PrototypeError(f"{self.name}: {problem}; give a checkpoint as torch.save writes it")

    def _pickle(self, stream: BytesIO) -> Any:
        return pickled.read(stream, self.name, _CALLS, self._persistent)

    def _persistent(self, given: Any) -> Any:
        """What a persistent id stands for: a storage, or a module beside its source text."""
        match given:
            case ("module", module, *_):
                return module
            case ("storage", Global("torch", kind), str() as key, _, int() as length, *view):
                if kind not in _TYPES or not 0 <= length <= len(self._data):
                    raise self._wrong(f"holds a {kind} of {length} elements")
                first, count = 0, length
                if view and view[0] is not None:
                    _, first, count = view[0]
                    _check_whole(first, count)
                    if first + count > length:
                        raise ValueError("a storage view reaches beyond its storage")
                return Storage(kind, key, length, first, count)
        raise TypeError("an unknown persistent id")

    def _open_zip(self) -> tuple[Callable[[Storage, int], bytes], Any]:
        try:
            archive = zipfile.ZipFile(self.name)
        except _DAMAGE as error:
            raise self._wrong(f"is a damaged zip file: {reason(error)}") from error
        entries = {info.filename: info for info in archive.infolist()}
        roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise self._wrong("is a zip file without one data.pkl, so not torch's")
        total = sum(info.file_size for info in entries.values())
        packed = any(
            info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size
            for info in entries.values()
        )
        if packed or total > len(self._data):
            raise self._wrong(
                f"is a zip file that expands to {total:,} bytes from {len(self._data):,}; torch "
                "stores without compression, so it is refused"
            )

        def entry(name: str, limit: int) -> bytes:
            if name not in entries:
                raise self._wrong(f"lacks its entry {name!r}")
            if entries[name].file_size > limit:
                raise self._wrong(f"has an entry {name!r} of more than {limit:,} bytes")
            try:
                return archive.read(name)
            except _DAMAGE as error:
                raise self._wrong(f"has a damaged entry {name!r}: {reason(error)}") from error

        (root,) = roots
        if f"{root}byteorder" in entries and entry(f"{root}byteorder", 16) != b"little":
            raise self._wrong("was written on a big-endian machine")
        content = self._pickle(BytesIO(entry(f"{root}data.pkl", pickled.MAX_BYTES)))

        def numbers(storage: Storage, size: int) -> bytes:
            raw = entry(f"{root}data/{storage.key}", len(self._data))
            if len(raw) != size:
                raise self._wrong(f"has {len(raw):,} bytes in storage {storage.key!r} of {size:,}")
            return raw

        return numbers, content

    def _open_legacy(self) -> tuple[Callable[[Storage, int], bytes], Any]:
        stream = BytesIO(self._data[: pickled.MAX_BYTES])
        magic, protocol = self._pickle(stream), self._pickle(stream)
        if (magic, protocol) != (_MAGIC, _PROTOCOL):
            raise self._wrong("is a pickle, but not one of torch.save")
        self._pickle(stream)  # the writer's byte order and sizes of C types
        content, keys = self._pickle(stream), self._pickle(stream)
        sizes = {storage.key: storage for storage in _storages(content)}
        starts, place = {}, stream.tell()
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str):
                raise self._wrong("lists its storages by something else than text")
            length = int.from_bytes(self._data[place : place + 8], "little", signed=True)
            if key not in sizes or sizes[key].length != length:
                raise self._wrong(f"has {length} elements in storage {key!r}, not as it says")
            starts[key] = place + 8
            place += 8 + length * np.dtype(_TYPES[sizes[key].kind]).itemsize
        if place > len(self._data):
            raise self._wrong("is cut short")

        def numbers(storage: Storage, size: int) -> bytes:
            if storage.key not in starts:
                raise self._wrong(f"lacks its storage {storage.key!r}")
            return self._data[starts[storage.key] : starts[storage.key] + size]

        return numbers, content


def _storages(content: Any) -> list[Storage]:
    """Every storage below an object, each once."""
    found: dict[str, Storage] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        match item:
            case Tensor():
                found.setdefault(item.storage.key, item.storage)
            case Storage():
                found.setdefault(item.key, item)
            case pickled.Instance():
                waiting += [item.state, *item.arguments]
            case dict():
                waiting += [*item.keys(), *item.values()]
            case list() | tuple() | set() | frozenset():
                waiting += item
    return list(found.values())


def _check_whole(*numbers: Any) -> None:
    for number in numbers:
        if type(number) is not int or number < 0:
            raise ValueError(
                "a tensor with an offset, size or stride that is negative or no number"
            )


def _tensor(storage: Any, offset: Any, size: Any, strides: Any, *_: Any) -> Tensor:
    """``torch._utils._rebuild_tensor``: a place in a storage, checked."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple):
        raise TypeError("a tensor without a storage")
    if not isinstance(strides, tuple) or len(size) != len(strides) or len(size) > 8:
        raise ValueError("a tensor whose sizes and strides don't match")
    _check_whole(offset, *size, *strides)
    elements = 1
    for side in size:
        elements *= side
    last = sum((side - 1) * stride for side, stride in zip(size, strides, strict=True))
    if elements and (offset + last >= storage.count or elements > storage.count):
        raise ValueError(
            f"a tensor of {elements} elements from {offset} on reaches beyond its storage of "
            f"{storage.count}"
        )
    return Tensor(storage, offset, size, strides)


def _parameter(data: Any, *_: Any) -> Any:
    """``torch._utils._rebuild_parameter``: the tensor itself."""
    return data


def _ordered(items: Any = ()) -> dict[Any, Any]:
    """``collections.OrderedDict``, made of pairs: a dict keeps the order, too."""
    return {pickled.key(key): value for key, value in items}


def _set(items: Any = ()) -> set[Any]:
    """``set``, made of a list."""
    return {pickled.key(item) for item in items}


_CALLS: pickled.Calls = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda sides=(): tuple(sides),
    "torch.device": lambda *_: None,
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _set,
    "builtins.set": _set,
}
