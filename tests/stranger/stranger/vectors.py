"""The vectors that stand on the page (§2, §10.1, §13.5)."""

from .client import directory_id
from .codec import decode
from .crypto import SigningKey, labelled, require
from .frames import Generation, LogName, SignedHead
from .merkle import Head
from .records import Author, RecordHeader, Update, seal, unseal

GENERATION = (
    "0000018bcfe5687b0000000000000000000000000000000000000000000000000000000000000000"
    "010000018bcfe5687b8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
    "4c1a3224c9746ce8f8da31a605ee2a144c70ce731450ba4c940f2f62c833afa5"
    "fba6abff176391638a79f1bd4337d24752e37b307b8dde29c00de4bb38fcc00e"
)
SIGNED_HEAD = (
    "ead0fefccd00e983f09a47a4671ec9863bc0c14e18b9f1712e26013000fd2cfb"
    "a9b7a0f08b4252f3f8608a964defe9be46ba5cc41fac3efd4275f185be248f0e"
)


def check() -> None:
    require(directory_id(b"\1" * 16).hex() == "7c69c32900b13f63bf8109a4e25c7d67", "the vector of a directory's id")
    check_record()
    check_heads()


def check_record() -> None:
    header = RecordHeader(
        group=b"\x33" * 16,
        document=b"\x44" * 16,
        epoch=5,
        author=Author(device=b"\x11" * 16, instance=b"\x22" * 8),
        seen=Head(size=3, root=b"\x55" * 32),
        body=Update(clock=4, prev=b"\x99" * 32),
    )
    root = b"\x66" * 32
    record = seal(header, b"an update", root, SigningKey(b"\x77" * 32), 1, nonce=b"\1" * 24)
    sealed = record.sealed
    found = (sealed.ciphertext, sealed.tag, sealed.commitment, record.core(), record.id())
    wanted = (
        "bf52037e6ba114938b4e",
        "4c056ec786c7789148e472964fa68af1",
        "37dee6df3c367843e41fe99096fec98b545481bff8cc8136a55104550c005d92",
        "57a3e4d00e5aee6ab42a549e8912802e76450f2ae92936d079fbe159a5256a06",
        "fe1c4f6983425edaa60a1bef899015cca3f45d3412508da21531e1e82ff2464c",
    )
    require(tuple(it.hex() for it in found) == wanted, "the vector of a record")
    require(unseal(record, root) == b"an update", "what the vector of a record seals")


def check_heads() -> None:
    service = SigningKey(b"\1" * 32)
    encoded = bytes.fromhex(GENERATION)
    generation = decode(Generation, encoded)
    generation.check(service.public)
    named = labelled("conclave 1.0 service generation id", [encoded]).hex()
    wanted = "fd712d53671ffd2c7731d7e827727254ac65f896ae86f7922ba32cadad8b6b75"
    require(named == wanted, "the vector of a generation's id")
    head = Head(size=5210, root=b"\xab" * 32)
    signed = SignedHead(head=head, seconds=1_700_000_001, signature=bytes.fromhex(SIGNED_HEAD))
    signed.check(generation, service.public, LogName(group=b"\1" * 16, document=b"\2" * 16))
