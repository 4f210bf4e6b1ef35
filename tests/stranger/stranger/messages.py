"""Structs of RFC 9420 in the profile of §5."""

from dataclasses import dataclass
from typing import Any

from .codec import (
    Optional, Reader, Select, Struct, Vector, constant, decode, of, opaque, uint16, uint32, uint64, version1,
)  # fmt: skip
from .crypto import SigningKey, require, sha256, verify, with_label

SUITE = 0x0003
DEVICE_CREDENTIAL, GROUP_POLICY = 0xF0C1, 0xF0C2
REQUIRED_CAPABILITIES, EXTERNAL_PUB, LAST_RESORT, SELF_REMOVE = 0x0003, 0x0004, 0x000A, 0x000A
# §5: never another value, and the order counts.
REQUIRED = bytes.fromhex("04f0c2000a02000a02f0c1")
VALIDITY_S = 3_155_760_000


class Extension(Struct):
    type: int = of(uint16)
    data: bytes = of(opaque)


class KeyPackageSource(Struct):
    not_before: int = of(uint64)
    not_after: int = of(uint64)


class UpdateSource(Struct):
    pass


class CommitSource(Struct):
    parent_hash: bytes = of(opaque)


class LeafNode(Struct):
    encryption_key: bytes = of(opaque)
    signature_key: bytes = of(opaque)
    credential_type: int = constant(uint16, DEVICE_CREDENTIAL)
    credential: bytes = of(opaque)
    versions: list[int] = of(Vector(uint16))
    suites: list[int] = of(Vector(uint16))
    extension_types: list[int] = of(Vector(uint16))
    proposal_types: list[int] = of(Vector(uint16))
    credential_types: list[int] = of(Vector(uint16))
    source: Any = of(Select({1: KeyPackageSource, 2: UpdateSource, 3: CommitSource}))
    extensions: list[Extension] = of(Vector(Extension))
    signature: bytes = of(opaque)

    @staticmethod
    def make(encryption_key: bytes, key: SigningKey, credential: bytes, source: Any, place: bytes = b"") -> "LeafNode":
        """`place` is the group id and the leaf's index where the leaf is from a commit."""
        leaf = LeafNode(
            encryption_key=encryption_key,
            signature_key=key.public,
            credential=credential,
            versions=[1],
            suites=[SUITE],
            extension_types=[GROUP_POLICY, LAST_RESORT],
            proposal_types=[SELF_REMOVE],
            credential_types=[DEVICE_CREDENTIAL],
            source=source,
            extensions=[],
            signature=b"",
        )
        leaf.signature = key.sign("LeafNodeTBS", leaf.encode(before="signature") + place)
        return leaf

    def check(self, place: bytes) -> None:
        covered = self.encode(before="signature") + (b"" if isinstance(self.source, KeyPackageSource) else place)
        verify(self.signature_key, "LeafNodeTBS", covered, self.signature)


def place(group_id: bytes, index: int) -> bytes:
    return opaque.encode(group_id) + uint32.encode(index)


def made_now(now_s: int) -> KeyPackageSource:
    return KeyPackageSource(not_before=0, not_after=now_s + VALIDITY_S)


class KeyPackage(Struct):
    version: int = version1()
    suite: int = constant(uint16, SUITE)
    init_key: bytes = of(opaque)
    leaf: LeafNode = of(LeafNode)
    extensions: list[Extension] = of(Vector(Extension))
    signature: bytes = of(opaque)

    def reference(self) -> bytes:
        return sha256(with_label("KeyPackage Reference", self.encode()))

    def check(self) -> None:
        verify(self.leaf.signature_key, "KeyPackageTBS", self.encode(before="signature"), self.signature)
        require(isinstance(self.leaf.source, KeyPackageSource), "the source of a key package's leaf")
        self.leaf.check(b"")


class ParentNode(Struct):
    encryption_key: bytes = of(opaque)
    parent_hash: bytes = of(opaque)
    unmerged_leaves: list[int] = of(Vector(uint32))


class Add(Struct):
    key_package: KeyPackage = of(KeyPackage)


class Remove(Struct):
    removed: int = of(uint32)


class ExternalInit(Struct):
    kem_output: bytes = of(opaque)


class GroupContextExtensions(Struct):
    extensions: list[Extension] = of(Vector(Extension))


class SelfRemove(Struct):
    pass


PROPOSAL = Select({1: Add, 3: Remove, 6: ExternalInit, 7: GroupContextExtensions, SELF_REMOVE: SelfRemove}, uint16)


class Inline(Struct):
    proposal: Any = of(PROPOSAL)


class Reference(Struct):
    hash: bytes = of(opaque)


class HpkeCiphertext(Struct):
    kem_output: bytes = of(opaque)
    ciphertext: bytes = of(opaque)


class UpdatePathNode(Struct):
    encryption_key: bytes = of(opaque)
    encrypted_path_secret: list[HpkeCiphertext] = of(Vector(HpkeCiphertext))


class UpdatePath(Struct):
    leaf: LeafNode = of(LeafNode)
    nodes: list[UpdatePathNode] = of(Vector(UpdatePathNode))


class Commit(Struct):
    proposals: list[Inline | Reference] = of(Vector(Select({1: Inline, 2: Reference})))
    path: UpdatePath | None = of(Optional(UpdatePath))


class Proposed(Struct):
    proposal: Any = of(PROPOSAL)


class Member(Struct):
    leaf_index: int = of(uint32)


class NewMember(Struct):
    pass


class FramedContent(Struct):
    group_id: bytes = of(opaque)
    epoch: int = of(uint64)
    sender: Member | NewMember = of(Select({1: Member, 4: NewMember}))
    authenticated_data: bytes = of(opaque)
    content: Proposed | Commit = of(Select({2: Proposed, 3: Commit}))

    def covered(self, context: bytes) -> bytes:
        """FramedContentTBS; `context` is the encoded GroupContext."""
        return uint16.encode(1) + uint16.encode(1) + self.encode() + context


@dataclass
class PublicMessage:
    content: FramedContent
    signature: bytes
    confirmation_tag: bytes | None = None
    membership_tag: bytes | None = None

    def authentication(self) -> bytes:
        tag = b"" if self.confirmation_tag is None else opaque.encode(self.confirmation_tag)
        return opaque.encode(self.signature) + tag

    def encode(self) -> bytes:
        tag = b"" if self.membership_tag is None else opaque.encode(self.membership_tag)
        return self.content.encode() + self.authentication() + tag

    @classmethod
    def decode(cls, reader: Reader) -> "PublicMessage":
        content, signature = FramedContent.decode(reader), opaque.decode(reader)
        confirmation = opaque.decode(reader) if isinstance(content.content, Commit) else None
        membership = opaque.decode(reader) if isinstance(content.sender, Member) else None
        return cls(content=content, signature=signature, confirmation_tag=confirmation, membership_tag=membership)

    def reference(self) -> bytes:
        """What a commit calls this proposal by."""
        authenticated = uint16.encode(1) + self.content.encode() + self.authentication()
        return sha256(with_label("Proposal Reference", authenticated))


class GroupContext(Struct):
    version: int = version1()
    suite: int = constant(uint16, SUITE)
    group_id: bytes = of(opaque)
    epoch: int = of(uint64)
    tree_hash: bytes = of(opaque)
    confirmed_transcript_hash: bytes = of(opaque)
    extensions: list[Extension] = of(Vector(Extension))


class GroupInfo(Struct):
    context: GroupContext = of(GroupContext)
    extensions: list[Extension] = of(Vector(Extension))
    confirmation_tag: bytes = of(opaque)
    signer: int = of(uint32)
    signature: bytes = of(opaque)


class EncryptedGroupSecrets(Struct):
    new_member: bytes = of(opaque)
    secrets: HpkeCiphertext = of(HpkeCiphertext)


class Welcome(Struct):
    suite: int = constant(uint16, SUITE)
    secrets: list[EncryptedGroupSecrets] = of(Vector(EncryptedGroupSecrets))
    encrypted_group_info: bytes = of(opaque)


class GroupSecrets(Struct):
    joiner_secret: bytes = of(opaque)
    path_secret: bytes | None = of(Optional(opaque))
    psks: bytes = constant(opaque, b"")


FORMATS: dict[type, int] = {PublicMessage: 1, Welcome: 3, GroupInfo: 4, KeyPackage: 5}


def to_message(body: Any) -> bytes:
    """An MLSMessage."""
    return uint16.encode(1) + uint16.encode(FORMATS[type(body)]) + body.encode()


def from_message(kind: type, data: bytes) -> Any:
    require(data[:4] == uint16.encode(1) + uint16.encode(FORMATS[kind]), f"an MLSMessage with a {kind.__name__}")
    return decode(kind, data[4:])


def extension(extensions: list[Extension], wanted: int) -> bytes:
    found = [it.data for it in extensions if it.type == wanted]
    require(len(found) == 1, f"one extension {wanted:#06x}")
    return found[0]
