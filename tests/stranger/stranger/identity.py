"""Identity statements (§6)."""

import base64
import os
import time
from dataclasses import dataclass

from . import codec
from .codec import (
    Opaque, Struct, Vector, constant, decode, hash32, id16, of, opaque, signature64, uint8, uint16, uint64,
)  # fmt: skip
from .crypto import SigningKey, labelled, require, verify

REALM = bytes(16)
ED25519 = 0x0807
DAY_MS = 86_400_000
VALIDITY_MS = 36_525 * DAY_MS


def now_ms() -> int:
    return int(time.time() * 1000)


class UserGenesis(Struct):
    version: int = codec.version1()
    realm: bytes = of(id16, default=REALM)
    key: bytes = of(Opaque(32))
    created: int = of(uint64)
    salt: bytes = of(id16)

    def user(self) -> bytes:
        return labelled("conclave 1.0 user id", [self.encode()])

    def hash(self) -> bytes:
        return labelled("conclave 1.0 user genesis", [self.encode()])


class DeviceCertificate(Struct):
    version: int = codec.version1()
    realm: bytes = of(id16, default=REALM)
    user: bytes = of(hash32)
    device: bytes = of(id16)
    scheme: int = constant(uint16, ED25519)
    device_key: bytes = of(opaque)
    list_seq: int = of(uint64)
    not_before: int = of(uint64)
    not_after: int = of(uint64)


class DeviceCredential(Struct):
    version: int = codec.version1()
    genesis: UserGenesis = of(UserGenesis)
    rotations: bytes = constant(opaque, b"")
    certificate: DeviceCertificate = of(DeviceCertificate)
    user_signature: bytes = of(signature64)
    device_signature: bytes = of(signature64)

    def check(self) -> None:
        certificate, covered = self.certificate, self.certificate.encode()
        require(certificate.user == self.genesis.user(), "the user of a certificate")
        require(certificate.realm == self.genesis.realm, "the realm of a certificate")
        verify(self.genesis.key, "conclave 1.0 device certificate", covered, self.user_signature)
        accepted = covered + self.user_signature
        verify(certificate.device_key, "conclave 1.0 device acceptance", accepted, self.device_signature)


def authenticate(credential: bytes, leaf_key: bytes) -> DeviceCredential:
    """The credential of a leaf, checked (§6.2)."""
    checked: DeviceCredential = decode(DeviceCredential, credential)
    checked.check()
    require(checked.certificate.device_key == leaf_key, "the key of a leaf")
    return checked


class DeviceRef(Struct):
    device: bytes = of(id16)
    scheme: int = constant(uint16, ED25519)
    key: bytes = of(opaque)


class DeviceList(Struct):
    version: int = codec.version1()
    realm: bytes = of(id16, default=REALM)
    user: bytes = of(hash32)
    seq: int = of(uint64)
    prev: bytes = of(hash32)
    issued: int = of(uint64)
    next_update: int = of(uint64)
    devices: list[DeviceRef] = of(Vector(DeviceRef))


class SignedDeviceList(Struct):
    genesis: UserGenesis = of(UserGenesis)
    list: DeviceList = of(DeviceList)
    signature: bytes = of(signature64)

    def check(self) -> None:
        require(self.list.user == self.genesis.user(), "the user of a device list")
        verify(self.genesis.key, "conclave 1.0 device list", self.list.encode(), self.signature)

    def names(self, device: bytes, key: bytes) -> bool:
        return any((ref.device, ref.key) == (device, key) for ref in self.list.devices)


class Contact(Struct):
    version: int = codec.version1()
    genesis: UserGenesis = of(UserGenesis)
    name: str = of(codec.text)


@dataclass
class OwnDevice:
    """A device of a user: its keys, and what is signed of it."""

    name: str  # of the user
    genesis: UserGenesis
    user_key: SigningKey
    device: bytes
    device_key: SigningKey
    credential: DeviceCredential
    devices: SignedDeviceList

    @property
    def user(self) -> bytes:
        return self.genesis.user()

    @property
    def contact(self) -> Contact:
        return Contact(genesis=self.genesis, name=self.name)

    @staticmethod
    def of_new_user(name: str) -> "OwnDevice":
        user_key, device_key, device, now = SigningKey(), SigningKey(), os.urandom(16), now_ms()
        genesis = UserGenesis(key=user_key.public, created=now, salt=os.urandom(16))
        user = genesis.user()
        certificate = DeviceCertificate(
            user=user,
            device=device,
            device_key=device_key.public,
            list_seq=1,
            not_before=0,
            not_after=now + VALIDITY_MS,
        )
        by_user = user_key.sign("conclave 1.0 device certificate", certificate.encode())
        credential = accept_certificate(genesis, certificate, by_user, device_key)
        ref = DeviceRef(device=device, key=device_key.public)
        until = now + 90 * DAY_MS
        listed = DeviceList(user=user, seq=1, prev=codec.ZERO, issued=now, next_update=until, devices=[ref])
        signature = user_key.sign("conclave 1.0 device list", listed.encode())
        devices = SignedDeviceList(genesis=genesis, list=listed, signature=signature)
        return OwnDevice(name, genesis, user_key, device, device_key, credential, devices)


def accept_certificate(
    genesis: UserGenesis, certificate: DeviceCertificate, by_user: bytes, device_key: SigningKey
) -> DeviceCredential:
    """The credential that the device makes of what its user has signed."""
    accepted = device_key.sign("conclave 1.0 device acceptance", certificate.encode() + by_user)
    return DeviceCredential(genesis=genesis, certificate=certificate, user_signature=by_user, device_signature=accepted)


# Texts (§6.6) and numbers (§6.7).


def to_text(prefix: str, statement: bytes) -> str:
    checksum = labelled("conclave 1.0 text checksum", [prefix.encode(), statement])[:4]
    return prefix + base64.b32encode(statement + checksum).decode().rstrip("=").lower()


def from_text(prefix: str, text: str) -> bytes:
    text = "".join(text.split()).lower()
    require(text.startswith(prefix), f"a text that begins with {prefix}")
    encoded = text.removeprefix(prefix).upper()
    statement = base64.b32decode(encoded + "=" * (-len(encoded) % 8))[:-4]
    require(to_text(prefix, statement) == text, "the checksum of a text")
    return statement


def contact_text(contact: Contact) -> str:
    return to_text("conclave:user:", contact.encode())


def read_contact(text: str) -> Contact:
    contact: Contact = decode(Contact, from_text("conclave:user:", text))
    return contact


def digits(label: str, parts: list[bytes], groups: int) -> str:
    digest = labelled(label, parts)
    for _ in range(5200):
        digest = labelled(label, [digest, *parts])
    found: list[str] = []
    while len(found) < groups:
        block = labelled("conclave 1.0 digits", [digest, uint8.encode(len(found) // 6)])
        pieces = (int.from_bytes(block[at : at + 5], "big") for at in range(0, 30, 5))
        found += [f"{piece % 100_000:05}" for piece in pieces]
    return " ".join(found[:groups])


def safety_number(one: UserGenesis, other: UserGenesis) -> str:
    return digits("conclave 1.0 safety number", sorted([one.hash(), other.hash()]), 12)


def group_code(epoch_authenticator: bytes) -> str:
    return digits("conclave 1.0 group code", [epoch_authenticator], 6)
