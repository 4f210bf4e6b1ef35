#!/usr/bin/env python3
"""Checks docs/vectors with nothing but docs/PROTOCOL.md and the RFCs that it names.

    python3 -m venv venv && venv/bin/pip install cryptography
    venv/bin/python tests/stranger/check.py [docs]

It shares no code with the program: the structs are read from the page, the functions are those of the client beside it. It says what it did, and
ends with 1 where something is not as the page has it.
"""

import base64
import json
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from stranger import cost
from stranger.crypto import (
    SigningKey, Untrue, expand_with_label, hchacha20, hpke_decrypt, labelled, mac, sha256, verify_plain, with_label,
    xchacha_open, xchacha_seal,
)
from stranger.identity import digits
from stranger.merkle import Head, is_consistent, leaf_hash, node_hash

DOCS = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent.parent / "docs")


# --- section 1: integers and lengths

def varint(value):
    for mark, width in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if value < 1 << (8 * width - 2):
            return (value | mark << (8 * width - 2)).to_bytes(width, "big")
    raise ValueError("too large")


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        taken = self.data[self.at:self.at + count]
        if len(taken) != count:
            raise ValueError("too short")
        self.at += count
        return taken

    def uint(self, width):
        return int.from_bytes(self.take(width), "big")

    def varint(self):
        first = self.take(1)[0]
        width = 1 << (first >> 6)
        value = int.from_bytes(bytes([first & 0x3F]) + self.take(width - 1), "big")
        if len(varint(value)) != width:
            raise ValueError("not in its shortest form")
        return value

    def opaque(self):
        return self.take(self.varint())

    def end(self):
        return self.at == len(self.data)


def opaque(data):
    return varint(len(data)) + data


# --- the structs of the page

TOKEN = re.compile(r"\w+|[^\s\w]")
TABLES = {"ForbiddenWhy": "### 15.1 ", "CommitFault": "### 15.2 ", "RecordFault": "### 15.3 "}


class Page:
    def __init__(self, text):
        self.types = {}
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
            block = re.sub(r"//[^\n]*|/\*.*?\*/", "", block)
            start = r"^(?:struct \{|enum \{|(?:opaque|uint\d+) [A-Z]\w*(?:\[\d+\]|<V>)?;)"
            at = 0
            while found := re.compile(start, re.M).search(block, at):
                at = found.start() + self.definition(block[found.start():])
        for name, heading in TABLES.items():
            section = text.split(heading)[1].split("\n#")[0]
            rows = re.findall(r"^\| (\d+) \| (\w+) \|", section, re.M)
            self.types[name] = ("enum", {int(number): value for number, value in rows})

    def definition(self, text):
        self.tokens = [(m.group(), m.end()) for m in TOKEN.finditer(text)]
        self.pos = 0
        if self.peek() == "struct":
            kind = ("struct", self.members())
        elif self.peek() == "enum":
            kind = ("enum", self.values())
        else:
            kind = self.plain()
        name = self.next()
        self.types[name] = self.suffixed(kind)
        self.next(";")
        return self.tokens[self.pos - 1][1]

    def peek(self):
        return self.tokens[self.pos][0]

    def next(self, wanted=None):
        token = self.peek()
        if wanted is not None and token != wanted:
            raise ValueError(f"{token} where {wanted} was to come")
        self.pos += 1
        return token

    def takes(self, token):
        if self.peek() != token:
            return False
        self.pos += 1
        return True

    def members(self):
        self.next("struct")
        self.next("{")
        members = []
        while not self.takes("}"):
            if self.takes("select"):
                self.next("{")
                cases = {}
                while not self.takes("}"):
                    self.next("(")
                    number = int(self.next())
                    self.next(")")
                    cases[number] = self.field()
                self.takes(";")
                members.append(("select", cases))
            else:
                members.append(("field", self.field()))
        return members

    def field(self):
        of = self.plain()
        name = self.next()
        of = self.suffixed(of)
        self.next(";")
        return name, of

    def values(self):
        self.next("enum")
        self.next("{")
        values = {}
        while not self.takes("}"):
            name = None if self.peek() == "(" else self.next()
            self.next("(")
            number = int(self.next())
            self.next(")")
            self.takes(",")
            if name:
                values[number] = name
        return values

    def plain(self):
        if self.peek() == "struct":
            return "struct", self.members()
        word = self.next()
        if word == "optional":
            self.next("<")
            of = self.suffixed(self.plain())
            self.next(">")
            return "optional", of
        if found := re.fullmatch(r"uint(\d+)", word):
            return "uint", int(found.group(1)) // 8
        return {"varint": ("varint",), "opaque": ("opaque",)}.get(word, ("named", word))

    def suffixed(self, of):
        while self.peek() in "[<":
            if self.takes("["):
                length = self.next()
                of = ("tail", of) if length == "*" else ("fixed", int(length))
                self.next("]")
            else:
                for token in "<V>":
                    self.next(token)
                of = ("bytes",) if of == ("opaque",) else ("list", of)
        return of

    def decode(self, name, data):
        reader = Reader(data)
        value = self.read(("named", name), reader)
        if not reader.end():
            raise ValueError(f"bytes behind a {name}")
        return value

    def read(self, of, reader):
        kind = of[0]
        if kind == "uint":
            return shown(reader.uint(of[1]))
        if kind == "varint":
            return shown(reader.varint())
        if kind == "fixed":
            return reader.take(of[1]).hex()
        if kind == "bytes":
            return reader.opaque().hex()
        if kind in ("list", "tail"):
            within = Reader(reader.opaque()) if kind == "list" else reader
            items = []
            while not within.end():
                items.append(self.read(of[1], within))
            return items
        if kind == "optional":
            return [None, 1][reader.uint(1)] and self.read(of[1], reader)
        if kind == "enum":
            return of[1][reader.uint(1)]
        if kind == "named":
            return self.read(self.types[of[1]], reader)
        fields = {}
        for member, what in of[1]:
            name, held = what[reader.uint(1)] if member == "select" else what
            fields[name] = self.read(held, reader)
        return fields

    def encode(self, of, value):
        kind = of[0]
        if kind == "uint":
            return int(value).to_bytes(of[1], "big")
        if kind == "varint":
            return varint(int(value))
        if kind == "fixed":
            return bytes.fromhex(value)
        if kind == "bytes":
            return opaque(bytes.fromhex(value))
        if kind in ("list", "tail"):
            items = b"".join(self.encode(of[1], item) for item in value)
            return opaque(items) if kind == "list" else items
        if kind == "optional":
            return b"\0" if value is None else b"\1" + self.encode(of[1], value)
        if kind == "enum":
            return bytes([next(number for number, name in of[1].items() if name == value)])
        if kind == "named":
            return self.encode(self.types[of[1]], value)
        out = b""
        for member, what in of[1]:
            if member == "select":
                number = next(number for number, (name, _) in what.items() if name in value)
                out += bytes([number])
                what = what[number]
            out += self.encode(what[1], value[what[0]])
        return out


def shown(value):
    return value if value < 1 << 53 else str(value)


# --- functions of the page

def verifies(key, signature, message):
    try:
        verify_plain(key, message, signature, "a vector")
        return True
    except Untrue:
        return False


def text_of(prefix, statement):
    checksum = labelled("conclave 1.0 text checksum", [prefix.encode(), statement])[:4]
    return prefix + base64.b32encode(statement + checksum).decode().rstrip("=").lower()


# --- the vectors

class Check:
    def __init__(self, page):
        self.page = page
        self.counts = {}
        self.wrong = []

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def that(self, holds, name):
        if not holds:
            self.wrong.append(name)

    def vector(self, vector):
        name = vector["name"]
        if of := vector.get("struct"):
            data = bytes.fromhex(vector["bytes"])
            self.that(self.page.decode(of, data) == vector["fields"], f"{name}: fields")
            self.that(self.page.encode(("named", of), vector["fields"]) == data, f"{name}: bytes")
            self.count("structs")
        if "kind" in vector.get("given", {}):
            self.meter, self.balance = cost.meter(vector["given"]["kind"]), vector["given"]["balance"]
        for follows in vector.get("follows", []):
            self.follows(vector, follows, f"{name}: {follows['what']}")

    def follows(self, vector, f, name):
        given = vector.get("given", {})

        def of(key):
            return bytes.fromhex(f[key])

        by, made = f["by"], None
        if by == "labelled":
            made = labelled(f["label"], [bytes.fromhex(part) for part in f["parts"]])
        elif by == "Sign":
            content = with_label(f["label"], of("content"))
            self.that(content == of("SignContent"), f"{name}: SignContent")
            self.that(verifies(of("key"), of("is"), content), name)
        elif by == "Ed25519":
            self.that(verifies(bytes.fromhex(given["head key"]), of("is"), of("message")), name)
        elif by == "leaf":
            made = leaf_hash(of("data"))
        elif by == "node":
            made = node_hash(of("left"), of("right"))
        elif by == "H":
            made = sha256(of(""))
        elif by == "varint":
            made = varint(int(given["value"]))
        elif by == "opaque<V>":
            made = opaque(of("x"))
        elif by == "first 16 bytes":
            made = of("hash")[:16]
        elif by == "consistency proof":
            proof = [bytes.fromhex(hash) for hash in f["is"]]
            old, new = (Head(size=f[which], root=bytes.fromhex(given[f"{which} root"])) for which in ("old", "new"))
            self.that(is_consistent(old, new, proof), name)
        elif by == "ExpandWithLabel":
            made = expand_with_label(of("secret"), f["label"], of("context"), f["length"])
        elif by == "HChaCha20":
            made = hchacha20(of("key"), of("input"))
        elif by == "ChaCha20-Poly1305":
            made = ChaCha20Poly1305(of("key")).encrypt(of("nonce"), of("plaintext"), of("aad"))
        elif by == "XChaCha20-Poly1305":
            made = xchacha_seal(of("key"), of("nonce"), of("plaintext"), of("aad"))
        elif by == "HPKE open":
            of_key = [of(name) for name in ("private key", "enc", "info", "aad", "ciphertext")]
            made = hpke_decrypt(*of_key)
        elif by == "cost":
            counted = self.meter.count(of("update"), self.balance, given["room"])
            self.balance = counted["balance"]
            self.that(counted == f["is"], name)
        elif by == "HMAC-SHA256":
            made = mac(of("key"), of("content"))
        elif by == "text":
            self.that(text_of(f["prefix"], bytes.fromhex(vector["bytes"])) == f["is"], name)
        elif by == "digits":
            self.that(digits(*self.digits(vector, f["what"]), f["groups"]) == f["is"], name)
        else:
            self.count("taken as it is")
            return
        if made is not None:
            self.that(made.hex() == f["is"], name)
        self.count(by)

    @staticmethod
    def digits(vector, what):
        given = vector.get("given", {})
        data = bytes.fromhex(vector.get("bytes", ""))
        if what == "user fingerprint":
            return "conclave 1.0 user fingerprint", [labelled("conclave 1.0 user genesis", [data])]
        if what == "request code":
            hash = labelled("conclave 1.0 device request hash", [data])
            return "conclave 1.0 device request code", [hash]
        if what == "group code":
            return "conclave 1.0 group code", [bytes.fromhex(given["epoch authenticator"])]
        hashes = sorted(bytes.fromhex(hash) for hash in given.values())
        return "conclave 1.0 safety number", hashes

    # --- the session

    def session(self, session):
        people = {person["name"]: person for person in session["people"]}
        epochs = {epoch["epoch"]: epoch for epoch in session["epochs"]}
        for document in session["documents"]:
            for keys in document["keys"]:
                root = bytes.fromhex(epochs[keys["epoch"]]["epoch_root"])
                id = bytes.fromhex(document["document"])
                for name, label in (("content_key", "content"), ("commit_key", "commitment")):
                    key = expand_with_label(root, label, id, 32)
                    self.that(key.hex() == keys[name], f"{document['what']}: {name}")
        for epoch in epochs.values():
            parts = [bytes.fromhex(epoch["epoch_authenticator"])]
            code = digits("conclave 1.0 group code", parts, 6)
            self.that(code == epoch["group_code"], f"group code of epoch {epoch['epoch']}")
        nonces, records = {}, {}
        for event in session["frames"]:
            if "step" in event:
                continue
            name = f"{event['what']} of {event['who']}"
            of = {"up": "ClientFrame", "down": "ServiceFrame"}[event["way"]]
            data = bytes.fromhex(event["frame"])
            frame = self.page.decode(of, data)
            self.that(self.page.encode(("named", of), frame) == data, f"{name}: bytes")
            self.count("frames")
            if "challenge" in frame:
                nonces[event["who"]] = frame["challenge"]
            if login := frame.get("login"):
                self.login(people[event["who"]], nonces[event["who"]], login, name)
            for record in whole_records(frame):
                records[self.leaf(record)] = record
            for welcome in [frame["welcome"]] if "welcome" in frame else []:
                self.welcome(session, epochs, welcome)
        for document in session["documents"]:
            for entry in document["records"]:
                if record := records.get(entry["leaf"]):
                    root = bytes.fromhex(epochs[entry["epoch"]]["epoch_root"])
                    payload = self.open(root, record)
                    self.that(payload.hex() == entry["payload"], f"{document['what']} {entry['seq']}")
                    self.count("records that came whole, opened")

    def login(self, person, challenge, login, name):
        statement = dict(login, nonce=challenge["nonce"], service_key=challenge["service_key"],
                         device=person["device"])
        content = self.page.encode(("named", "LoginStatement"), statement)
        signature = SigningKey(bytes.fromhex(person["device_seed"])).sign("conclave 1.0 service login", content)
        self.that(signature.hex() == login["signature"], name)
        self.count("logins")

    def leaf(self, record):
        header = self.page.encode(("named", "RecordHeader"), record["header"])
        sealed = {key: bytes.fromhex(value) for key, value in record["sealed"].items()}
        parts = [header] + [sealed[key] for key in ("nonce", "ciphertext", "tag", "commitment")]
        core = labelled("conclave 1.0 record core", parts)
        return leaf_hash(core + sealed["signature"]).hex()

    def open(self, root, record):
        header = self.page.encode(("named", "RecordHeader"), record["header"])
        document = bytes.fromhex(record["header"]["document"])
        sealed = {key: bytes.fromhex(value) for key, value in record["sealed"].items()}
        nonce, tag = sealed["nonce"], sealed["tag"]
        commit = expand_with_label(root, "commitment", document, 32)
        key = expand_with_label(commit, "record", nonce, 32)
        commitment = mac(key, opaque(header) + nonce + tag)
        if commitment != sealed["commitment"]:
            raise ValueError("commitment")
        key = expand_with_label(root, "content", document, 32)
        plaintext = xchacha_open(key, nonce, sealed["ciphertext"] + tag, header)
        payload, mark = plaintext.rstrip(b"\0")[:-1], plaintext.rstrip(b"\0")[-1:]
        if mark != b"\x80":
            raise ValueError("padding")
        return payload

    def welcome(self, session, epochs, delivery):
        """RFC 9420, 12.4.3.1, and RFC 9180."""
        reader = Reader(bytes.fromhex(delivery["welcome"]))
        reader.take(6)
        secrets = Reader(reader.opaque())
        info = reader.opaque()
        packages = {}
        for package in session["key_packages"]:
            value = bytes.fromhex(package["key_package"])[4:]
            label = opaque(b"MLS 1.0 KeyPackage Reference")
            packages[sha256(label + opaque(value))] = bytes.fromhex(package["init_key"])
        while not secrets.end():
            reference, enc, sealed = secrets.opaque(), secrets.opaque(), secrets.opaque()
            if private := packages.get(reference):
                of = opaque(b"MLS 1.0 Welcome") + opaque(info)
                group_secrets = Reader(hpke_decrypt(private, enc, of, b"", sealed))
                self.joined(epochs[delivery["epoch"]], group_secrets.opaque(), info)
                self.count("Welcomes that opened")
                return
        self.wrong.append("a Welcome for nobody")

    def joined(self, stated, joiner, info):
        member = mac(joiner, bytes(32))
        welcome = expand_with_label(member, "welcome", b"", 32)
        key = expand_with_label(welcome, "key", b"", 32)
        nonce = expand_with_label(welcome, "nonce", b"", 12)
        group_info = ChaCha20Poly1305(key).decrypt(nonce, info, b"")
        reader = Reader(group_info)
        reader.take(4)
        reader.opaque()
        reader.take(8)
        for _ in range(3):
            reader.opaque()
        context = group_info[:reader.at]
        epoch = expand_with_label(member, "epoch", context, 32)
        authenticator = expand_with_label(epoch, "authentication", b"", 32)
        self.that(authenticator.hex() == stated["epoch_authenticator"], "epoch authenticator")
        exporter = expand_with_label(epoch, "exporter", b"", 32)
        for label, name in (("conclave 1.0 epoch root", "epoch_root"),
                            ("conclave 1.0 root wrap", "wrap_key"),
                            ("conclave 1.0 presence", "presence_root")):
            of_label = expand_with_label(exporter, label, b"", 32)
            secret = expand_with_label(of_label, "exported", sha256(b""), 32)
            self.that(secret.hex() == stated[name], name)


def whole_records(value):
    if isinstance(value, dict):
        if set(value) == {"header", "sealed"}:
            yield value
        for inner in value.values():
            yield from whole_records(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from whole_records(inner)


def main():
    check = Check(Page((DOCS / "PROTOCOL.md").read_text()))
    for file in sorted((DOCS / "vectors").glob("*.json")):
        content = json.loads(file.read_text())
        if file.name == "session.json":
            check.session(content)
        elif "vectors" in content:
            for vector in content["vectors"]:
                check.vector(vector)
        else:
            check.count(f"file that needs an engine, not read: {file.name}")
    for what, count in check.counts.items():
        print(f"{count:5}  {what}")
    for name in check.wrong:
        print(f"wrong: {name}")
    sys.exit(1 if check.wrong else 0)


if __name__ == "__main__":
    main()
