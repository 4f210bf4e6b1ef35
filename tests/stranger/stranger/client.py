"""A device: its groups, and what it does in them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .codec import ZERO, decode
from .connection import Connection, Life
from .crypto import labelled, require
from .document import Content, Document, Snapshot, fresh_client
from .frames import (
    Ack, AckWelcome, Append, AppendRefused, ClaimKeyPackages, CommitBundle, CreateDocument, CreateGroup, Deliver,
    GetDeviceList, GetStatus, GetWraps, GroupEntries, HeadFrame, LogName, NewAuthor, OpenDocument, Propose,
    PutDeviceList, PutEntry, PutKeyPackages, PutSnapshot, SignedHead, SubscribeGroup, WelcomeDelivery,
)  # fmt: skip
from .grouplog import (
    FROM_JOIN, OWNER, CommitData, CommitEntry, Documents, GroupPolicy, JoinState, ProposalEntry, RoleEntry, Roster,
    SignedEntry, read_policy,
)  # fmt: skip
from .identity import Contact, OwnDevice, authenticate, group_code
from .merkle import Frontier, Log
from .messages import (
    Add, Commit, FramedContent, Inline, KeyPackage, LeafNode, Member, PublicMessage, Reference, Remove, SelfRemove,
    Welcome, from_message, to_message,
)  # fmt: skip
from .mls import MlsGroup, OwnKeyPackage, Processed, Signer
from .records import (
    NO_DOCUMENT, YJS, AppendedRecord, Author, Chained, DocumentCreated, Entry, Match, Record, RecordHeader,
    RootWrap, RotationComplete, SnapshotHeader, SnapshotPayload, Update, Verdict, VerdictPayload, WrapStatement,
    seal, sign_entry, unseal, wrap_roots,
)  # fmt: skip
from .yjs import Replica, Text

KEY_PACKAGES, LOW_WATER = 20, 8


def directory_id(group: bytes) -> bytes:
    return labelled("conclave 1.0 directory", [group])[:16]


@dataclass
class OwnCommit:
    """A commit of this device that is not in the log yet."""

    message: bytes
    after: MlsGroup
    replaced: set[int]


@dataclass
class Group:
    id: bytes
    mls: MlsGroup
    roster: Roster
    last_time: int
    log: Log = field(default_factory=Log)
    epoch_start: int = 0
    begun_by: bytes = ZERO
    documents: Documents = field(default_factory=lambda: Documents(documents=[], voided=[]))
    roots: dict[int, bytes] = field(default_factory=dict)
    own_commit: OwnCommit | None = None

    def policy(self) -> GroupPolicy:
        return read_policy(self.mls)

    def code(self) -> str:
        return group_code(self.mls.secrets.authenticator())

    def users(self) -> set[bytes]:
        return {row.user for row in self.roster.current().values()}

    def keep_root(self) -> None:
        self.roots[self.mls.epoch] = self.mls.secrets.export("conclave 1.0 epoch root")

    def author_of(self, content: FramedContent) -> bytes:
        """The user whose commit it is: of a member, or of the leaf with which somebody comes from outside."""
        if isinstance(content.sender, Member):
            return user_of(self.mls.tree.leaf(content.sender.leaf_index))
        assert isinstance(content.content, Commit) and content.content.path is not None
        return user_of(content.content.path.leaf)

    def devices_of(self, leaves: set[int]) -> set[bytes]:
        return {device_of(self.mls.tree.leaf(index)) for index in leaves}


def device_of(leaf: LeafNode) -> bytes:
    return authenticate(leaf.credential, leaf.signature_key).certificate.device


def user_of(leaf: LeafNode) -> bytes:
    return authenticate(leaf.credential, leaf.signature_key).certificate.user


class Client:
    """One device. It keeps nothing on disk: what it knows lives as long as it does."""

    def __init__(self, own: OwnDevice, url: str):
        self.own, self.url, self.life = own, url, Life()
        self.signer = Signer(own.device_key, own.credential.encode())
        self.author = Author(device=self.own.device, instance=os.urandom(8))
        self.key_packages: dict[bytes, OwnKeyPackage] = {}
        self.groups: dict[bytes, Group] = {}
        self.left: set[bytes] = set()
        self.welcomes: dict[bytes, WelcomeDelivery] = {}
        self.channels: dict[int, Document] = {}
        self.early: list[Any] = []  # frames of a channel that is being opened
        self.connection: Connection

    # Connection.

    def connect(self) -> None:
        connection = Connection(self.url, self.own, self.life)
        self.connection, self.channels = connection, {}
        connection.handlers = {
            GroupEntries: self.on_group_entries,
            WelcomeDelivery: self.on_welcome,
            HeadFrame: lambda frame: self.check_head(frame.signed, frame.log),
            NewAuthor: self.on_channel_frame,
            Deliver: self.on_channel_frame,
            Ack: self.on_channel_frame,
            AppendRefused: self.on_refused,
        }
        self.ask(PutDeviceList(list=self.own.devices))
        self.publish_key_packages()
        for group in self.groups.values():
            self.follow(group)

    def close(self) -> None:
        self.connection.close()

    def ask(self, body: Any) -> Any:
        return self.connection.ask(body)

    def publish_key_packages(self) -> None:
        ready, now_s = self.connection.ready, self.connection.now_ms() // 1000

        def make(last_resort: bool) -> bytes:
            own = OwnKeyPackage.make(self.own.device_key, self.signer.credential, now_s, last_resort)
            self.key_packages[own.package.reference()] = own
            return to_message(own.package)

        missing = KEY_PACKAGES - ready.key_packages if ready.key_packages < LOW_WATER else 0
        last_resort = None if ready.last_resort else make(True)
        self.ask(PutKeyPackages(one_time=[make(False) for _ in range(missing)], last_resort=last_resort))

    def check_head(self, signed: SignedHead, log: LogName) -> None:
        assert self.life.service_key is not None
        signed.check(self.connection.generation, self.life.service_key, log)

    def wait(self, until: Callable[[], bool], what: str, seconds: float = 20) -> None:
        if not self.connection.pump(until, seconds):
            raise TimeoutError(what)

    # Group logs.

    def follow(self, group: Group) -> None:
        answer = self.ask(SubscribeGroup(group=group.id, from_=group.log.size))
        if answer.signed is not None:
            self.check_head(answer.signed, LogName(group=group.id))
        self.wait(lambda: group.log.size >= answer.head.size, "the group's log")
        require(group.log.leads_to(answer.head), "the head of a group's log")

    def on_group_entries(self, frame: GroupEntries) -> None:
        for seq, entry in enumerate(frame.entries, frame.first_seq):
            group = self.groups.get(frame.group)
            if group is None or seq < group.log.size:
                continue
            require(seq == group.log.size, "no gap in a group's log")
            if isinstance(entry, CommitEntry):
                self.take_commit(group, entry)
            elif isinstance(entry, ProposalEntry):
                group.mls.keep_proposal(from_message(PublicMessage, entry.proposal))
            elif isinstance(entry, SignedEntry):
                self.take_entry(group, entry.record)
            group.log.append(entry.leaf())
            if isinstance(entry, CommitEntry):
                group.epoch_start, group.begun_by = group.log.size, entry.leaf()

    def take_entry(self, group: Group, record: Record) -> None:
        header = record.header
        require(header.epoch == group.mls.epoch, "the epoch of an entry")
        require(group.epoch_start <= header.seen.size and group.log.leads_to(header.seen), "the seen head of an entry")
        author = group.roster.at(header.author.device, header.epoch)
        record.check_signature(author.key)
        group.documents.enter(record, author)

    def take_commit(self, group: Group, entry: CommitEntry) -> None:
        """§8.4, but for roles and limits: this client relies on the service for those."""
        message = from_message(PublicMessage, entry.commit)
        own = group.own_commit
        if own is not None and own.message == entry.commit:
            done = Processed(message.content, own.after, own.replaced)
        else:
            done = group.mls.process(message)
        if done.after is None:
            self.left.add(group.id)
            del self.groups[group.id]
            return
        data: CommitData = decode(CommitData, done.content.authenticated_data)
        require(data.time >= group.last_time, "the time of a commit")
        require(group.epoch_start <= data.seen.size and group.log.leads_to(data.seen), "the seen head of a commit")
        is_external = message.membership_tag is None
        replaced = set() if is_external else group.devices_of(done.replaced)
        roster = group.roster.after(done.after, data.time, replaced, group.author_of(done.content))
        require(roster.hash == data.roster, "the roster hash of a commit")
        group.mls, group.roster, group.last_time, group.own_commit = done.after, roster, data.time, None
        group.keep_root()

    def commit(self, group: Group, wanted: list[Inline | Reference]) -> None:
        """Sends a commit that also covers what is pending, and waits until it is in the log."""
        proposals: list[Inline | Reference] = [Reference(hash=reference) for reference in group.mls.proposals]
        proposals += wanted
        only_adds = bool(proposals) and all(isinstance(getattr(item, "proposal", None), Add) for item in proposals)
        after, removed, _ = group.mls.after_proposals(proposals)
        after.epoch += 1
        time = max(group.last_time, self.connection.now_ms())
        roster = group.roster.after(after, time, group.devices_of(removed), self.own.user).hash
        data = CommitData(time=time, seen=group.log.head(), roster=roster, id=os.urandom(16)).encode()
        after, message, welcome = group.mls.commit(self.signer, data, proposals, with_path=not only_adds)
        encoded = to_message(message)
        group.own_commit = OwnCommit(encoded, after, removed)
        bundle = CommitBundle(
            group=group.id,
            commit=encoded,
            welcome=None if welcome is None else to_message(welcome),
            group_info=to_message(after.group_info(self.own.device_key)),
            wrap=self.wrap(group, after, CommitEntry(commit=encoded).leaf(), roster),
        )
        self.ask(bundle)
        self.wait(lambda: group.own_commit is None, "the own commit in the log")

    def wrap(self, group: Group, after: MlsGroup, commit: bytes, roster: bytes) -> RootWrap:
        roots = {} if group.policy().joiner_access == FROM_JOIN else group.roots
        statement = WrapStatement(
            group=group.id, epoch=after.epoch, commit=commit, roster=roster, nonce=bytes(24), ciphertext=b""
        )
        key = after.secrets.export("conclave 1.0 root wrap")
        return wrap_roots(statement, key, roots, self.own.device, self.own.device_key)

    # Founding, inviting, removing.

    def found(self, name: str) -> Group:
        """§8.2, §10.4."""
        now = self.connection.now_ms()
        policy = GroupPolicy(roles=[RoleEntry(user=self.own.user, role=OWNER)])
        mls = MlsGroup.found(os.urandom(16), self.signer, policy.encode(), now // 1000)
        group = Group(mls.group_id, mls, Roster().after(mls, now, set(), self.own.user), now)
        group.keep_root()
        self.groups[group.id] = group
        info = to_message(mls.group_info(self.own.device_key))
        self.ask(CreateGroup(group_info=info, tree=mls.tree.encode(), founded=now))
        self.follow(group)

        def write(replica: Replica) -> None:
            replica.root["name"] = Text(name)

        self.create_document(group, directory_id(group.id), write)
        return group

    def invite(self, group: Group, contact: Contact) -> None:
        """Adds all devices of a user whose contact was verified."""
        user = contact.genesis.user()
        devices = self.ask(GetDeviceList(user=user)).list
        devices.check()
        require(devices.genesis == contact.genesis, "the user of a device list")
        proposals: list[Inline | Reference] = []
        for claimed in self.ask(ClaimKeyPackages(user=user)).packages:
            package: KeyPackage = from_message(KeyPackage, claimed.key_package)
            package.check()
            authenticate(package.leaf.credential, package.leaf.signature_key)
            require(devices.names(claimed.device, package.leaf.signature_key), "a device in its user's list")
            if claimed.device not in group.roster.current():
                proposals.append(Inline(proposal=Add(key_package=package)))
        require(bool(proposals), "a key package of the user")
        self.commit(group, proposals)

    def remove(self, group: Group, user: bytes) -> None:
        """Removes a user's devices and puts the documents under new keys (§12)."""
        mine = [row.key for row in group.roster.current().values() if row.user == user]
        self.commit(group, [Inline(proposal=Remove(removed=group.mls.index_of(key))) for key in mine])
        self.rotate(group)

    def rotate(self, group: Group) -> None:
        status = self.ask(GetStatus(group=group.id))
        if not status.rotating_since:
            return
        for document in status.documents:
            if document.due and document.snapshot.body.crdt == YJS:
                self.put_snapshot(self.open(group, document.document))
        body = RotationComplete(epoch=status.rotating_since)
        self.ask(PutEntry(entry=self.entry(group, body)))

    def leave(self, group: Group) -> None:
        """Proposes it; another member's commit completes it."""
        message = group.mls.propose(self.signer, SelfRemove())
        self.ask(Propose(group=group.id, message=to_message(message)))

    def entry(self, group: Group, body: Any) -> Record:
        header = self.header(group, NO_DOCUMENT, group.log, Entry(body=body))
        return sign_entry(header, self.own.device_key)

    def header(self, group: Group, document: bytes, log: Log, body: Any) -> RecordHeader:
        epoch, seen = group.mls.epoch, log.head()
        return RecordHeader(group=group.id, document=document, epoch=epoch, author=self.author, seen=seen, body=body)

    # Joining (§8.6).

    def on_welcome(self, delivery: WelcomeDelivery) -> None:
        self.welcomes[delivery.group] = delivery

    def accept(self, delivery: WelcomeDelivery) -> Group:
        state, offered = delivery.state.group_state, delivery.state
        core = state.core
        require(core.group == delivery.group and core.epoch == delivery.epoch > 0, "the epoch of a state")
        require(not core.pending and core.frontier.size == core.epoch_start, "a state right after its commit")
        require(core.frontier == offered.frontier, "one frontier")
        roster = Roster.of_rows(state.roster, core.epoch)
        require(roster.hash == core.roster_hash, "the chain of a roster")
        self.check_offer(offered, roster)
        mls, used, sender = MlsGroup.join(from_message(Welcome, delivery.welcome), delivery.tree, self.key_packages)
        require((mls.group_id, mls.epoch, mls.policy()) == (core.group, core.epoch, core.policy), "a GroupContext")
        rows = {device_of(leaf): (leaf.credential, leaf.signature_key) for leaf in mls.tree.leaves().values()}
        current = roster.current()
        require(rows == {device: (row.credential, row.key) for device, row in current.items()}, "leaves and rows")
        own = current[self.own.device]
        begun = (own.key, own.first_epoch, own.time)
        require(begun == (self.own.device_key.public, core.epoch, core.last_time), "the own row")
        require(device_of(mls.tree.leaf(sender)) == offered.wrap.signer, "the sender of a Welcome")
        group = Group(mls.group_id, mls, roster, core.last_time, Log(core.frontier), core.epoch_start, core.begun_by)
        group.documents = state.documents
        group.roots = offered.wrap.roots(mls.secrets.export("conclave 1.0 root wrap"))
        group.keep_root()
        self.groups[group.id] = group
        if not used.last_resort:
            del self.key_packages[used.package.reference()]
        del self.welcomes[group.id]
        self.ask(AckWelcome(id=delivery.id))
        self.follow(group)
        return group

    def check_offer(self, offered: JoinState, roster: Roster) -> None:
        """The root wrap and the signed entries (§8.6, 3 and 4)."""
        core, statement = offered.group_state.core, offered.wrap.statement
        offered.wrap.check_signature(roster.current()[offered.wrap.signer].key)
        said = (statement.group, statement.epoch, statement.commit, statement.roster)
        require(said == (core.group, core.epoch, core.begun_by, core.roster_hash), "the statement of a wrap")
        replayed = Documents(documents=[], voided=[])
        for record in offered.entries:
            author = roster.at(record.header.author.device, record.header.epoch)
            record.check_signature(author.key)
            replayed.enter(record, author)
        require(replayed == offered.group_state.documents, "the documents of a state")

    # Documents.

    def create_document(self, group: Group, document: bytes, write: Callable[[Replica], None]) -> None:
        replica = Replica(fresh_client())
        write(replica)
        nothing = SnapshotPayload(
            epoch_high=0, frontier=Frontier(size=0, nodes=[]), authors=[], replicas=[], costs=[], ops=0, state=b"\0\0"
        )
        content = Content(nothing, lambda _: self.own.user, self.own.device)
        content.claim(self.own.device, replica.ranges())
        content.replica = replica
        content.measure(replica.state())
        content.ops = content.meter.size()
        empty = Log()
        payload = content.payload(empty.frontier).encode()
        body = SnapshotHeader(parent=ZERO, chain_proof=ZERO, covered=empty.head(), crdt=YJS)
        snapshot = self.seal(group, self.header(group, document, empty, body), payload)
        entry = self.entry(group, DocumentCreated(document=document, crdt=YJS))
        size = self.ask(CreateDocument(entry=entry, snapshot=snapshot)).seq
        self.wait(lambda: group.log.size > size, "the own entry in the log")

    def create_titled(self, group: Group, title: str, text: str) -> bytes:
        document = os.urandom(16)
        self.create_document(group, document, lambda replica: replica.text.insert(0, text))

        def write(replica: Replica) -> None:
            replica.root[document.hex()] = Text(title)

        self.edit(self.open(group, directory_id(group.id)), write)
        return document

    def seal(self, group: Group, header: RecordHeader, payload: bytes) -> Record:
        padding = group.policy().padding_bytes
        return seal(header, payload, group.roots[header.epoch], self.own.device_key, padding)

    def root(self, group: Group, epoch: int) -> bytes:
        if epoch not in group.roots:
            key = group.mls.secrets.export("conclave 1.0 root wrap")
            for wrap in self.ask(GetWraps(group=group.id, epoch=group.mls.epoch)).wraps:
                group.roots = wrap.roots(key) | group.roots
        return group.roots[epoch]

    def open(self, group: Group, document: bytes) -> Document:
        """From the newest snapshot on."""
        answer = self.ask(OpenDocument(group=group.id, document=document, instance=self.author.instance))
        self.check_head(answer.signed, LogName(group=group.id, document=document))
        record, header = answer.base.record, answer.base.record.header

        def key_of(header: RecordHeader) -> bytes:
            return group.roster.at(header.author.device, header.epoch).key

        def user_of(header: RecordHeader) -> bytes:
            return group.roster.at(header.author.device, header.epoch).user

        def open_record(record: Record) -> bytes:
            return unseal(record, self.root(group, record.header.epoch))

        record.check_signature(key_of(header))
        base = Snapshot(answer.base.seq, record.id(), header, open_record(record))
        opened = Document(
            group.id,
            document,
            answer.channel,
            answer.authors,
            base,
            answer.own_next_clock,
            answer.own_last,
            key_of,
            user_of,
            open_record,
        )
        self.channels[opened.channel] = opened
        early, self.early = self.early, []
        for frame in early:
            self.on_channel_frame(frame)
        self.wait(lambda: opened.log.size >= answer.signed.head.size, "the document's log")
        require(opened.log.leads_to(answer.signed.head), "the head of a document's log")
        return opened

    def on_channel_frame(self, frame: NewAuthor | Deliver | Ack) -> None:
        document = self.channels.get(frame.channel)
        if document is None:
            self.early.append(frame)
        elif isinstance(frame, NewAuthor):
            document.authors.append(frame.author)
        elif isinstance(frame, Ack):
            document.acknowledged(frame.next_clock, frame.first_seq, frame.count)
        else:
            require(frame.first_seq == document.log.size, "no gap in a document's log")
            for record in frame.records:
                document.deliver(record)

    def on_refused(self, frame: AppendRefused) -> None:
        raise frame.refusal

    def edit(self, document: Document, change: Callable[[Replica], None]) -> None:
        self.append(document, Update, document.content.replica.edit(change))

    def append(self, document: Document, kind: type[Chained], payloads: list[bytes]) -> None:
        group, first_clock, records = self.groups[document.group], document.own_next, []
        for payload in payloads:
            header = document.next_header(group.mls.epoch, self.author, kind)
            record = self.seal(group, header, payload)
            document.sent(record, payload)
            number = {Update: 1, Verdict: 2}[kind]
            hint = header.seen.root[:8]
            records.append(
                AppendedRecord(kind=number, seen_size=header.seen.size, seen_hint=hint, sealed=record.sealed)
            )
        frame = Append(channel=document.channel, epoch=group.mls.epoch, first_clock=first_clock, records=records)
        self.connection.send(frame)
        self.wait(lambda: not document.in_flight, "an acknowledgement")

    def put_snapshot(self, document: Document) -> bytes:
        group = self.groups[document.group]
        header, said = document.next_snapshot(group.mls.epoch, self.author)
        payload = said.encode()
        record = self.seal(group, header, payload)
        answer = self.ask(PutSnapshot(record=record))
        require(answer.seq == document.log.size, "the position of the own snapshot")
        leaf = record.id()
        document.log.append(leaf)
        document.take(header, leaf, payload, is_own=True)
        require(document.log.leads_to(answer.head), "the head after the own snapshot")
        return leaf

    def check_snapshots(self, document: Document) -> list[bytes]:
        """Writes verdicts on other users' snapshots that came since the document was opened. Those that match."""
        matching, rows = [], self.groups[document.group].roster
        while document.unchecked:
            snapshot = document.unchecked.pop(0)
            author = rows.at(snapshot.header.author.device, snapshot.header.epoch)
            covered = snapshot.body.covered.size
            if author.user == self.own.user or covered < document.base.body.covered.size:
                continue
            judgement = document.judge(snapshot)
            if isinstance(judgement, Match):
                matching.append(snapshot.id)
            payload = VerdictPayload(snapshot=snapshot.id, from_=document.base.body.covered.size, judgement=judgement)
            self.append(document, Verdict, [payload.encode()])
        return matching

    def directory(self, group: Group) -> dict[str, str]:
        """The root map of a group's directory (§10.4)."""
        root = self.open(group, directory_id(group.id)).content.replica.root
        return {key: str(value) for key, value in root.items()}
