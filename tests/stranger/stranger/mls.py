"""One group's MLS state (RFC 9420 in the profile of §5): key schedule, commits, joining."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .codec import ZERO, decode, opaque, uint16
from .crypto import (
    SigningKey, derive_private, expand_with_label, external_init, extract, hpke_open, hpke_seal, mac, public_of,
    require, sha256, verify,
)  # fmt: skip
from .messages import (
    EXTERNAL_PUB, GROUP_POLICY, LAST_RESORT, REQUIRED, REQUIRED_CAPABILITIES, Add, Commit, CommitSource,
    EncryptedGroupSecrets, Extension, ExternalInit, FramedContent, GroupContext, GroupContextExtensions, GroupInfo,
    GroupSecrets, HpkeCiphertext, Inline, KeyPackage, LeafNode, Member, Proposed, PublicMessage, Reference, Remove,
    SelfRemove, UpdatePath, UpdatePathNode, Welcome, extension, made_now, place,
)  # fmt: skip
from .tree import Tree, is_below


@dataclass
class OwnKeyPackage:
    """A key package and the private keys that belong to it."""

    package: KeyPackage
    init_private: bytes
    leaf_private: bytes
    last_resort: bool

    @staticmethod
    def make(key: SigningKey, credential: bytes, now_s: int, last_resort: bool) -> "OwnKeyPackage":
        init, private = os.urandom(32), os.urandom(32)
        leaf = LeafNode.make(public_of(private), key, credential, made_now(now_s))
        extensions = [Extension(type=LAST_RESORT, data=b"")] if last_resort else []
        package = KeyPackage(init_key=public_of(init), leaf=leaf, extensions=extensions, signature=b"")
        package.signature = key.sign("KeyPackageTBS", package.encode(before="signature"))
        return OwnKeyPackage(package, init, private, last_resort)


@dataclass(frozen=True)
class EpochSecrets:
    """What an epoch secret gives (RFC 9420 §8)."""

    secret: bytes

    @staticmethod
    def after(joiner: bytes, context: bytes) -> "EpochSecrets":
        return EpochSecrets(expand_with_label(extract(joiner, ZERO), "epoch", context))

    def derive(self, label: str) -> bytes:
        return expand_with_label(self.secret, label)

    def external_private(self) -> bytes:
        return derive_private(self.derive("external"))

    def authenticator(self) -> bytes:
        return self.derive("authentication")

    def export(self, label: str) -> bytes:
        """MLS-Exporter with an empty context, 32 bytes (§9)."""
        exported = expand_with_label(self.derive("exporter"), label)
        return expand_with_label(exported, "exported", sha256(b""))


def welcome_cipher(joiner: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    secret = expand_with_label(extract(joiner, ZERO), "welcome")
    return ChaCha20Poly1305(expand_with_label(secret, "key")), expand_with_label(secret, "nonce", b"", 12)


@dataclass
class Processed:
    """What an ordered commit does."""

    content: FramedContent
    after: "MlsGroup | None"  # none where it removes this device
    replaced: set[int] = field(default_factory=set)  # leaves that it removes
    added: list[int] = field(default_factory=list)


class Signer:
    """Who writes: the device's key and its encoded credential."""

    def __init__(self, key: SigningKey, credential: bytes):
        self.key, self.credential = key, credential


@dataclass
class MlsGroup:
    group_id: bytes
    epoch: int
    tree: Tree
    extensions: list[Extension]
    confirmed: bytes  # transcript hash
    secrets: EpochSecrets
    own: int  # index of the own leaf
    privates: dict[int, bytes]  # of nodes
    interim: bytes = b""  # transcript hash
    proposals: dict[bytes, FramedContent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.interim:
            self.finish()

    @staticmethod
    def found(group_id: bytes, signer: Signer, policy: bytes, now_s: int) -> "MlsGroup":
        private = os.urandom(32)
        leaf = LeafNode.make(public_of(private), signer.key, signer.credential, made_now(now_s))
        secrets = EpochSecrets(os.urandom(32))
        return MlsGroup(group_id, 0, Tree([leaf]), extensions(policy), b"", secrets, 0, {0: private})

    def context(self) -> bytes:
        return self.group_context().encode()

    def group_context(self) -> GroupContext:
        return GroupContext(
            group_id=self.group_id,
            epoch=self.epoch,
            tree_hash=self.tree.hash(),
            confirmed_transcript_hash=self.confirmed,
            extensions=self.extensions,
        )

    def policy(self) -> bytes:
        return extension(self.extensions, GROUP_POLICY)

    def confirmation_tag(self) -> bytes:
        return mac(self.secrets.derive("confirm"), self.confirmed)

    def finish(self) -> None:
        self.interim = sha256(self.confirmed + opaque.encode(self.confirmation_tag()))

    def group_info(self, key: SigningKey) -> GroupInfo:
        external = public_of(self.secrets.external_private())
        info = GroupInfo(
            context=self.group_context(),
            extensions=[Extension(type=EXTERNAL_PUB, data=opaque.encode(external))],
            confirmation_tag=self.confirmation_tag(),
            signer=self.own,
            signature=b"",
        )
        info.signature = key.sign("GroupInfoTBS", info.encode(before="signature"))
        return info

    def copy(self) -> "MlsGroup":
        return replace(self, tree=self.tree.copy(), privates=dict(self.privates), proposals={})

    def index_of(self, key: bytes) -> int:
        return next(index for index, leaf in self.tree.leaves().items() if leaf.signature_key == key)

    # Applying commits.

    def resolve(self, commit: Commit) -> list[tuple[Any, int]]:
        """Proposals, each with the leaf that a removal removes."""
        resolved: list[tuple[Any, int]] = []
        for item in commit.proposals:
            proposal, index = item.proposal if isinstance(item, Inline) else None, -1
            if isinstance(item, Reference):
                content = self.proposals[item.hash]
                proposal, index = content.content.proposal, content.sender.leaf_index  # type: ignore[union-attr]
            resolved.append((proposal, proposal.removed if isinstance(proposal, Remove) else index))
        return resolved

    def apply(self, proposals: list[tuple[Any, int]]) -> tuple[set[int], list[int]]:
        """Changes tree and extensions (RFC 9420 §12.3). Leaves removed and added."""
        removed = {index for proposal, index in proposals if isinstance(proposal, Remove | SelfRemove)}
        for proposal, _ in proposals:
            if isinstance(proposal, GroupContextExtensions):
                self.extensions = proposal.extensions
        for index in removed:
            self.tree.blank(index)
        if removed:
            self.tree.truncate()
        packages = (proposal.key_package for proposal, _ in proposals if isinstance(proposal, Add))
        return removed, [self.tree.add(package.leaf) for package in packages]

    def advance(self, content: FramedContent, signature: bytes, commit_secret: bytes, init_secret: bytes) -> bytes:
        """Goes over to the next epoch, once tree and extensions are the new ones. The joiner secret."""
        self.confirmed = sha256(self.interim + uint16.encode(1) + content.encode() + opaque.encode(signature))
        self.epoch += 1
        context = self.context()
        joiner = expand_with_label(extract(init_secret, commit_secret), "joiner", context)
        self.secrets = EpochSecrets.after(joiner, context)
        self.finish()
        return joiner

    def path_context(self) -> bytes:
        """The context under which path secrets are sealed: the next epoch, with the transcript still the old one."""
        return replace(self, epoch=self.epoch + 1).context()

    def take_path(self, nodes: Iterable[int], secret: bytes) -> bytes:
        """Private keys of the nodes from a path secret on. The commit secret."""
        for node in nodes:
            private = derive_private(expand_with_label(secret, "node"))
            known = self.tree.nodes[node]
            require(known is not None and known.encryption_key == public_of(private), "the key of a path's node")
            self.privates[node] = private
            secret = expand_with_label(secret, "path")
        return secret

    # Own commits.

    def make_path(self, signer: Signer, added: list[int]) -> tuple[UpdatePath, bytes, dict[int, bytes]]:
        """A new path of the own leaf, once all proposals are applied: it, the commit secret, and the path secrets."""
        nodes = self.tree.filtered_path(self.own)
        secret, secrets, keys = os.urandom(32), {}, []
        for node in nodes:
            secrets[node] = secret
            keys.append(public_of(derive_private(expand_with_label(secret, "node"))))
            secret = expand_with_label(secret, "path")
        private = os.urandom(32)
        source = CommitSource(parent_hash=self.tree.set_path(self.own, keys))
        at = place(self.group_id, self.own)
        leaf = LeafNode.make(public_of(private), signer.key, signer.credential, source, at)
        self.tree.nodes[2 * self.own] = leaf
        self.privates = {2 * self.own: private}
        if nodes:
            self.take_path(nodes, secrets[nodes[0]])
        context, sealed = self.path_context(), []
        for node, key in zip(nodes, keys, strict=True):
            ciphertexts = []
            for receiver in self.receivers(node, self.own, added):
                to = self.tree.nodes[receiver].encryption_key  # type: ignore[union-attr]
                kem_output, ciphertext = hpke_seal(to, "UpdatePathNode", context, secrets[node])
                ciphertexts.append(HpkeCiphertext(kem_output=kem_output, ciphertext=ciphertext))
            sealed.append(UpdatePathNode(encryption_key=key, encrypted_path_secret=ciphertexts))
        return UpdatePath(leaf=leaf, nodes=sealed), secret, secrets

    def receivers(self, node: int, leaf: int, added: list[int]) -> list[int]:
        """Nodes to which a path secret is sealed: those that the same commit adds learn it from their Welcome."""
        below = self.tree.resolution(self.tree.copath_child(node, leaf))
        return [receiver for receiver in below if receiver not in {2 * index for index in added}]

    def after_proposals(self, proposals: list[Inline | Reference]) -> "tuple[MlsGroup, set[int], list[int]]":
        """The group after a commit of these, but for path and secrets: the roster hash depends on no more."""
        after = self.copy()
        removed, added = after.apply(self.resolve(Commit(proposals=proposals, path=None)))
        return after, removed, added

    def commit(
        self, signer: Signer, data: bytes, proposals: list[Inline | Reference], with_path: bool
    ) -> "tuple[MlsGroup, PublicMessage, Welcome | None]":
        """Builds a commit: the group after it, the message, and a Welcome for those whom it adds."""
        after, _, added = self.after_proposals(proposals)
        path, commit_secret, path_secrets = None, ZERO, dict[int, bytes]()
        if with_path:
            path, commit_secret, path_secrets = after.make_path(signer, added)
        content = self.framed(data, Commit(proposals=proposals, path=path))
        covered = content.covered(self.context())
        signature = signer.key.sign("FramedContentTBS", covered)
        joiner = after.advance(content, signature, commit_secret, self.secrets.derive("init"))
        message = PublicMessage(
            content=content, signature=signature, confirmation_tag=after.confirmation_tag(), membership_tag=b""
        )
        self.tag(message, covered)
        inline = (item.proposal for item in proposals if isinstance(item, Inline))
        packages = [proposal.key_package for proposal in inline if isinstance(proposal, Add)]
        if not packages:
            return after, message, None
        cipher, nonce = welcome_cipher(joiner)
        info = cipher.encrypt(nonce, after.group_info(signer.key).encode(), b"")
        sealed = []
        for package, index in zip(packages, added, strict=True):
            common = next((node for node in after.tree.direct_path(index) if node in path_secrets), None)
            secret = None if common is None else path_secrets[common]
            secrets = GroupSecrets(joiner_secret=joiner, path_secret=secret).encode()
            kem_output, ciphertext = hpke_seal(package.init_key, "Welcome", info, secrets)
            found = HpkeCiphertext(kem_output=kem_output, ciphertext=ciphertext)
            sealed.append(EncryptedGroupSecrets(new_member=package.reference(), secrets=found))
        return after, message, Welcome(secrets=sealed, encrypted_group_info=info)

    def propose(self, signer: Signer, proposal: Any) -> PublicMessage:
        """A standalone proposal."""
        content = self.framed(b"", Proposed(proposal=proposal))
        covered = content.covered(self.context())
        message = PublicMessage(content=content, signature=signer.key.sign("FramedContentTBS", covered))
        self.tag(message, covered)
        return message

    def framed(self, data: bytes, content: Commit | Proposed) -> FramedContent:
        sender = Member(leaf_index=self.own)
        return FramedContent(
            group_id=self.group_id, epoch=self.epoch, sender=sender, authenticated_data=data, content=content
        )

    def tag(self, message: PublicMessage, covered: bytes) -> None:
        message.membership_tag = mac(self.secrets.derive("membership"), covered + message.authentication())

    # Everybody's messages.

    def check_message(self, message: PublicMessage) -> bytes:
        """Whether a message is of this epoch and by its sender. What its signature covers."""
        content = message.content
        require((content.group_id, content.epoch) == (self.group_id, self.epoch), "the epoch of a message")
        covered = content.covered(self.context())
        if isinstance(content.sender, Member):
            signed = self.tree.leaf(content.sender.leaf_index).signature_key
            expected = mac(self.secrets.derive("membership"), covered + message.authentication())
            require(message.membership_tag == expected, "a membership tag")
        else:
            require(isinstance(content.content, Commit) and content.content.path is not None, "an external commit")
            signed = content.content.path.leaf.signature_key  # type: ignore[union-attr]
        verify(signed, "FramedContentTBS", covered, message.signature)
        return covered

    def keep_proposal(self, message: PublicMessage) -> None:
        self.check_message(message)
        self.proposals[message.reference()] = message.content

    def process(self, message: PublicMessage) -> Processed:
        """Follows somebody's commit."""
        self.check_message(message)
        content, commit = message.content, message.content.content
        require(isinstance(commit, Commit), "a commit")
        assert isinstance(commit, Commit)
        after, init_secret = self.copy(), self.secrets.derive("init")
        proposals = self.resolve(commit)
        for proposal, _ in proposals:
            if isinstance(proposal, ExternalInit):
                init_secret = external_init(self.secrets.external_private(), proposal.kem_output)
        removed, added = after.apply(proposals)
        if self.own in removed:
            return Processed(content, None, removed)
        commit_secret = ZERO
        if commit.path is not None:
            sender = content.sender
            index = sender.leaf_index if isinstance(sender, Member) else after.tree.add(commit.path.leaf)
            commit_secret = after.follow_path(commit.path, index, added)
        after.advance(content, message.signature, commit_secret, init_secret)
        require(message.confirmation_tag == after.confirmation_tag(), "a confirmation tag")
        return Processed(content, after, removed, added)

    def follow_path(self, path: UpdatePath, sender: int, added: list[int]) -> bytes:
        """Takes over somebody's path. The commit secret."""
        path.leaf.check(place(self.group_id, sender))
        nodes = self.tree.filtered_path(sender)
        parent_hash = self.tree.set_path(sender, [node.encryption_key for node in path.nodes])
        require(getattr(path.leaf.source, "parent_hash", None) == parent_hash, "a parent hash")
        self.tree.nodes[2 * sender] = path.leaf
        context = self.path_context()
        at = next(at for at, node in enumerate(nodes) if is_below(node, self.own))
        receivers = self.receivers(nodes[at], sender, added)
        sealed = zip(receivers, path.nodes[at].encrypted_path_secret, strict=True)
        receiver, found = next((node, found) for node, found in sealed if node in self.privates)
        secret = hpke_open(self.privates[receiver], "UpdatePathNode", context, found.kem_output, found.ciphertext)
        for node in self.tree.direct_path(sender):
            self.privates.pop(node, None)
        return self.take_path(nodes[at:], secret)

    # Joining.

    @staticmethod
    def join(welcome: Welcome, tree: bytes, known: dict[bytes, OwnKeyPackage]) -> "tuple[MlsGroup, OwnKeyPackage, int]":
        """The group that a Welcome opens, the key package that it used, and the leaf of its sender."""
        entry = next(entry for entry in welcome.secrets if entry.new_member in known)
        mine, sealed = known[entry.new_member], entry.secrets
        encrypted = welcome.encrypted_group_info
        opened = hpke_open(mine.init_private, "Welcome", encrypted, sealed.kem_output, sealed.ciphertext)
        secrets: GroupSecrets = decode(GroupSecrets, opened)
        cipher, nonce = welcome_cipher(secrets.joiner_secret)
        info: GroupInfo = decode(GroupInfo, cipher.decrypt(nonce, encrypted, b""))
        context, nodes = info.context, Tree.parse(tree)
        require(nodes.hash() == context.tree_hash, "the hash of a tree")
        require(extension(context.extensions, REQUIRED_CAPABILITIES) == REQUIRED, "the required capabilities")
        signer = nodes.leaf(info.signer).signature_key
        verify(signer, "GroupInfoTBS", info.encode(before="signature"), info.signature)
        for index, leaf in nodes.leaves().items():
            leaf.check(place(context.group_id, index))
        own = next(index for index, leaf in nodes.leaves().items() if leaf == mine.package.leaf)
        group = MlsGroup(
            context.group_id,
            context.epoch,
            nodes,
            context.extensions,
            context.confirmed_transcript_hash,
            EpochSecrets.after(secrets.joiner_secret, context.encode()),
            own,
            {2 * own: mine.leaf_private},
        )
        if secrets.path_secret is not None:
            common = (node for node in nodes.direct_path(own) if is_below(node, info.signer) and nodes.nodes[node])
            group.take_path(common, secrets.path_secret)
        require(info.confirmation_tag == group.confirmation_tag(), "a confirmation tag")
        return group, mine, info.signer


def extensions(policy: bytes) -> list[Extension]:
    required = Extension(type=REQUIRED_CAPABILITIES, data=REQUIRED)
    return [required, Extension(type=GROUP_POLICY, data=policy)]
