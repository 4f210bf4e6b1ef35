"""A document's log as a member reads and writes it (§11)."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from .claims import Claims
from .codec import ZERO, Malformed, decode, uint64
from .cost import CAP, Yjs
from .crypto import labelled, require
from .merkle import Frontier, Head, Log
from .records import (
    CONTENT, TABLES, UNREADABLE, YJS, Author, AuthorRow, Chained, CostRow, Differs, ElidedRecord, Leaf, Match, Record,
    RecordHeader, ReplicaRow, SnapshotHeader, SnapshotPayload, Update, Verdict, VerdictPayload, WholeRecord,
)  # fmt: skip
from .yjs import Ranges, Replica, read_update


def fresh_client() -> int:
    """A Yjs client id (§10.3)."""
    return int.from_bytes(os.urandom(8), "big") % (1 << 53) or 1


LARGEST = 1 << 21  # canonical blocks of a Yjs document (§11.10)
UserOf = Callable[[RecordHeader], bytes]  # the user of a record's author


@dataclass
class Chain:
    """The records of one author."""

    next: int = 0
    last: bytes = ZERO
    closed: bool = False


class Content:
    """What a log says up to a position: the tables of a snapshot, and the document in an engine."""

    def __init__(self, base: SnapshotPayload, user_of: UserOf, founder: bytes):
        self.epoch_high = base.epoch_high
        self.chains = {row.author.encode(): Chain(row.next, row.last, bool(row.closed)) for row in base.authors}
        self.owners = {int.from_bytes(row.replica, "big"): (row.device, row.next) for row in base.replicas}
        self.user_of = user_of
        self.costs = {row.user: (row.balance, row.size) for row in base.costs}
        self.ops = base.ops
        self.claims = self.claims_of(base, founder)
        self.meter = Yjs()
        self.measure(base.state)
        self.replica = Replica(fresh_client(), base.state)

    def claims_of(self, base: SnapshotPayload, founder: bytes) -> Claims:
        """§11.6.1: what a snapshot tells, or what the document began with, where it is its first."""
        if base.claims is not None:
            return Claims.told(base.claims, sorted(self.owners))
        if base.frontier.size == 0:
            return Claims.founded(self.owners, founder)
        return Claims(known=False)

    def begin_epoch(self, seq: int, epoch: int) -> None:
        self.epoch_high = max(self.epoch_high, epoch)
        self.claims.begin(seq, epoch)

    def take(self, seq: int, header: RecordHeader, leaf: bytes, payload: bytes, is_applied: bool = False) -> None:
        """The next record. Whether the engine has it already, which is so of own edits."""
        self.begin_epoch(seq, header.epoch)
        body, author = header.body, header.author.encode()
        if not isinstance(body, Chained):
            return
        if author not in self.chains:
            for other, chain in self.chains.items():
                chain.closed = chain.closed or other.startswith(header.author.device)
        chain = self.chains.setdefault(author, Chain())
        require((body.clock, body.prev) == (chain.next, chain.last), "the place of a record in its author's chain")
        chain.next, chain.last = body.clock + 1, leaf
        if isinstance(body, Update) and self.charge(header, payload):
            self.claim(header.author.device, read_update(payload).ranges(), seq)
            if not is_applied:
                self.replica.apply(payload)

    def claim(self, device: bytes, ranges: Ranges, seq: int | None = None) -> None:
        """§11.5; of a record, which its place is known of."""
        for client, found in ranges.items():
            owner, at = self.owners.get(client, (device, 0))
            require(owner == device and len(found) == 1 and found[0][0] == at, "the rules for replica ids")
            self.owners[client] = (device, found[0][1])
            if seq is not None:
                self.claims.bring(client, seq, found[0][1] - at)

    def measure(self, state: bytes) -> None:
        """Takes a whole state into the numbers (§11.10)."""
        if state != b"\0\0":
            require("cost" in self.meter.count(state, CAP, LARGEST), "what a state costs")

    def charge(self, header: RecordHeader, update: bytes) -> bool:
        """Whether an update counts (§11.10)."""
        user = self.user_of(header)
        balance, size = self.costs.get(user, (CAP, 0))
        counted = self.meter.count(update, balance, max(0, min(LARGEST - self.ops, LARGEST // 2 - size)))
        if "refused" in counted:
            self.costs[user] = (counted["balance"], size)
            return False
        self.costs[user] = (counted["balance"], max(0, size + counted["size"] - self.ops))
        require(not counted["released"], "updates that wait for nothing")
        self.ops = counted["size"]
        return True

    def payload(self, frontier: Frontier) -> SnapshotPayload:
        authors = [
            AuthorRow(author=decode(Author, author), next=chain.next, last=chain.last, closed=int(chain.closed))
            for author, chain in sorted(self.chains.items())
        ]
        replicas = [
            ReplicaRow(replica=uint64.encode(client), device=device, next=at)
            for client, (device, at) in sorted(self.owners.items())
        ]
        costs = [
            CostRow(user=user, balance=balance, size=size)
            for user, (balance, size) in sorted(self.costs.items())
            if (balance, size) != (CAP, 0)
        ]
        return SnapshotPayload(
            epoch_high=self.epoch_high,
            frontier=frontier,
            authors=authors,
            replicas=replicas,
            costs=costs,
            ops=self.ops,
            claims=self.claims.tell(sorted(self.owners)) if frontier.size else None,
            state=self.replica.state(),
        )


@dataclass
class Snapshot:
    seq: int
    id: bytes
    header: RecordHeader
    payload: bytes

    @property
    def body(self) -> SnapshotHeader:
        body = self.header.body
        assert isinstance(body, SnapshotHeader)
        return body


@dataclass
class Document:
    """An open document."""

    group: bytes
    id: bytes
    channel: int
    authors: list[Author]
    base: Snapshot
    own_next: int
    own_last: bytes
    key_of: Callable[[RecordHeader], bytes]  # the device key of a record's author
    user_of: UserOf
    unseal: Callable[[Record], bytes]
    log: Log = field(init=False)
    content: Content = field(init=False)
    active: Snapshot = field(init=False)
    in_flight: dict[int, tuple[Record, bytes]] = field(default_factory=dict)
    records: list[tuple[int, RecordHeader, bytes, bytes]] = field(default_factory=list)
    unchecked: list[Snapshot] = field(default_factory=list)
    verdicts: list[tuple[bytes, VerdictPayload]] = field(default_factory=list)  # with their devices

    def __post_init__(self) -> None:
        payload = decode(SnapshotPayload, self.base.payload)
        require(payload.frontier.head() == self.base.body.covered, "the frontier of a base snapshot")
        require(payload.epoch_high <= self.base.header.epoch, "the highest epoch of a base snapshot")
        self.log, self.active = Log(payload.frontier), self.base
        self.content = Content(payload, self.user_of, self.base.header.author.device)

    # Reading.

    def deliver(self, record: ElidedRecord | WholeRecord | Leaf) -> None:
        if isinstance(record, Leaf):
            self.log.append(record.hash)
            if self.log.size - 1 == self.base.seq:
                require(record.hash == self.base.id, "the place of the base snapshot")
                self.content.begin_epoch(self.base.seq, self.base.header.epoch)
                self.records.append((self.base.seq, self.base.header, self.base.id, b""))
            return
        if isinstance(record, WholeRecord):
            whole = record.record
            if not self.log.leads_to(whole.header.seen):
                self.log.learn(whole.header.seen, record.proof)
        else:
            whole = self.fill_in(record)
        whole.check_signature(self.key_of(whole.header))
        leaf = whole.id()
        self.log.append(leaf)
        self.take(whole.header, leaf, self.unseal(whole))

    def fill_in(self, elided: ElidedRecord) -> Record:
        """What an elided record leaves out (§14.3)."""
        author = self.authors[elided.author]
        chain = self.content.chains.get(author.encode(), Chain())
        size = self.log.size - elided.seen_back
        seen = Head(size=size, root=self.log.roots[size])
        require(seen.root.startswith(elided.seen_hint), "a seen hint")
        header = RecordHeader(
            group=self.group,
            document=self.id,
            epoch=elided.epoch,
            author=author,
            seen=seen,
            body=elided.body(clock=chain.next, prev=chain.last),
        )
        return Record(header=header, sealed=elided.sealed)

    def take(self, header: RecordHeader, leaf: bytes, payload: bytes, is_own: bool = False) -> None:
        seq, body = self.log.size - 1, header.body
        self.records.append((seq, header, leaf, payload))
        self.content.take(seq, header, leaf, payload, is_applied=is_own)
        if isinstance(body, SnapshotHeader):
            require(
                body.chain_proof == self.next_chain_proof() and body.parent == self.active.id, "a snapshot's parent"
            )
            self.active = Snapshot(seq, leaf, header, payload)
            if not is_own:
                self.unchecked.append(self.active)
        if isinstance(body, Verdict):
            self.verdicts.append((header.author.device, decode(VerdictPayload, payload)))

    # Writing.

    def next_header(self, epoch: int, author: Author, body: type[Chained]) -> RecordHeader:
        place = body(clock=self.own_next, prev=self.own_last)
        return RecordHeader(
            group=self.group, document=self.id, epoch=epoch, author=author, seen=self.log.head(), body=place
        )

    def sent(self, record: Record, payload: bytes) -> None:
        self.in_flight[self.own_next] = (record, payload)
        self.own_next, self.own_last = self.own_next + 1, record.id()

    def acknowledged(self, next_clock: int, first_seq: int, count: int) -> None:
        require(first_seq == self.log.size, "the position of own records")
        for clock in range(next_clock - count, next_clock):
            record, payload = self.in_flight.pop(clock)
            leaf = record.id()
            self.log.append(leaf)
            self.take(record.header, leaf, payload, is_own=True)

    def next_chain_proof(self) -> bytes:
        return labelled("conclave 1.0 snapshot chain", [self.active.body.chain_proof, self.active.id])

    def next_snapshot(self, epoch: int, author: Author) -> tuple[RecordHeader, SnapshotPayload]:
        covered = self.log.head()
        body = SnapshotHeader(parent=self.active.id, chain_proof=self.next_chain_proof(), covered=covered, crdt=YJS)
        header = RecordHeader(group=self.group, document=self.id, epoch=epoch, author=author, seen=covered, body=body)
        return header, self.content.payload(self.log.frontier)

    # Checking (§11.6).

    def judge(self, snapshot: Snapshot) -> Match | Differs:
        """Compares a snapshot with what the log says up to its covered head."""
        try:
            payload = decode(SnapshotPayload, snapshot.payload)
        except Malformed:
            return Differs(why=UNREADABLE)
        content = Content(decode(SnapshotPayload, self.base.payload), self.user_of, self.base.header.author.device)
        covered = snapshot.body.covered
        for seq, header, leaf, sealed in self.records:
            if seq < covered.size:
                content.take(seq, header, leaf, sealed)
        own = content.payload(payload.frontier)
        # What is not told is not compared, nor what cannot be.
        if payload.claims is None or own.claims is None:
            payload.claims = own.claims = None
        is_right = payload.frontier.head() == covered and self.log.leads_to(covered)
        if not is_right or own.encode(before="state") != payload.encode(before="state"):
            return Differs(why=TABLES)
        same = content.replica.content() == Replica(fresh_client(), payload.state).content()
        return Match() if same else Differs(why=CONTENT)
