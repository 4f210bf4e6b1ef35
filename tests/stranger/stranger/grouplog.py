"""Group policy (§7) and the group log with all that follows from it (§8)."""

from dataclasses import dataclass, field, replace

from .codec import (
    ZERO, Optional, Select, Struct, Vector, Wrapped, constant, decode, hash32, id16, of, opaque, uint8, uint16,
    uint32, uint64, version1,
)  # fmt: skip
from .crypto import labelled, require
from .identity import ED25519, authenticate
from .merkle import Frontier, Head, leaf_hash
from .messages import DEVICE_CREDENTIAL
from .mls import MlsGroup
from .records import DocumentClosed, DocumentCreated, DocumentReopened, Record, RecordVoided, RootWrap

VIEWER, EDITOR, ADMIN, OWNER = 1, 2, 3, 4
LIVE_CONTENT, FROM_JOIN = 0, 1
OWN, OTHER, FOR_ROLE = 1, 2, 3


class RoleEntry(Struct):
    user: bytes = of(hash32)
    role: int = of(uint8)


class Anchor(Struct):
    uri_prefix: bytes = of(opaque)
    certificate: bytes = of(opaque)


class TrustPolicy(Struct):
    pinned: int = of(uint8, default=1)
    anchors: list[Anchor] = of(Vector(Anchor), default_factory=list)
    endorsements: int = of(uint8, default=0)
    endorsement_depth: int = of(uint8, default=0)


class GroupPolicy(Struct):
    """The defaults are those of the table in §7."""

    version: int = version1()
    min_protocol_version: int = of(uint16, default=7)
    default_role: int = of(uint8, default=EDITOR)
    roles: list[RoleEntry] = of(Vector(RoleEntry))
    trust: TrustPolicy = of(TrustPolicy, default_factory=TrustPolicy)
    joiner_access: int = of(uint8, default=LIVE_CONTENT)
    attribution: int = of(uint8, default=1)
    service_may_remove: int = of(uint8, default=0)
    links_allowed: int = of(uint8, default=0)
    max_leaf_age_days: int = of(uint16, default=30)
    max_root_age_days: int = of(uint16, default=30)
    snapshot_after_records: int = of(uint32, default=500)
    snapshot_after_bytes: int = of(uint32, default=1_048_576)
    padding_bytes: int = of(uint16, default=1)

    def role(self, user: bytes) -> int:
        return next((entry.role for entry in self.roles if entry.user == user), self.default_role)


class CommitData(Struct):
    """The authenticated data of every commit (§8.1)."""

    version: int = version1()
    time: int = of(uint64)
    seen: Head = of(Head)
    roster: bytes = of(hash32)
    checkpoint: None = constant(Optional(Head), None)
    id: bytes = of(id16)


class RosterRow(Struct):
    device: bytes = of(id16)
    user: bytes = of(hash32)
    credential_type: int = constant(uint16, DEVICE_CREDENTIAL)
    credential: bytes = of(opaque)
    key: bytes = of(opaque)
    scheme: int = constant(uint16, ED25519)
    role: int = of(uint8)
    first_epoch: int = of(uint64)
    last_epoch: int | None = of(Optional(uint64), default=None)
    time: int = of(uint64)
    cause: int = of(uint8)

    def says(self) -> tuple[bytes, bytes, int]:
        return self.key, self.credential, self.role

    def can_be_for_role(self, before: "RosterRow | None") -> bool:
        """Whether it began where another ended, with another role and nothing else (§8.2)."""
        if before is None or before.last_epoch is None or before.last_epoch + 1 != self.first_epoch:
            return False
        return (self.key, self.credential) == (before.key, before.credential) and self.role != before.role

    def ended(self, last_epoch: int) -> "RosterRow":
        return replace(self, last_epoch=last_epoch)


def next_roster_hash(before: bytes, changed: list[RosterRow]) -> bytes:
    in_order = sorted(changed, key=lambda row: (row.device, row.first_epoch))
    return labelled("conclave 1.0 roster", [before, Vector(RosterRow).encode(in_order)])


@dataclass
class Roster:
    rows: list[RosterRow] = field(default_factory=list)
    hash: bytes = ZERO

    def current(self) -> dict[bytes, RosterRow]:
        return {row.device: row for row in self.rows if row.last_epoch is None}

    def at(self, device: bytes, epoch: int) -> RosterRow:
        """The row of a device in an epoch."""
        for row in self.rows:
            if row.device == device and row.first_epoch <= epoch <= (
                epoch if row.last_epoch is None else row.last_epoch
            ):
                return row
        require(False, "an author who was no member")
        raise AssertionError

    def after(self, mls: MlsGroup, time: int, replaced: set[bytes], author: bytes) -> "Roster":
        """The roster after a user's commit that led to `mls` (§8.2), and removed `replaced`, be it to add them again."""
        policy, leaves = read_policy(mls), {}
        for leaf in mls.tree.leaves().values():
            certificate = authenticate(leaf.credential, leaf.signature_key).certificate
            leaves[certificate.device] = RosterRow(
                device=certificate.device,
                user=certificate.user,
                credential=leaf.credential,
                key=leaf.signature_key,
                role=policy.role(certificate.user),
                first_epoch=mls.epoch,
                time=time,
                cause=OWN if certificate.user == author else OTHER,
            )
        rows, changed = [], []
        for row in self.rows:
            if row.last_epoch is None:
                leaf_row = leaves.get(row.device)
                if leaf_row and leaf_row.says() == row.says() and row.device not in replaced:
                    del leaves[row.device]
                else:
                    row = row.ended(mls.epoch - 1)
                    changed.append(row)
                    if leaf_row and leaf_row.can_be_for_role(row) and row.device not in replaced:
                        leaves[row.device] = replace(leaf_row, cause=FOR_ROLE)
            rows.append(row)
        changed += leaves.values()
        rows = sorted(rows + list(leaves.values()), key=lambda row: (row.first_epoch, row.device))
        return Roster(rows, next_roster_hash(self.hash, changed))

    @staticmethod
    def of_rows(rows: list[RosterRow], epoch: int) -> "Roster":
        """With the hash that the rows lead to, epoch by epoch (§8.6, 2). Each began for what it says (§8.3)."""
        last: dict[bytes, RosterRow] = {}
        for row in rows:
            begins = {OWN: True, OTHER: row.first_epoch > 0, FOR_ROLE: row.can_be_for_role(last.get(row.device))}
            require(begins.get(row.cause, False), "the cause of a row")
            last[row.device] = row
        found = ZERO
        for at in range(epoch + 1):
            begun = [replace(row, last_epoch=None) for row in rows if row.first_epoch == at]
            found = next_roster_hash(found, begun + [row for row in rows if row.last_epoch == at - 1])
        return Roster(rows, found)


def read_policy(mls: MlsGroup) -> GroupPolicy:
    policy: GroupPolicy = decode(GroupPolicy, mls.policy())
    return policy


# Public group state (§8.3).


class PendingProposal(Struct):
    seq: int = of(uint64)
    leaf: bytes = of(hash32)
    kind: int = of(uint8)
    device: bytes = of(id16)


class Core(Struct):
    version: int = constant(uint16, 2)
    group: bytes = of(id16)
    epoch: int = of(uint64)
    policy: bytes = of(opaque)
    roster_hash: bytes = of(hash32)
    last_time: int = of(uint64)
    pending: list[PendingProposal] = of(Vector(PendingProposal))
    rotating_since: int = of(uint64)
    frontier: Frontier = of(Frontier)
    epoch_start: int = of(uint64)
    epoch_log_roots: list[bytes] = of(Vector(hash32))
    begun_by: bytes = of(hash32)


class DocumentRow(Struct):
    document: bytes = of(id16)
    crdt: int = of(uint8)
    created_epoch: int = of(uint64)
    closed: int | None = of(Optional(uint8), default=None)


class VoidedRow(Struct):
    document: bytes = of(id16)
    record: bytes = of(hash32)
    user: bytes = of(hash32)


# Voided records of a document and of a group: in all; before which others than owners declare any; by one who is no owner (§8.5).
VOIDS, VOIDS_OF_ADMINS, VOIDS_OF_USER = (1024, 16_384), (768, 12_288), (128, 2048)


class Documents(Struct):
    documents: list[DocumentRow] = of(Vector(DocumentRow))
    voided: list[VoidedRow] = of(Vector(VoidedRow))

    def enter(self, record: Record, author: RosterRow) -> None:
        """What a signed entry says of documents (§8.5)."""
        body, epoch = record.header.body.body, record.header.epoch
        if isinstance(body, DocumentCreated):
            self.documents.append(DocumentRow(document=body.document, crdt=body.crdt, created_epoch=epoch))
            self.documents.sort(key=lambda row: row.document)
        elif isinstance(body, DocumentClosed):
            self.row(body.document).closed = body.reason
        elif isinstance(body, DocumentReopened):
            self.row(body.document).closed = None
        elif isinstance(body, RecordVoided):
            self.check_voids(body.document, author)
            self.voided.append(VoidedRow(document=body.document, record=body.record, user=author.user))

    def check_voids(self, document: bytes, author: RosterRow) -> None:
        def count(rows: list[VoidedRow]) -> tuple[int, int]:
            return sum(row.document == document for row in rows), len(rows)

        def below(counts: tuple[int, int], limits: tuple[int, int]) -> bool:
            return counts[0] < limits[0] and counts[1] < limits[1]

        own = count([row for row in self.voided if row.user == author.user])
        is_owner = author.role == OWNER
        require(below(count(self.voided), VOIDS if is_owner else VOIDS_OF_ADMINS), "room for a voided record")
        require(is_owner or below(own, VOIDS_OF_USER), "a share of the voided records")

    def row(self, document: bytes) -> DocumentRow:
        return next(row for row in self.documents if row.document == document)


class GroupState(Struct):
    core: Core = of(Wrapped(Core))
    roster: list[RosterRow] = of(Wrapped(Vector(RosterRow)))
    documents: Documents = of(Wrapped(Documents))


class JoinState(Struct):
    group_state: GroupState = of(Wrapped(GroupState))
    frontier: Frontier = of(Frontier)
    entries: list[Record] = of(Vector(Record))
    wrap: RootWrap = of(RootWrap)


class CommitEntry(Struct):
    commit: bytes = of(opaque)

    def leaf(self) -> bytes:
        return leaf_hash(b"\1" + self.commit)


class ProposalEntry(Struct):
    proposal: bytes = of(opaque)

    def leaf(self) -> bytes:
        return leaf_hash(b"\2" + self.proposal)


class SignedEntry(Struct):
    record: Record = of(Record)

    def leaf(self) -> bytes:
        return self.record.id()


GROUP_ENTRY = Select({1: CommitEntry, 2: ProposalEntry, 3: SignedEntry})
