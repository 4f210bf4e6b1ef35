"""Merkle logs (§4)."""

from .codec import Reader, Struct, Vector, hash32, of, uint64
from .crypto import Untrue, require, sha256

EMPTY_ROOT = sha256(b"")


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\0" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right)


class Head(Struct):
    size: int = of(uint64)
    root: bytes = of(hash32)


class Frontier(Struct):
    """Complete subtrees, the largest first: one for each bit of the size."""

    size: int = of(uint64)
    nodes: list[bytes] = of(Vector(hash32))

    @classmethod
    def decode(cls, reader: Reader) -> "Frontier":
        frontier = super().decode(reader)
        require(frontier.size.bit_count() == len(frontier.nodes), "a frontier's number of nodes")
        return frontier

    def head(self) -> Head:
        root = self.nodes[-1] if self.nodes else EMPTY_ROOT
        for node in reversed(self.nodes[:-1]):
            root = node_hash(node, root)
        return Head(size=self.size, root=root)


class Log:
    """A log from a frontier on, and its roots at the sizes since then."""

    def __init__(self, frontier: Frontier | None = None):
        self.frontier = frontier or Frontier(size=0, nodes=[])
        self.base = self.frontier.size
        self.roots = {self.base: self.frontier.head().root}

    @property
    def size(self) -> int:
        return self.frontier.size

    def head(self) -> Head:
        return Head(size=self.size, root=self.roots[self.size])

    def append(self, leaf: bytes) -> None:
        nodes = list(self.frontier.nodes)
        for _ in range((self.size ^ (self.size + 1)).bit_length() - 1):
            leaf = node_hash(nodes.pop(), leaf)
        self.frontier = Frontier(size=self.size + 1, nodes=[*nodes, leaf])
        self.roots[self.size] = self.frontier.head().root

    def leads_to(self, head: Head) -> bool:
        """Whether a head that is not above the present one is a true prefix, as far as the roots tell."""
        return self.roots.get(head.size) == head.root

    def learn(self, head: Head, proof: list[bytes]) -> None:
        """Takes a head below the base, which a consistency proof shows to lead there (RFC 9162 §2.1.4.2)."""
        if not is_consistent(head, Head(size=self.base, root=self.roots[self.base]), proof):
            raise Untrue("a consistency proof")
        self.roots[head.size] = head.root


def is_consistent(old: Head, new: Head, proof: list[bytes]) -> bool:
    if old.size == 0:
        return not proof and old.root == EMPTY_ROOT
    if old.size == new.size:
        return not proof and old.root == new.root
    path = list(proof)
    if old.size.bit_count() == 1:
        path.insert(0, old.root)
    if not path or old.size > new.size:
        return False
    first, second = old.size - 1, new.size - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    old_root = new_root = path[0]
    for node in path[1:]:
        if second == 0:
            return False
        if first & 1 or first == second:
            old_root, new_root = node_hash(node, old_root), node_hash(node, new_root)
            while first and not first & 1:
                first, second = first >> 1, second >> 1
        else:
            new_root = node_hash(new_root, node)
        first, second = first >> 1, second >> 1
    return (old_root, new_root, second) == (old.root, new.root, 0)
