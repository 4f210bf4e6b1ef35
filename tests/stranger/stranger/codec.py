"""The presentation language (§1): structs are declared as the page writes them, and are encoded and decoded by that.

A codec has `encode(value) -> bytes` and `decode(reader) -> value`. A `Struct` is a codec too, on its class.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, dataclass_transform


class Malformed(Exception):
    """Bytes that are not the one encoding of anything."""


class Reader:
    """Bytes, read from the front."""

    def __init__(self, data: bytes):
        self.data, self.at = bytes(data), 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Malformed(f"{size} bytes wanted at {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def is_empty(self) -> bool:
        return self.at == len(self.data)


def decode(codec: Any, data: bytes) -> Any:
    """One value and nothing after it."""
    reader = Reader(data)
    value = codec.decode(reader)
    if not reader.is_empty():
        raise Malformed(f"{len(data) - reader.at} bytes left over")
    return value


class Uint:
    def __init__(self, size: int):
        self.size = size

    def encode(self, value: int) -> bytes:
        return value.to_bytes(self.size, "big")

    def decode(self, reader: Reader) -> int:
        return int.from_bytes(reader.take(self.size), "big")


class Varint:
    """RFC 9000 §16, in its shortest form. MLS's vectors have the same prefix (RFC 9420 §2.1.2)."""

    def encode(self, value: int) -> bytes:
        for log, limit in enumerate((1 << 6, 1 << 14, 1 << 30, 1 << 62)):
            if value < limit:
                return (value | log << (8 * (1 << log) - 2)).to_bytes(1 << log, "big")
        raise Malformed("integer too large")

    def decode(self, reader: Reader) -> int:
        first = reader.take(1)[0]
        rest = reader.take((1 << (first >> 6)) - 1)
        value = int.from_bytes(bytes([first & 63]) + rest, "big")
        if len(self.encode(value)) != 1 + len(rest):
            raise Malformed("not the shortest form")
        return value


class Opaque:
    """`opaque x[n]`."""

    def __init__(self, size: int):
        self.size = size

    def encode(self, value: bytes) -> bytes:
        if len(value) != self.size:
            raise Malformed(f"{len(value)} bytes instead of {self.size}")
        return value

    def decode(self, reader: Reader) -> bytes:
        return reader.take(self.size)


class Bytes:
    """`opaque x<V>`."""

    def encode(self, value: bytes) -> bytes:
        return varint.encode(len(value)) + value

    def decode(self, reader: Reader) -> bytes:
        return reader.take(varint.decode(reader))


class Text:
    """`opaque x<V>` that holds UTF-8."""

    def encode(self, value: str) -> bytes:
        return opaque.encode(value.encode())

    def decode(self, reader: Reader) -> str:
        return opaque.decode(reader).decode()


class Rest:
    """`T x[*]`: items up to the end."""

    def __init__(self, item: Any):
        self.item = item

    def encode(self, value: list) -> bytes:
        return b"".join(self.item.encode(item) for item in value)

    def decode(self, reader: Reader) -> list:
        items = []
        while not reader.is_empty():
            items.append(self.item.decode(reader))
        return items


class Vector:
    """`T x<V>`."""

    def __init__(self, item: Any):
        self.items = Rest(item)

    def encode(self, value: list) -> bytes:
        return opaque.encode(self.items.encode(value))

    def decode(self, reader: Reader) -> list:
        return self.items.decode(Reader(opaque.decode(reader)))


class Optional:
    def __init__(self, item: Any):
        self.item = item

    def encode(self, value: Any) -> bytes:
        return b"\0" if value is None else b"\1" + self.item.encode(value)

    def decode(self, reader: Reader) -> Any:
        present = reader.take(1)[0]
        if present > 1:
            raise Malformed("neither absent nor present")
        return self.item.decode(reader) if present else None


class Wrapped:
    """A struct inside an `opaque x<V>`."""

    def __init__(self, item: Any):
        self.item = item

    def encode(self, value: Any) -> bytes:
        return opaque.encode(self.item.encode(value))

    def decode(self, reader: Reader) -> Any:
        return decode(self.item, opaque.decode(reader))


uint8, uint16, uint32, uint64 = Uint(1), Uint(2), Uint(4), Uint(8)
varint, opaque, text = Varint(), Bytes(), Text()
id8, id16, hash32, nonce24, signature64 = Opaque(8), Opaque(16), Opaque(32), Opaque(24), Opaque(64)
ZERO = bytes(32)


class Constant:
    """A field that has one value in this version: another is refused."""

    def __init__(self, codec: Any, value: Any):
        self.codec, self.value = codec, value

    def encode(self, value: Any) -> bytes:
        return self.codec.encode(value)

    def decode(self, reader: Reader) -> Any:
        value = self.codec.decode(reader)
        if value != self.value:
            raise Malformed(f"{value} instead of {self.value}")
        return value


def of(codec: Any, **default: Any) -> Any:
    """A struct's field with its codec, and a default where it has one."""
    return dataclasses.field(metadata={"codec": codec}, **default)


def constant(codec: Any, value: Any, *, init: Literal[False] = False) -> Any:
    """A field that always has the same value."""
    return dataclasses.field(init=init, default=value, metadata={"codec": Constant(codec, value)})


def version1(*, init: Literal[False] = False) -> Any:
    return constant(uint16, 1, init=init)


@dataclass_transform(field_specifiers=(of, constant, version1), kw_only_default=True)
class Struct:
    """Fields in the order in which they are declared."""

    codecs: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(kw_only=True)(cls)
        cls.codecs = {field.name: field.metadata["codec"] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    def encode(self, before: str | None = None) -> bytes:  # type: ignore[override]
        """All of it, or the fields before the one named: what a signature covers."""
        encoded = b""
        for name, codec in self.codecs.items():
            if name == before:
                break
            encoded += codec.encode(getattr(self, name))
        return encoded

    @classmethod
    def decode(cls, reader: Reader) -> Any:
        found = {name: codec.decode(reader) for name, codec in cls.codecs.items()}
        return cls(**{name: value for name, value in found.items() if not isinstance(cls.codecs[name], Constant)})


def struct(name: str, **fields: Any) -> Any:
    """A struct without methods: its fields' codecs, or what `of` gives."""
    given = {field: codec if isinstance(codec, dataclasses.Field) else of(codec) for field, codec in fields.items()}
    return type(name, (Struct,), {"__annotations__": dict.fromkeys(given, Any), **given})


class Select:
    """`select`: a byte, or what `tag` says, that tells which struct follows."""

    def __init__(self, cases: dict[int, Any], tag: Any = uint8):
        self.cases, self.tag = cases, tag
        self.numbers = {case: number for number, case in cases.items()}

    def encode(self, value: Any) -> bytes:
        return self.tag.encode(self.numbers[type(value)]) + value.encode()

    def decode(self, reader: Reader) -> Any:
        number = self.tag.decode(reader)
        if number not in self.cases:
            raise Malformed(f"case {number} of a select is not known")
        return self.cases[number].decode(reader)
