"""How a device becomes one of a user's (§6.4, §6.5)."""

import os

from . import codec
from .codec import Opaque, Optional, Struct, Vector, constant, decode, hash32, id16, of, opaque, signature64, uint8
from .codec import uint16, uint64
from .crypto import SigningKey, hpke_decrypt, labelled, public_of, require, verify
from .identity import (
    ED25519, REALM, DeviceCertificate, OwnDevice, SignedDeviceList, UserGenesis, accept_certificate, digits, from_text,
    to_text,
)  # fmt: skip


class DeviceRequest(Struct):
    version: int = constant(uint16, 2)
    realm: bytes = of(id16, default=REALM)
    device: bytes = of(id16)
    scheme: int = constant(uint16, ED25519)
    key: bytes = of(opaque)
    name: str = of(codec.text)
    hpke_key: bytes = of(Opaque(32))
    proof: bytes = of(signature64)

    def hash(self) -> bytes:
        return labelled("conclave 1.0 device request hash", [self.encode()])


class Pin(Struct):
    user: bytes = of(hash32)
    genesis_hash: bytes = of(hash32)
    name: str = of(codec.text)
    introducer: int = of(uint8)
    since: int = of(uint64)
    verified: int = of(uint8)


Pins = list[Pin]


class SealedUserKey(Struct):
    enc: bytes = of(Opaque(32))
    sealed: bytes = of(opaque)


class DeviceApproval(Struct):
    version: int = constant(uint16, 2)
    request: bytes = of(hash32)
    genesis: UserGenesis = of(UserGenesis)
    certificate: DeviceCertificate = of(DeviceCertificate)
    user_signature: bytes = of(signature64)
    list: SignedDeviceList = of(SignedDeviceList)
    name: str = of(codec.text)
    pins: Pins = of(Vector(Pin))
    user_key: SealedUserKey | None = of(Optional(SealedUserKey))
    signature: bytes = of(signature64)


class Enrolling:
    """A device that asks to be somebody's."""

    def __init__(self, name: str):
        self.device, self.key, self.hpke_private = os.urandom(16), SigningKey(), os.urandom(32)
        self.request = DeviceRequest(
            device=self.device, key=self.key.public, name=name, hpke_key=public_of(self.hpke_private), proof=bytes(64)
        )
        self.request.proof = self.key.sign("conclave 1.0 device request", self.request.encode(before="proof"))

    def text(self) -> str:
        return to_text("conclave:device-request:", self.request.encode())

    def code(self) -> str:
        return digits("conclave 1.0 device request code", [self.request.hash()], 6)

    def finish(self, text: str) -> OwnDevice:
        """Takes the approval, which has to be of this request, and has to bring the user key."""
        approval: DeviceApproval = decode(DeviceApproval, from_text("conclave:device-approval:", text))
        genesis, certificate = approval.genesis, approval.certificate
        covered = approval.encode(before="signature")
        verify(genesis.key, "conclave 1.0 device approval", covered, approval.signature)
        answered = (approval.request, certificate.device, certificate.device_key, certificate.realm)
        require(answered == (self.request.hash(), self.device, self.key.public, REALM), "the request of an approval")
        credential = accept_certificate(genesis, certificate, approval.user_signature, self.key)
        credential.check()
        approval.list.check()
        require(approval.list.names(self.device, self.key.public), "the new device in its user's list")
        user_key = SigningKey(self.open_user_key(approval))
        require(user_key.public == genesis.key, "the user key of an approval")
        return OwnDevice(approval.name, genesis, user_key, self.device, self.key, credential, approval.list)

    def open_user_key(self, approval: DeviceApproval) -> bytes:
        sealed = approval.user_key
        assert sealed is not None
        info = b"conclave 1.0 user key copy" + approval.request
        associated = approval.encode(before="user_key")
        return hpke_decrypt(self.hpke_private, sealed.enc, info, associated, sealed.sealed)
