"""Frames, requests and answers (§13.5, §14), refusals (§15)."""

import base64
from typing import Any

from .codec import (
    Opaque, Optional, Reader, Rest, Select, Struct, Vector, Wrapped, constant, hash32, id8, id16, of, opaque,
    signature64, struct, text, uint8, uint16, uint32, uint64, varint,
)  # fmt: skip
from .crypto import sha256, verify, verify_plain
from .grouplog import GROUP_ENTRY, JoinState
from .identity import SignedDeviceList
from .merkle import Head
from .records import DELIVERED, AppendedRecord, Author, Record, RecordHeader, RootWrap, Sealed

PROTOCOL_VERSION = 12


class Generation(Struct):
    number: int = of(uint64)
    previous: bytes = of(hash32)
    cause: int = of(uint8)
    begun: int = of(uint64)
    head_key: bytes = of(Opaque(32))
    signature: bytes = of(signature64)

    def check(self, service_key: bytes) -> None:
        verify(service_key, "conclave 1.0 service generation", self.encode(before="signature"), self.signature)


class LogName(Struct):
    """Without a document: the group's own log."""

    group: bytes = of(id16)
    document: bytes | None = of(Optional(id16), default=None)


class SignedHead(Struct):
    head: Head = of(Head)
    seconds: int = of(uint64)
    signature: bytes = of(signature64)

    def check(self, generation: Generation, service_key: bytes, log: LogName) -> None:
        name = f"conclave-{sha256(service_key).hex()[:32]}/{generation.number}/{log.group.hex()}"
        if log.document is not None:
            name += f"/{log.document.hex()}"
        root = base64.b64encode(self.head.root).decode()
        said = f"cosignature/v1\ntime {self.seconds}\n{name}\n{self.head.size}\n{root}\n"
        verify_plain(generation.head_key, said.encode(), self.signature, "a head")


Loss = struct("Loss", generation=uint64, log=LogName, kept=Head, lost=Head, signature=signature64)


# Refusals.

NUMBER: list[Any] = [uint64]
NOTHING: list[Any] = []
REFUSALS: list[tuple[str, list[Any]]] = [
    ("stale_epoch", NUMBER), ("clock_gap", NUMBER), ("already_accepted", [hash32, uint64]),
    ("snapshot_required", NOTHING), ("forbidden", [uint8]), ("too_large", NUMBER), ("rate_limited", NUMBER),
    ("proposal_pending", NOTHING), ("upgrade_needed", [uint16]), ("epoch_taken", NUMBER), ("bad_commit", [uint8]),
    ("bad_record", [uint8]), ("unknown_group", NOTHING), ("unknown_document", NOTHING), ("unknown_user", NOTHING),
    ("document_closed", NOTHING), ("already_exists", NOTHING), ("malformed", NOTHING), ("bad_identity", NOTHING),
    ("stale_device_list", NUMBER), ("no_channel", NOTHING), ("storage", NOTHING), ("shutting_down", NOTHING),
    ("unauthenticated", NOTHING), ("recovering", [uint64, uint64]), ("other_life", NUMBER),
]  # fmt: skip


class Refused(Exception):
    """A refusal of the service, with the numbers that came with it (§15.1 to §15.3 say what they mean)."""

    def __init__(self, name: str, numbers: list[Any]):
        super().__init__(f"{name} {numbers}" if numbers else name)
        self.name, self.numbers = name, numbers


class RefusalCodec:
    def decode(self, reader: Reader) -> Refused:
        name, fields = REFUSALS[uint8.decode(reader) - 1]
        return Refused(name, [field.decode(reader) for field in fields])


REFUSAL = RefusalCodec()

# What a client sends.

PutDeviceList = struct("PutDeviceList", list=Wrapped(SignedDeviceList))
GetDeviceList = struct("GetDeviceList", user=hash32)
PutKeyPackages = struct("PutKeyPackages", one_time=Wrapped(Rest(opaque)), last_resort=Optional(opaque))
ClaimKeyPackages = struct("ClaimKeyPackages", user=hash32, devices=of(Vector(id16), default_factory=list))
CreateGroup = struct("CreateGroup", group_info=opaque, tree=opaque, founded=uint64)
CommitBundle = struct(
    "CommitBundle", group=id16, commit=opaque, welcome=Optional(opaque), group_info=opaque, wrap=RootWrap
)
Propose = struct("Propose", group=id16, message=opaque)
PutEntry = struct("PutEntry", entry=Record)
CreateDocument = struct("CreateDocument", entry=Record, snapshot=Record)
SubscribeGroup = struct("SubscribeGroup", group=id16, from_=uint64)
OpenDocument = struct("OpenDocument", group=id16, document=id16, instance=id8, from_=of(Optional(uint64), default=None))
PutSnapshot = struct("PutSnapshot", record=Record)
GetWraps = struct("GetWraps", group=id16, epoch=uint64)
AckWelcome = struct("AckWelcome", id=uint64)
GetStatus = struct("GetStatus", group=id16)
ConfirmLife = struct("ConfirmLife")

REQUEST = Select({
    1: PutDeviceList, 2: GetDeviceList, 3: PutKeyPackages, 4: ClaimKeyPackages, 5: CreateGroup, 6: CommitBundle, 7:
    Propose, 8: PutEntry, 9: CreateDocument, 10: SubscribeGroup, 11: OpenDocument, 13: PutSnapshot, 15: GetWraps,
    18: AckWelcome, 19: GetStatus, 28: ConfirmLife,
})  # fmt: skip

Hello = struct("Hello", versions=Vector(uint16), credential=opaque)
Login = struct(
    "Login",
    origin=text,
    signature=signature64,
    token=of(Optional(text), default=None),
    life=uint64,
    life_token=id16,
    take_over=of(uint8, default=0),
)
LoginStatement = struct(
    "LoginStatement",
    nonce=Opaque(32),
    origin=text,
    service_key=Opaque(32),
    device=id16,
    life=uint64,
    life_token=id16,
    take_over=of(uint8, default=0),
)
Request = struct("Request", id=varint, body=REQUEST)
Append = struct("Append", channel=varint, epoch=varint, first_clock=varint, records=Rest(AppendedRecord))
Ping = struct("Ping")

CLIENT_FRAME = Select({1: Hello, 2: Login, 3: Request, 4: Append, 5: Ping})

# What the service sends.

Done = struct("Done")
Accepted = struct("Accepted", seq=uint64, head=Head)
RefusedAnswer = struct("RefusedAnswer", refusal=REFUSAL)
DeviceListAnswer = struct("DeviceListAnswer", list=Wrapped(SignedDeviceList))
KeyPackageCount = struct("KeyPackageCount", left=uint32)
ClaimedKeyPackage = struct("ClaimedKeyPackage", device=id16, key_package=opaque, last_resort=uint8)
KeyPackages = struct("KeyPackages", packages=Vector(ClaimedKeyPackage))
Subscribed = struct("Subscribed", head=Head, epoch=uint64, now=uint64, signed=Optional(SignedHead), losses=Vector(Loss))
BaseSnapshot = struct("BaseSnapshot", seq=uint64, record=Record)
Opened = struct(
    "Opened",
    channel=varint,
    signed=SignedHead,
    from_=uint64,
    base=Optional(BaseSnapshot),
    authors=Vector(Author),
    own_next_clock=uint64,
    own_last=hash32,
    losses=Vector(Loss),
)
Wraps = struct("Wraps", wraps=Vector(RootWrap))
DocumentStatus = struct(
    "DocumentStatus",
    document=id16,
    due=uint8,
    head=Head,
    first_seq_of_snapshot_epoch=uint64,
    snapshot=RecordHeader,
    snapshot_id=hash32,
)
Status = struct("Status", epoch=uint64, rotating_since=uint64, documents=Vector(DocumentStatus))

ANSWER = Select({
    1: Done, 2: Accepted, 3: RefusedAnswer, 4: DeviceListAnswer, 5: KeyPackageCount, 6: KeyPackages, 7: Subscribed,
    8: Opened, 10: Wraps, 12: Status,
})  # fmt: skip

Challenge = struct(
    "Challenge",
    version=constant(uint16, PROTOCOL_VERSION),
    nonce=Opaque(32),
    service_key=Opaque(32),
    now=uint64,
    generation=Generation,
)
Ready = struct("Ready", now=uint64, key_packages=uint32, last_resort=uint8, life=uint64, next=id16)
Response = struct("Response", id=varint, answer=ANSWER)
GroupEntries = struct("GroupEntries", group=id16, first_seq=uint64, entries=Vector(GROUP_ENTRY))
NewAuthor = struct("NewAuthor", channel=varint, author=Author)
Deliver = struct("Deliver", channel=varint, first_seq=varint, records=Rest(DELIVERED))
Ack = struct("Ack", channel=varint, next_clock=varint, first_seq=varint, count=varint)
AppendRefused = struct("AppendRefused", channel=varint, first_clock=varint, refusal=REFUSAL)
WelcomeDelivery = struct(
    "WelcomeDelivery", id=uint64, group=id16, epoch=uint64, welcome=opaque, tree=opaque, state=JoinState
)
KeyPackagesLow = struct("KeyPackagesLow", left=uint32)
Pong = struct("Pong")
Goodbye = struct("Goodbye", why=REFUSAL, retry_after_ms=uint64)
DeviceListChanged = struct("DeviceListChanged", user=hash32)
Asked = struct("Asked", group=id16, device=id16, user=hash32, what=uint8)
HeadFrame = struct("HeadFrame", log=LogName, signed=SignedHead)
PresenceItem = struct(
    "PresenceItem", epoch=varint, seen_size=varint, seen_hint=id8, session=id16, to=Optional(id16), sealed=of(Sealed)
)
ShownItem = struct("ShownItem", author=Author, item=PresenceItem)
Shown = struct("Shown", channel=varint, items=Rest(ShownItem))

SERVICE_FRAME = Select({
    1: Challenge, 2: Ready, 3: Response, 4: GroupEntries, 5: NewAuthor, 6: Deliver, 7: Ack, 8: AppendRefused, 9:
    WelcomeDelivery, 10: KeyPackagesLow, 11: Pong, 12: Goodbye, 13: DeviceListChanged, 14: Asked, 15: HeadFrame,
    16: Shown,
})  # fmt: skip
