"""Reading Yjs updates without the engine (§10.3): what they hold, and where they end. Engines do not tell."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pycrdt import Doc, Map, Text

from .lib0 import GC, SKIP, Id, Lib0

Ranges = dict[int, list[tuple[int, int]]]  # of each client: beginnings and ends


@dataclass
class Block:
    """Some operations of one client, one after the other."""

    client: int
    clock: int
    kind: int
    length: int
    origin: Id | None = None
    right_origin: Id | None = None
    parent: str | Id | None = None  # a root's name, or the operation that made the type
    key: str | None = None

    @property
    def end(self) -> int:
        return self.clock + self.length


class Blocks(Lib0):
    """Blocks of updates."""

    def block(self, client: int, clock: int) -> Block:
        info = self.byte()
        block = Block(client, clock, info & 31, 0)
        if block.kind in (GC, SKIP):
            block.length = self.number()
            return block
        block.origin = self.id() if info & 0x80 else None
        block.right_origin = self.id() if info & 0x40 else None
        if not info & 0xC0:
            block.parent = self.string() if self.number() else self.id()
            block.key = self.string() if info & 0x20 else None
        block.length = self.content_length(block.kind)
        return block


@dataclass
class ReadUpdate:
    sections: list[list[Block]] = field(default_factory=list)  # one for each client, without skip blocks
    deleted: Ranges = field(default_factory=dict)
    end: int = 0

    def ranges(self) -> Ranges:
        found: Ranges = {}
        for section in self.sections:
            for block in section:
                found.setdefault(block.client, []).append((block.clock, block.end))
        return {client: merged(ranges) for client, ranges in found.items()}


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that touch or overlap are one."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def read_update(data: bytes, at: int = 0) -> ReadUpdate:
    reader, update = Blocks(data, at), ReadUpdate()
    for _ in range(reader.number()):
        count, client, clock = reader.number(), reader.number(), reader.number()
        section = []
        for _ in range(count):
            block = reader.block(client, clock)
            clock = block.end
            if block.kind != SKIP:
                section.append(block)
        update.sections.append(section)
    for _ in range(reader.number()):
        client, count = reader.number(), reader.number()
        pairs = [(reader.number(), reader.number()) for _ in range(count)]
        update.deleted[client] = [(clock, clock + length) for clock, length in pairs]
    update.end = reader.at
    return update


def split_state(state: bytes) -> list[bytes]:
    """The updates that stand one after the other in a snapshot's `state`."""
    updates, at = [], 0
    while at < len(state):
        end = read_update(state, at).end
        updates.append(state[at:end])
        at = end
    return updates


class Replica:
    """A Yjs document under one client id, in an engine."""

    def __init__(self, client: int, state: bytes = b""):
        self.doc: Doc = Doc(client_id=client)
        for update in split_state(state):
            self.apply(update)

    def apply(self, update: bytes) -> None:
        self.doc.apply_update(update)

    def state(self) -> bytes:
        """For a snapshot. The engine leaves out what waits: this client makes none while something does."""
        return self.doc.get_update()

    def ranges(self) -> Ranges:
        return read_update(self.state()).ranges()

    @property
    def text(self) -> Text:
        return self.doc.get("text", type=Text)

    @property
    def root(self) -> Map:
        return self.doc.get("root", type=Map)

    def edit(self, change: "Callable[[Replica], None]") -> list[bytes]:
        """Makes a change; the updates that say it, with no deletion that others made."""
        updates: list[bytes] = []
        watched = self.doc.observe(lambda event: updates.append(bytes(event.update)))
        with self.doc.transaction():
            change(self)
        self.doc.unobserve(watched)
        return updates

    def content(self) -> tuple[Ranges, Ranges, str, str]:
        """What two replicas that hold the same have alike."""
        read = read_update(self.state())
        deleted = {client: merged(ranges) for client, ranges in read.deleted.items() if ranges}
        return read.ranges(), deleted, str(self.text), str(self.root)
