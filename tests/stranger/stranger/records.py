"""Epoch keys and root wraps (§9), records and what they seal (§10)."""

import os
from typing import Any, ClassVar

from .codec import (
    ZERO, Malformed, Optional, Select, Struct, Vector, constant, decode, hash32, id8, id16, nonce24, of, opaque, signature64,
    uint8, uint16, uint64, varint, version1,
)  # fmt: skip
from .crypto import SigningKey, expand_with_label, labelled, mac, require, verify, xchacha_open, xchacha_seal
from .merkle import Frontier, Head, leaf_hash

YJS = 1
NO_DOCUMENT = bytes(16)


class Author(Struct):
    device: bytes = of(id16)
    instance: bytes = of(id8)


class Chained(Struct):
    clock: int = of(uint64)
    prev: bytes = of(hash32)


class Update(Chained):
    pass


class Verdict(Chained):
    pass


class Carried(Chained):
    pass


class SnapshotHeader(Struct):
    parent: bytes = of(hash32)
    chain_proof: bytes = of(hash32)
    covered: Head = of(Head)
    crdt: int = of(uint8)


class DocumentCreated(Struct):
    document: bytes = of(id16)
    crdt: int = of(uint8)


class DocumentClosed(Struct):
    document: bytes = of(id16)
    reason: int = of(uint8)


class DocumentReopened(Struct):
    document: bytes = of(id16)


class RecordVoided(Struct):
    document: bytes = of(id16)
    record: bytes = of(hash32)


class RotationComplete(Struct):
    epoch: int = of(uint64)


ENTRY_BODY = Select({1: DocumentCreated, 2: DocumentClosed, 3: RecordVoided, 4: RotationComplete, 6: DocumentReopened})


class Entry(Struct):
    body: Any = of(ENTRY_BODY)


BODY = Select({1: Update, 2: Verdict, 3: SnapshotHeader, 5: Entry, 7: Carried})


class RecordHeader(Struct):
    version: int = version1()
    group: bytes = of(id16)
    document: bytes = of(id16)
    epoch: int = of(uint64)
    author: Author = of(Author)
    seen: Head = of(Head)
    body: Any = of(BODY)


class Sealed(Struct):
    nonce: bytes = of(nonce24)
    ciphertext: bytes = of(opaque)
    tag: bytes = of(id16)
    commitment: bytes = of(hash32)
    signature: bytes = of(signature64)


class Record(Struct):
    header: RecordHeader = of(RecordHeader)
    sealed: Sealed = of(Sealed)

    def core(self) -> bytes:
        sealed = self.sealed
        parts = [self.header.encode(), sealed.nonce, sealed.ciphertext, sealed.tag, sealed.commitment]
        return labelled("conclave 1.0 record core", parts)

    def id(self) -> bytes:
        """Its leaf in the log."""
        return leaf_hash(self.core() + self.sealed.signature)

    def check_signature(self, key: bytes) -> None:
        verify(key, "conclave 1.0 record", self.core(), self.sealed.signature)

    def signed(self, key: SigningKey) -> "Record":
        self.sealed.signature = key.sign("conclave 1.0 record", self.core())
        return self


class DocumentKeys:
    """The keys of a document in an epoch (§9)."""

    def __init__(self, epoch_root: bytes, document: bytes):
        self.content = expand_with_label(epoch_root, "content", document)
        self.commit = expand_with_label(epoch_root, "commitment", document)

    def commitment(self, header: bytes, nonce: bytes, tag: bytes) -> bytes:
        key = expand_with_label(self.commit, "record", nonce)
        return mac(key, opaque.encode(header) + nonce + tag)


def seal(
    header: RecordHeader, payload: bytes, epoch_root: bytes, key: SigningKey, padding: int, nonce: bytes = b""
) -> Record:
    """§10.1. The nonce is random but for a test vector."""
    nonce = nonce or os.urandom(24)
    keys, encoded, plaintext = DocumentKeys(epoch_root, header.document), header.encode(), payload + b"\x80"
    plaintext += bytes(-len(plaintext) % padding)
    sealed = xchacha_seal(keys.content, nonce, plaintext, encoded)
    ciphertext, tag = sealed[:-16], sealed[-16:]
    commitment = keys.commitment(encoded, nonce, tag)
    parts = Sealed(nonce=nonce, ciphertext=ciphertext, tag=tag, commitment=commitment, signature=b"")
    return Record(header=header, sealed=parts).signed(key)


def sign_entry(header: RecordHeader, key: SigningKey) -> Record:
    """§8.5: a record that seals nothing."""
    nothing = Sealed(nonce=bytes(24), ciphertext=b"", tag=bytes(16), commitment=ZERO, signature=b"")
    return Record(header=header, sealed=nothing).signed(key)


def unseal(record: Record, epoch_root: bytes) -> bytes:
    header, sealed = record.header.encode(), record.sealed
    keys = DocumentKeys(epoch_root, record.header.document)
    require(keys.commitment(header, sealed.nonce, sealed.tag) == sealed.commitment, "a commitment")
    plaintext = xchacha_open(keys.content, sealed.nonce, sealed.ciphertext + sealed.tag, header).rstrip(b"\0")
    if not plaintext.endswith(b"\x80"):
        raise Malformed("no padding mark")
    return plaintext[:-1]


# Payloads (§10.2).


class Match(Struct):
    pass


class Differs(Struct):
    why: int = of(uint8)


UNREADABLE, UNLOADABLE, CONTENT, TABLES = 1, 2, 3, 4


class VerdictPayload(Struct):
    version: int = constant(uint8, 2)
    snapshot: bytes = of(hash32)
    from_: int = of(uint64)
    judgement: Match | Differs = of(Select({1: Match, 2: Differs}))


class AuthorRow(Struct):
    author: Author = of(Author)
    next: int = of(uint64)
    last: bytes = of(hash32)
    closed: int = of(uint8)


class ReplicaRow(Struct):
    replica: bytes = of(opaque)
    device: bytes = of(id16)
    next: int = of(uint64)


class CostRow(Struct):
    user: bytes = of(hash32)
    balance: int = of(uint64)
    size: int = of(uint64)


class EpochRow(Struct):
    after: int = of(varint)
    more: int = of(varint)


class ClaimRow(Struct):
    after: int = of(varint)
    records: int = of(varint)
    each: int = of(varint)
    carrier: bytes | None = of(Optional(id16), default=None)


class ReplicaClaims(Struct):
    rows: list[ClaimRow] = of(Vector(ClaimRow))


class WireClaims(Struct):
    epochs: list[EpochRow] = of(Vector(EpochRow))
    replicas: list[ReplicaClaims] = of(Vector(ReplicaClaims))


class SnapshotPayload(Struct):
    version: int = constant(uint16, 3)
    epoch_high: int = of(uint64)
    frontier: Frontier = of(Frontier)
    authors: list[AuthorRow] = of(Vector(AuthorRow))
    replicas: list[ReplicaRow] = of(Vector(ReplicaRow))
    costs: list[CostRow] = of(Vector(CostRow))
    ops: int = of(uint64)
    claims: WireClaims | None = of(Optional(WireClaims), default=None)
    state: bytes = of(opaque)


# Root wraps (§9.1).


class WrapStatement(Struct):
    group: bytes = of(id16)
    epoch: int = of(uint64)
    commit: bytes = of(hash32)
    roster: bytes = of(hash32)
    nonce: bytes = of(nonce24)
    ciphertext: bytes = of(opaque)

    def associated(self) -> bytes:
        parts = [self.group, uint64.encode(self.epoch), self.commit, self.roster]
        return labelled("conclave 1.0 root wrap data", parts)


class RootWrap(Struct):
    statement: WrapStatement = of(WrapStatement)
    signer: bytes = of(id16)
    signature: bytes = of(signature64)

    def check_signature(self, key: bytes) -> None:
        verify(key, "conclave 1.0 root wrap", self.statement.encode(), self.signature)

    def roots(self, wrap_key: bytes) -> dict[int, bytes]:
        statement = self.statement
        if not statement.ciphertext:
            return {}
        plaintext = xchacha_open(wrap_key, statement.nonce, statement.ciphertext, statement.associated())
        return {found.epoch: found.root for found in decode(Vector(WrappedRoot), plaintext)}


class WrappedRoot(Struct):
    epoch: int = of(uint64)
    root: bytes = of(hash32)


def wrap_roots(
    statement: WrapStatement, wrap_key: bytes, roots: dict[int, bytes], device: bytes, key: SigningKey
) -> RootWrap:
    """`statement` says for whom; nonce and ciphertext are filled in."""
    if roots:
        wrapped = [WrappedRoot(epoch=epoch, root=root) for epoch, root in sorted(roots.items())]
        statement.nonce = os.urandom(24)
        plaintext = Vector(WrappedRoot).encode(wrapped)
        statement.ciphertext = xchacha_seal(wrap_key, statement.nonce, plaintext, statement.associated())
    signature = key.sign("conclave 1.0 root wrap", statement.encode())
    return RootWrap(statement=statement, signer=device, signature=signature)


# What travels (§14.2).


class AppendedRecord(Struct):
    kind: int = of(uint8)
    seen_size: int = of(varint)
    seen_hint: bytes = of(id8)
    sealed: Sealed = of(Sealed)


class ElidedRecord(Struct):
    author: int = of(varint)
    epoch: int = of(varint)
    seen_back: int = of(varint)
    seen_hint: bytes = of(id8)
    sealed: Sealed = of(Sealed)
    body: ClassVar[type[Chained]]


class ElidedUpdate(ElidedRecord):
    body = Update


class ElidedVerdict(ElidedRecord):
    body = Verdict


class ElidedCarried(ElidedRecord):
    body = Carried


class WholeRecord(Struct):
    record: Record = of(Record)
    proof: list[bytes] = of(Vector(hash32))


class Leaf(Struct):
    hash: bytes = of(hash32)


DELIVERED = Select({1: ElidedUpdate, 2: ElidedVerdict, 3: WholeRecord, 4: Leaf, 6: ElidedCarried})
