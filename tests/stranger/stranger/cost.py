"""What updates cost (§11.10), counted without an engine."""

import zlib
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256

from .codec import Malformed
from .lib0 import DELETED, GC, SKIP, STRING, TYPE, VALUES, Id, Lib0

CAP = 1 << 22
UPDATE = {1: 1 << 19, 2: 114_688}
LONGEST = 1 << 20
MOST_WAITING = 4_096
WAITS, PART = 512, 64
DEEPEST = 200
GONE, SINGLE = -1, -2
JOINING = (STRING, VALUES, DELETED, GONE)


class Refused(Exception):
    """`cost` or `content`."""


def ceil(number: int, by: int) -> int:
    return -(-number // by)


def name(text: bytes) -> bytes:
    return sha256(text).digest()[:16]


@dataclass(eq=False)
class Item:
    client: int
    start: int
    len: int
    kind: int
    origin: Id | None = None
    right: Id | None = None
    home: tuple | None = None  # ("root", name, key) or ("type", id, key)
    weight: int = 0
    size: int = 0
    stands: list | None = None  # its list

    @property
    def end(self) -> int:
        return self.start + self.len

    @property
    def live(self) -> bool:
        return self.kind not in (DELETED, GONE)

    def beyond(self, clock: int) -> "Item":
        if clock <= self.start:
            return self
        return Item(self.client, clock, self.end - clock, self.kind, (self.client, clock - 1), self.right, None,
                    self.weight, self.size)

    def goes_on(self, after: "Item") -> bool:
        if self.client != after.client or self.end != after.start or self.kind != after.kind:
            return False
        if self.kind == GONE:
            return True
        return self.kind in JOINING and after.origin == (self.client, self.end - 1) and after.right == self.right


class Counting(Lib0):
    """Lib0 that counts values."""

    def values(self) -> int:
        kind, count = self.byte(), 1
        if kind not in (117, 118):
            self.at -= 1
            self.skip_value()
            return 1
        for _ in range(self.number()):
            if kind == 118:
                self.string()
            count += self.values()
        return count


def read(update: bytes) -> tuple[list[tuple[int, int, list[Item | int]]], dict[int, list[tuple[int, int]]], int]:
    """Sections of a client, its first clock and items (a number is a gap up to there); deletions; how many items."""
    data, sections, items = Counting(update), [], 0
    for _ in range(data.number()):
        count, client, clock = data.number(), data.number(), data.number()
        first, blocks = clock, []
        for _ in range(count):
            at = data.at
            info = data.byte()
            if info in (GC, SKIP):
                length = data.number()
                item = Item(client, clock, length, GONE) if info == GC else clock + length
            else:
                item = block(data, client, clock, info)
                length = item.len
            if isinstance(item, Item):
                item.size = data.at - at
            if length:
                blocks.append(item)
                items += isinstance(item, Item)
            clock += length
        sections.append((client, first, blocks))
    deletes: dict[int, list[tuple[int, int]]] = {}
    for _ in range(data.number()):
        client, ranges = data.number(), []
        for _ in range(data.number()):
            start, length = data.number(), data.number()
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], start + length)
            else:
                ranges.append((start, start + length))
        deletes[client] = ranges
    if data.at != len(update):
        raise Malformed("something behind an update")
    return sections, dict(sorted(deletes.items())), items


def block(data: Counting, client: int, clock: int, info: int) -> Item:
    kind = info & 15
    item = Item(client, clock, 0, kind if kind in (STRING, VALUES, TYPE, DELETED) else SINGLE)
    item.origin = data.id() if info & 0x80 else None
    item.right = data.id() if info & 0x40 else None
    if not info & 0xC0:
        home = ("root", name(data.string().encode())) if data.number() else ("type", data.id())
        item.home = (*home, name(data.string().encode()) if info & 0x20 else None)
    at = data.at
    item.len = data.content_length(kind)
    if kind == VALUES:
        again = Counting(data.data, at)
        item.weight = 32 * sum(again.values() for _ in range(again.number()))
    elif kind in (5, 6, 9):
        item.weight = (data.at - at) // 2 * 32
    return item


@dataclass
class Client:
    clock: int = 0
    blocks: list[Item] = field(default_factory=list)
    marks: set[int] = field(default_factory=set)


class Yjs:
    """A document's numbers. Slow: the page is followed, not outrun."""

    def __init__(self):
        self.clients: dict[int, Client] = {}
        self.lists: dict[tuple, list[Item]] = {}
        self.waiting: list[Item] = []
        self.due: list[tuple[int, int, int]] = []
        self.blocked: dict[int, Id] = {}  # what the next waiting item of a client waits for

    # what there is

    def client(self, client: int) -> Client:
        return self.clients.setdefault(client, Client())

    def clock(self, client: int) -> int:
        return self.clients[client].clock if client in self.clients else 0

    def knows(self, of: Id | None) -> bool:
        return of is None or of[1] < self.clock(of[0])

    def find(self, of: Id | None) -> Item | None:
        if of is None or not self.knows(of):
            return None
        return next(block for block in reversed(self.clients[of[0]].blocks) if block.start <= of[1])

    def marks(self, client: int, start: int, end: int) -> int:
        return sum(start < mark < end for mark in self.client(client).marks)

    def pieces(self, block: Item) -> int:
        return 1 + block.len // 32 if block.kind == GONE else 1 + self.marks(block.client, block.start, block.end)

    def line(self, client: int) -> int:
        return sum(map(self.pieces, self.client(client).blocks)) // 2

    def standing(self, client: int) -> int:
        return sum(self.pieces(block) for block in self.client(client).blocks if block.kind != GONE)

    def blocks(self) -> list[Item]:
        return [block for client in self.clients.values() for block in client.blocks]

    def size(self) -> int:
        return len(self.blocks()) + len(self.waiting) + len(self.due)

    # paying

    def pay(self, parts: int) -> None:
        self.parts += parts
        if self.parts > self.limit:
            raise Refused("cost")

    def note(self, block: Item) -> None:
        count, last = self.noted.get(block.client, (0, 0))
        if block.start < last:
            self.parts += count // 2
        self.noted[block.client] = (count + 1, block.end)

    # blocks

    def split(self, block: Item, clock: int) -> Item:
        """The part from a clock on."""
        if block.start == clock:
            return block
        rest = Item(block.client, clock, block.end - clock, block.kind, (block.client, clock - 1), block.right, stands=block.stands)
        block.len = clock - block.start
        of = self.client(block.client).blocks
        of.insert(of.index(block) + 1, rest)
        block.stands.insert(block.stands.index(block) + 1, rest)
        return rest

    def join(self, first: Item, second: Item) -> bool:
        if not first.goes_on(second) or first.stands is not second.stands:
            return False
        if first.kind != GONE:
            at = first.stands.index(first)
            if at + 1 == len(first.stands) or first.stands[at + 1] is not second:
                return False
            first.stands.pop(at + 1)
        self.client(first.client).blocks.remove(second)
        first.len += second.len
        return True

    def before(self, block: Item) -> Item | None:
        return self.find((block.client, block.start - 1)) if block.start else None

    def cut(self, block: Item | None, clock: int) -> None:
        if block is None or not block.start < clock < block.end:
            return
        if block.kind == STRING:
            self.pay(128 * (ceil(clock - block.start, 160) + ceil(block.len, 2048)))
        elif block.kind == VALUES:
            self.pay(128 * ceil(block.len, 16))
        self.pay(self.line(block.client))

    def check(self, block: Item) -> None:
        if self.strict and block.live and block.len > LONGEST:
            raise Refused("cost")

    # items

    def after(self, block: Item) -> Item | None:
        """What stands after a block, where it goes on with the next clock."""
        at = block.stands.index(block) + 1
        follows = block.stands[at] if at < len(block.stands) else None
        return follows if follows and (follows.client, follows.start) == (block.client, block.end) else None

    def turned(self, item: Item, left: Item | None, right: Item | None) -> bool:
        """Whether the right neighbour is the left one, or comes before it in one run of operations."""
        if not left or not right or item.origin[0] != item.right[0] or item.right[1] > item.origin[1]:
            return False
        if right.stands is None:
            return False
        first, last = right, left
        while first is not last:
            self.pay(16)
            first = self.after(first)
            if first is None:
                return False
            if first is last:
                break
            behind = self.before(last)
            if behind is None or behind.stands is None or self.after(behind) is not last:
                return False
            last = behind
        return True

    def place_of(self, item: Item, left: Item | None, right: Item | None) -> list[Item] | None:
        if left and right and left.stands is not right.stands:
            if self.strict:
                raise Refused("content")
            return left.list if left.stands is not None else right.stands
        if left or right:
            return (left or right).stands
        if item.home is None:
            return None
        if item.home[0] == "type":
            owner = self.find(item.home[1])
            if self.strict and self.depth(owner.stands) >= DEEPEST:
                raise Refused("content")
            if owner.kind in (DELETED, GONE):
                return None
            if owner.kind != TYPE:
                if self.strict:
                    raise Refused("content")
                return None
        return self.lists.setdefault(item.home, [])

    def depth(self, blocks: list[Item] | None) -> int:
        """1 in a root, 2 in a type in a root …"""
        of = next((place for place, there in self.lists.items() if there is blocks), None)
        if of is None:
            return 0
        return 1 if of[0] == "root" else 1 + self.depth(self.find(of[1]).stands)

    def is_key(self, blocks: list[Item]) -> bool:
        return any(there is blocks and place[2] is not None for place, there in self.lists.items())

    def take_in(self, item: Item) -> tuple[Item, bool]:
        """The block that it became a part of, and whether what goes on with it is one item with it."""
        self.pay(128 + item.weight)
        left, right = self.find(item.origin), self.find(item.right)
        if self.strict and self.turned(item, left, right):
            raise Refused("content")
        blocks = self.place_of(item, left, right)
        of = self.client(item.client)
        of.clock = item.end
        new = Item(item.client, item.start, item.len, item.kind, item.origin, item.right, stands=blocks)
        if blocks is None or item.kind == GONE:
            new.kind, new.origin, new.right, new.stands = GONE, None, None, None
            before = self.before(new)
            of.blocks.append(new)
            return (before, True) if before and self.join(before, new) else (new, True)
        left = left if left and left.stands is blocks else None
        right = right if right and right.stands is blocks else None
        if left:
            self.cut(left, item.origin[1] + 1)
            if item.origin != (item.client, item.start - 1):
                self.client(item.origin[0]).marks.add(item.origin[1] + 1)
        if right:
            if right is not left or item.origin[1] + 1 != item.right[1]:
                self.cut(right, item.right[1])
            self.client(item.right[0]).marks.add(item.right[1])
        key = self.is_key(blocks)
        if key and not left:
            self.pay(8 * sum(map(self.pieces, blocks)))
        at = self.place(new, left, right)
        if key and at < len(blocks):
            self.note(new)
            new.kind = DELETED
        elif key and at and blocks[at - 1].live:
            last = (blocks[at - 1].client, blocks[at - 1].end - 1)
            self.delete(blocks[at - 1])
            at = blocks.index(self.find(last)) + 1
        of.blocks.append(new)
        blocks.insert(at, new)
        if at and self.join(blocks[at - 1], new):
            new = blocks[at - 1]
        self.check(new)
        return new, not key

    def place(self, item: Item, left: Item | None, right: Item | None) -> int:
        """The loop of Yjs. Where in its list the item stands."""
        blocks, at, start = item.stands, 0, None
        behind = None  # the last operation that it stands behind
        if left:
            behind, at = item.origin, blocks.index(left)
            start = item.origin[1] + 1
            if start == left.end:
                at, start = at + 1, None
        passed: list[tuple[int, int, int]] = []
        since = 0
        while at < len(blocks):
            block = blocks[at]
            first = block.start if start is None else start
            start = None
            if block is right and item.right[1] == first:
                break
            cut = block is right and first < item.right[1]
            end = item.right[1] if cut else block.end
            self.pay(128)
            passed.append((block.client, first, end))
            origin = block.origin if first == block.start else (block.client, first - 1)
            if origin == item.origin:
                if block.client < item.client:
                    behind, since = (block.client, end - 1), len(passed)
                elif block.right == item.right:
                    break
            else:
                met = [index for index, (client, a, b) in enumerate(passed) if origin and client == origin[0] and a <= origin[1] < b]
                if not met:
                    break
                if met[0] < since:
                    behind, since = (block.client, end - 1), len(passed)
            self.pay(128 * self.marks(block.client, first, end))
            if cut:
                break
            at += 1
        if behind is None:
            return 0
        block = self.find(behind)
        if behind[1] + 1 < block.end:
            self.split(block, behind[1] + 1)
        return blocks.index(block) + 1

    # deletions

    def delete_range(self, client: int, start: int, end: int) -> None:
        self.pay(128)
        while start < end:
            block = self.find((client, start))
            last = block.end
            self.pay(8 * self.pieces(block))
            if block.live:
                self.cut(block, start)
                block = self.split(block, start)
                self.cut(block, end)
                if end < last:
                    self.split(block, end)
                self.delete(block)
            start = last

    def delete(self, block: Item) -> None:
        pieces = self.pieces(block)
        self.pay(32 * pieces)
        self.note(block)
        kind, block.kind = block.kind, DELETED
        if kind == TYPE:
            self.drop((block.client, block.start))
        for _ in range(pieces - 1):
            self.pay(self.line(block.client))
        at = block.stands.index(block)
        if at + 1 < len(block.stands) and self.join(block, block.stands[at + 1]):
            self.pay(self.line(block.client))
        before = self.before(block)
        if before and self.join(before, block):
            self.pay(self.line(block.client))

    def within(self, owner: Id) -> list[Item]:
        places = [place for place in self.lists if place[:2] == ("type", owner)]
        places.sort(key=lambda place: (place[2] is not None, place[2] or b""))
        return [block for place in places for block in self.lists[place]]

    def drop(self, owner: Id) -> None:
        ahead, dropped = self.within(owner), []
        while ahead:
            block = ahead.pop(0)
            pieces = self.pieces(block)
            self.pay(8 * pieces)
            if block.live:
                self.pay(32 * pieces)
                self.note(block)
            else:
                for _ in range(pieces):
                    self.pay(self.line(block.client))
            if block.kind == TYPE:
                ahead = self.within((block.client, block.start)) + ahead
            dropped.append(block)
        end, paid = None, False
        for block in sorted(dropped, key=lambda block: (block.client, block.start)):
            follows = end == (block.client, block.start)
            end = (block.client, block.end)
            if not follows or not paid:
                before = self.before(block)
                paid = follows or self.pieces(block) > 1 or bool(before and before.kind == GONE)
                if paid:
                    self.pay(self.line(block.client))
            block.stands.remove(block)
            block.kind, block.origin, block.right, block.stands = GONE, None, None, None
            before = self.before(block)
            if before and self.join(before, block):
                block = before
            after = self.find(end)
            if after:
                self.join(block, after)

    # updates

    def count(self, update: bytes, balance: int, room: int) -> dict[str, int | str]:
        sections, deletes, items = read(update)
        before, size = self.copy(), self.size()
        longest = max((block.len for block in self.blocks() if block.live), default=0) // 160
        longest += 2 * (max((self.standing(client) for client in self.clients), default=0) // 256)
        most = min(UPDATE[1], CAP, balance + max(64, 64 * items + longest))
        self.limit, self.parts, self.strict, self.noted = most * 128, 0, True, {}
        self.earned, self.moved = 0, []
        refused = None
        try:
            self.update(len(update), sections, deletes)
        except Refused as why:
            refused = str(why)
        cost = ceil(self.parts, 128)
        full = min(CAP, balance + max(64, 64 * self.earned + longest))
        grown = max(0, self.size() - size)
        if refused is None and (cost > min(UPDATE[1], full) or grown > room):
            refused = "cost"
        if refused is not None:
            self.__dict__.update(before)
            return {"refused": refused, "balance": max(0, balance - min(cost, most + 1)), "size": size}
        released = self.release()
        grown = max(0, self.size() - size)
        return {"cost": cost, "balance": full - cost, "size": self.size(), "grown": grown, "released": ceil(released, 128)}

    def copy(self) -> dict:
        kept = {key: getattr(self, key) for key in ("clients", "lists", "waiting", "due", "blocked")}
        return deepcopy(kept)

    def update(self, length: int, sections: list, deletes: dict) -> None:
        self.pay(length // 8)
        self.repeats(sections)
        left = self.sections(sections)
        for (client, _, _), blocks in zip(sections, left):
            for item in blocks:
                if isinstance(item, Item):
                    self.wait(item)
            if blocks:
                self.wait_for(client)
        self.room()
        for client, ranges in deletes.items():
            known = self.clock(client)
            for start, end in ranges:
                if start < known:
                    self.delete_range(client, start, min(end, known))
                if end > known:
                    self.pay(WAITS * 128)
                    self.wait_delete(client, max(start, known), end)
        self.room()

    def room(self) -> None:
        if len(self.waiting) + len(self.due) > MOST_WAITING:
            raise Refused("cost")

    def repeats(self, sections: list) -> None:
        repeats = waits = False
        for client, first, blocks in sections:
            last = blocks[-1] if isinstance(blocks[-1], int) else blocks[-1].end
            clock = self.clock(client)
            if first < clock:
                repeats = True
                self.pay((clock - first) // 8)
            waits |= any(item.client == client and item.start < last and item.end > first for item in self.waiting)
        if repeats:
            self.pay(32 * len(self.blocks()))
        if waits:
            self.pay(2 * sum(item.size for item in self.waiting))

    def needs(self, item: Item) -> Id | None:
        home = item.home[1] if item.home and item.home[0] == "type" else None
        return next((of for of in (item.origin, item.right, home) if not self.knows(of)), None)

    def sections(self, sections: list) -> list[list[Item | int]]:
        queue = deque(range(len(sections)))
        blocked: dict[Id, list[int]] = {}
        at = [0] * len(sections)
        last: list[tuple[Item, Item, bool] | None] = [None] * len(sections)
        while queue:
            index = queue.popleft()
            client, _, blocks = sections[index]
            before, needs = self.clock(client), None
            while at[index] < len(blocks) and needs is None:
                item, clock = blocks[at[index]], self.clock(client)
                if isinstance(item, int):
                    needs = (client, item - 1) if item > clock else None
                elif item.end > clock:
                    if item.start > clock:
                        needs = (client, item.start - 1)
                        break
                    item = item.beyond(clock)
                    needs = self.needs(item)
                    if needs is None:
                        last[index] = self.next(last[index], item)
                        self.earned += 1
                if needs is None:
                    at[index] += 1
            if needs is not None:
                blocked.setdefault(needs, []).append(index)
            after = self.clock(client)
            if after > before:
                if self.moved:
                    self.pay(128)
                self.moved.append((client, before, after))
            for of in sorted(of for of in blocked if of[0] == client and before <= of[1] < after):
                queue.extend(blocked.pop(of))
        return [blocks[at[index]:] for index, (_, _, blocks) in enumerate(sections)]

    def next(self, last: tuple[Item, Item, bool] | None, item: Item) -> tuple[Item, Item, bool]:
        if last and last[2] and last[0].goes_on(item):
            self.pay(64 + item.weight)
            self.client(item.client).clock = item.end
            last[1].len += item.len
            self.check(last[1])
            return item, last[1], True
        return item, *self.take_in(item)

    # what waits

    def wait(self, item: Item) -> None:
        held = [w for w in self.waiting if w.client == item.client and w.start < item.end and item.start < w.end]
        if not held:
            self.waiting.append(item)
            self.pay(WAITS * 128)
        elif [(w.start, w.end) for w in held] != [(item.start, item.end)]:
            raise Refused("content")

    def wait_delete(self, client: int, start: int, end: int) -> None:
        for held in [d for d in self.due if d[0] == client and d[1] <= end and start <= d[2]]:
            self.due.remove(held)
            start, end = min(start, held[1]), max(end, held[2])
        self.due.append((client, start, end))

    def first(self, client: int) -> Item | None:
        return min((item for item in self.waiting if item.client == client), key=lambda item: item.start, default=None)

    def wait_for(self, client: int) -> None:
        self.blocked.pop(client, None)
        item, clock = self.first(client), self.clock(client)
        if item is None or item.end <= clock:
            return
        of = (client, item.start - 1) if item.start > clock else self.needs(item.beyond(clock))
        if of is not None:
            self.blocked[client] = of

    def release(self) -> int:
        """How many parts that cost."""
        self.parts, self.limit = 0, float("inf")
        moved, known = deque(self.moved), set()
        while moved and (self.waiting or self.due):
            client, start, end = moved.popleft()
            known.add(client)
            woken = sorted((of[1], waiter) for waiter, of in self.blocked.items() if of[0] == client and start <= of[1] < end)
            for waiter in [waiter for _, waiter in woken] + [client]:
                before = self.clock(waiter)
                self.take_waiting(waiter)
                if self.clock(waiter) > before:
                    moved.append((waiter, before, self.clock(waiter)))
        for client in sorted(known | {client for client, _, _ in moved}):
            below = self.clock(client)
            for held in sorted(d for d in self.due if d[0] == client and d[1] < below):
                self.due.remove(held)
                if held[2] > below:
                    self.due.append((client, below, held[2]))
                most = PART if held[2] > below else WAITS
                self.costs_at_most(most, lambda: self.delete_range(client, held[1], min(held[2], below)))
        return self.parts

    def costs_at_most(self, units: int, act) -> bool:
        """Does something, or nothing if it costs more."""
        before, parts = self.copy(), self.parts
        self.limit = parts + units * 128
        try:
            act()
            self.pay(0)
        except Refused:
            self.__dict__.update(before)
            self.parts = parts
            return False
        finally:
            self.limit = float("inf")
        return True

    def take_waiting(self, client: int) -> None:
        while (item := self.first(client)) is not None:
            clock = self.clock(client)
            if item.end > clock and (item.start > clock or self.needs(item.beyond(clock))):
                break
            self.waiting.remove(item)
            if item.end <= clock:
                continue
            item = item.beyond(clock)
            if not self.costs_at_most(WAITS, lambda: self.take_in(item)):
                self.parts += 128
                self.leave_out(item)
        self.wait_for(client)

    def leave_out(self, item: Item) -> None:
        """Its clocks are known then, and nothing else of it."""
        of, gone = self.client(item.client), Item(item.client, item.start, item.len, GONE)
        of.clock = item.end
        before = self.before(gone)
        of.blocks.append(gone)
        if before:
            self.join(before, gone)


# --- Automerge

class Columns:
    """LEB128, and columns of runs."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise Malformed("a change that ends too early")
        return self.data[self.at - size : self.at]

    def uint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def int(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value - (1 << shift) if byte & 64 else value

    def rows(self, specification: int) -> tuple[int, int]:
        """How many rows there are, and how many of them are 3."""
        kind, rows, threes = specification & 7, 0, 0
        if kind == 7:
            return 0, 0
        while self.at < len(self.data):
            if kind == 4:
                rows += self.uint()
                continue
            run = self.int()
            if run == 0:
                rows += self.uint()
                continue
            rows += abs(run)
            if run > 0:
                threes += run * (self.value(kind) == 3)
            else:
                threes += sum(self.value(kind) == 3 for _ in range(-run))
        return rows, threes

    def value(self, kind: int) -> int:
        if kind == 5:
            self.take(self.uint())
            return 0
        return self.int() * 0 if kind == 3 else self.uint()


@dataclass
class Change:
    actor: bytes
    number: int
    cost: int
    size: int


def changes(update: bytes) -> list[Change]:
    data, found = Columns(update), []
    while data.at < len(update):
        if data.take(4) != b"\x85\x6f\x4a\x83":
            raise Malformed("no chunk")
        data.take(4)
        kind = data.take(1)[0]
        body = data.take(data.uint())
        if kind == 2:
            body = zlib.decompressobj(-15).decompress(body)
        found.append(change(Columns(body), 9 + leb_length(len(body)) + len(body)))
    return found


def leb_length(number: int) -> int:
    return max(1, ceil(number.bit_length(), 7))


def change(body: Columns, inflated: int) -> Change:
    dependencies = body.uint()
    body.take(32 * dependencies)
    actor, number = body.take(body.uint()), body.uint()
    body.uint()
    body.int()
    body.take(body.uint())
    others = body.uint()
    for _ in range(others):
        body.take(body.uint())
    columns = [(body.uint(), body.uint()) for _ in range(body.uint())]
    rows = {of: Columns(body.take(length)).rows(of) for of, length in columns}
    longest = max((count for count, _ in rows.values()), default=0)
    actions, deletions = rows.get(0x42, (0, 0))
    size = actions - deletions + rows.get(0x73, (0, 0))[0] + 1 + dependencies
    return Change(actor, number, longest + 16 * (1 + dependencies + others) + inflated // 16, size)


class Automerge:
    """A document's numbers, its first change among them."""

    def __init__(self):
        self.known = {(bytes(16), 1)}
        self.total = 2

    def size(self) -> int:
        return self.total

    def count(self, update: bytes, balance: int, room: int) -> dict:
        read = changes(update)
        cost, full = sum(each.cost for each in read), min(CAP, balance + max(64, 16 * len(update)))
        new = {(each.actor, each.number): each.size for each in read if (each.actor, each.number) not in self.known}
        grown = sum(new.values())
        if cost > min(full, UPDATE[2]) or grown > room:
            return {"refused": "cost", "balance": max(0, balance - ceil(len(update), 64)), "size": self.total}
        self.known |= set(new)
        self.total += grown
        return {"cost": cost, "balance": full - cost, "size": self.total, "grown": grown, "released": 0}


def meter(kind: int) -> Yjs | Automerge:
    return Yjs() if kind == 1 else Automerge()
