"""Hashes, signatures and keys (§1, §9), HPKE as MLS uses it (RFC 9180, RFC 9420 §5.1.3), XChaCha20-Poly1305."""

import hashlib
import hmac
import os
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .codec import ZERO, opaque, uint8, uint16, uint32


class Untrue(Exception):
    """Something that was said under a key, or of a log, does not hold."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def labelled(label: str, parts: list[bytes]) -> bytes:
    """§1, labelled hash."""
    return sha256(b"".join(uint32.encode(len(part)) + part for part in (label.encode(), *parts)))


def with_label(label: str, content: bytes) -> bytes:
    """`SignContent` and its likes: "MLS 1.0 " and the label, then the content, each a vector."""
    return opaque.encode(b"MLS 1.0 " + label.encode()) + opaque.encode(content)


class SigningKey:
    """A user's or a device's Ed25519 key."""

    def __init__(self, seed: bytes | None = None):
        self.seed = seed or os.urandom(32)
        self.public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    def sign(self, label: str, content: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(with_label(label, content))


def verify(public: bytes, label: str, content: bytes, signature: bytes) -> None:
    verify_plain(public, with_label(label, content), signature, label)


def verify_plain(public: bytes, message: bytes, signature: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise Untrue(f"signature of {what}") from None


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Untrue(what)


# HKDF-SHA256 and the labels of MLS (RFC 9420 §8).


def extract(salt: bytes, material: bytes) -> bytes:
    return mac(salt or ZERO, material)


def expand(secret: bytes, info: bytes, size: int) -> bytes:
    output = block = b""
    while len(output) < size:
        block = mac(secret, block + info + uint8.encode(len(output) // 32 + 1))
        output += block
    return output[:size]


def expand_with_label(secret: bytes, label: str, context: bytes = b"", size: int = 32) -> bytes:
    return expand(secret, uint16.encode(size) + with_label(label, context), size)


# HPKE, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.

KEM_ID = b"KEM" + bytes.fromhex("0020")
SUITE_ID = b"HPKE" + bytes.fromhex("002000010003")


def labeled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + material)


def labeled_expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return expand(secret, uint16.encode(size) + b"HPKE-v1" + suite + label + info, size)


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive_private(material: bytes) -> bytes:
    """DeriveKeyPair (RFC 9180 §7.1.3); the public key is `public_of` it."""
    return labeled_expand(KEM_ID, labeled_extract(KEM_ID, b"", b"dkp_prk", material), b"sk", b"", 32)


class HpkeContext:
    def __init__(self, private: bytes, peer: bytes, sent: bytes, recipient: bytes, info: bytes):
        exchanged = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
        shared = labeled_extract(KEM_ID, b"", b"eae_prk", exchanged)
        shared = labeled_expand(KEM_ID, shared, b"shared_secret", sent + recipient, 32)
        hashes = (
            labeled_extract(SUITE_ID, b"", b"psk_id_hash", b""),
            labeled_extract(SUITE_ID, b"", b"info_hash", info),
        )
        context = b"\0" + b"".join(hashes)
        secret = labeled_extract(SUITE_ID, shared, b"secret", b"")
        self.cipher = ChaCha20Poly1305(labeled_expand(SUITE_ID, secret, b"key", context, 32))
        self.nonce = labeled_expand(SUITE_ID, secret, b"base_nonce", context, 12)
        self.exporter = labeled_expand(SUITE_ID, secret, b"exp", context, 32)


def hpke_seal(public: bytes, label: str, context: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
    """EncryptWithLabel: the KEM output and the ciphertext."""
    ephemeral = os.urandom(32)
    sent = public_of(ephemeral)
    hpke = HpkeContext(ephemeral, public, sent, public, with_label(label, context))
    return sent, hpke.cipher.encrypt(hpke.nonce, plaintext, b"")


def hpke_decrypt(private: bytes, sent: bytes, info: bytes, associated: bytes, ciphertext: bytes) -> bytes:
    """One message in base mode."""
    hpke = HpkeContext(private, sent, sent, public_of(private), info)
    return hpke.cipher.decrypt(hpke.nonce, ciphertext, associated)


def hpke_open(private: bytes, label: str, context: bytes, sent: bytes, ciphertext: bytes) -> bytes:
    """DecryptWithLabel."""
    return hpke_decrypt(private, sent, with_label(label, context), b"", ciphertext)


def external_init(private: bytes, sent: bytes) -> bytes:
    """The init secret that an external commit exports to the group (RFC 9420 §8.3)."""
    hpke = HpkeContext(private, sent, sent, public_of(private), b"")
    return labeled_expand(SUITE_ID, hpke.exporter, b"sec", b"MLS 1.0 external init secret", 32)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for add, to, mixed, turn in ((b, a, d, 16), (d, c, b, 12), (b, a, d, 8), (d, c, b, 7)):
            state[to] = (state[to] + state[add]) & 0xFFFFFFFF
            mixture = state[mixed] ^ state[to]
            state[mixed] = (mixture << turn | mixture >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for row in range(4):
            quarter(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def xchacha_seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return cipher.encrypt(bytes(4) + nonce[16:], plaintext, associated)


def xchacha_open(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return cipher.decrypt(bytes(4) + nonce[16:], ciphertext, associated)
