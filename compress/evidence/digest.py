"""A content hash of plain values and arrays that is the same on every machine and in every run."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_Feed = Callable[[Any], object]


def digest(*values: object) -> str:
    """SHA-256, in hex, over a typed and prefix-free encoding of `values`.

    Takes None, bool, int, float, str, bytes, numpy scalars and arrays, lists and tuples (equal
    content, equal hash, because JSON turns one into the other), dicts (the order of keys does not
    count) and dataclass instances. Values of different types never collide: `1`, `1.0`, `True` and
    `"1"` are four things. Arrays count with dtype, shape and content, whatever their strides.

    Raises:
        TypeError: a value of another type, or an array of Python objects.
    """
    hasher = hashlib.sha256()
    _feed(values, hasher.update)
    return hasher.hexdigest()


def _feed(value: object, feed: _Feed) -> None:
    match value:
        case None:
            feed(b"N")
        case bool():
            feed(b"B1" if value else b"B0")
        case int():
            _feed_sized(b"I", str(value).encode(), feed)
        case float():
            feed(b"F" + struct.pack(">d", value))
        case str():
            _feed_sized(b"S", value.encode("utf-8", "surrogatepass"), feed)
        case bytes():
            _feed_sized(b"Y", value, feed)
        case list() | tuple():
            feed(b"T" + struct.pack(">Q", len(value)))
            for item in value:
                _feed(item, feed)
        case dict():
            _feed_dict(value, feed)
        case np.generic():
            _feed(value.item() if value.dtype.kind in "biufSU" else np.asarray(value), feed)
        case np.ndarray():
            _feed_array(value, feed)
        case np.dtype():
            _feed_sized(b"P", value.str.encode() + value.name.encode(), feed)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            _feed_sized(b"C", type(value).__qualname__.encode(), feed)
            fields = dataclasses.fields(value)
            _feed_dict({field.name: getattr(value, field.name) for field in fields}, feed)
        case _:
            raise TypeError(f"a {type(value).__name__} has no content hash")


def _feed_sized(tag: bytes, payload: bytes, feed: _Feed) -> None:
    feed(tag + struct.pack(">Q", len(payload)))
    feed(payload)


def _feed_dict(value: dict[Any, Any], feed: _Feed) -> None:
    entries = []
    for key, item in value.items():
        encoded = bytearray()
        _feed(key, encoded.extend)
        entries.append((bytes(encoded), item))
    feed(b"D" + struct.pack(">Q", len(entries)))
    for encoded_key, item in sorted(entries, key=lambda entry: entry[0]):
        feed(encoded_key)
        _feed(item, feed)


def _feed_array(array: np.ndarray[Any, Any], feed: _Feed) -> None:
    if array.dtype.hasobject:
        raise TypeError("an array of Python objects has no content hash")
    # `str` tells the byte order, `name` tells bfloat16 from other two-byte types.
    _feed_sized(b"A", array.dtype.str.encode() + b" " + array.dtype.name.encode(), feed)
    feed(struct.pack(f">{array.ndim + 1}Q", array.ndim, *array.shape))
    if array.size:
        feed(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
