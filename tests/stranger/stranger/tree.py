"""The ratchet tree (RFC 9420 §4, §7). A node's number is its place in the array: leaf `i` is node `2 i`."""

from .codec import Optional, Select, Vector, decode, opaque, uint8, uint32
from .crypto import require, sha256
from .messages import LeafNode, ParentNode

NODES = Vector(Optional(Select({1: LeafNode, 2: ParentNode})))


def level(node: int) -> int:
    return (~node & (node + 1)).bit_length() - 1


def left(node: int) -> int:
    return node ^ (1 << (level(node) - 1))


def right(node: int) -> int:
    return node ^ (3 << (level(node) - 1))


def parent(node: int) -> int:
    height = level(node)
    return (node | 1 << height) & ~(1 << (height + 1))


def is_below(node: int, leaf: int) -> bool:
    """Whether a leaf is in the subtree of a node."""
    return (2 * leaf) >> (level(node) + 1) == node >> (level(node) + 1)


class Tree:
    """As many nodes as a full tree has; a blank one is None."""

    def __init__(self, nodes: list[LeafNode | ParentNode | None]):
        self.nodes = nodes
        width = 1
        while width < len(nodes):
            width = 2 * width + 1
        self.nodes += [None] * (width - len(nodes))

    @staticmethod
    def parse(data: bytes) -> "Tree":
        return Tree(decode(NODES, data))

    def encode(self) -> bytes:
        used = max(node for node, value in enumerate(self.nodes) if value is not None) + 1
        return NODES.encode(self.nodes[:used])

    def copy(self) -> "Tree":
        def own(node: LeafNode | ParentNode | None) -> LeafNode | ParentNode | None:
            return decode(ParentNode, node.encode()) if isinstance(node, ParentNode) else node

        return Tree([own(node) for node in self.nodes])

    def root(self) -> int:
        return len(self.nodes) // 2

    def leaf(self, index: int) -> LeafNode:
        leaf = self.nodes[2 * index] if 2 * index < len(self.nodes) else None
        require(isinstance(leaf, LeafNode), f"leaf {index}")
        return leaf  # type: ignore[return-value]

    def leaves(self) -> dict[int, LeafNode]:
        return {at // 2: leaf for at, leaf in enumerate(self.nodes) if isinstance(leaf, LeafNode)}

    def direct_path(self, leaf: int) -> list[int]:
        node, path = 2 * leaf, []
        while node != self.root():
            node = parent(node)
            path.append(node)
        return path

    def copath_child(self, node: int, leaf: int) -> int:
        return right(node) if is_below(left(node), leaf) else left(node)

    def resolution(self, node: int) -> list[int]:
        value = self.nodes[node]
        if value is not None:
            return [node] + [2 * leaf for leaf in getattr(value, "unmerged_leaves", [])]
        return self.resolution(left(node)) + self.resolution(right(node)) if level(node) else []

    def filtered_path(self, leaf: int) -> list[int]:
        return [node for node in self.direct_path(leaf) if self.resolution(self.copath_child(node, leaf))]

    def add(self, leaf: LeafNode) -> int:
        places = range(0, len(self.nodes), 2)
        node = next((node for node in places if self.nodes[node] is None), None)
        if node is None:
            node = len(self.nodes) + 1
            self.nodes += [None] * (len(self.nodes) + 1)
        self.nodes[node] = leaf
        for above in self.direct_path(node // 2):
            value = self.nodes[above]
            if isinstance(value, ParentNode):
                value.unmerged_leaves = sorted([*value.unmerged_leaves, node // 2])
        return node // 2

    def blank(self, leaf: int) -> None:
        self.leaf(leaf)
        for node in (2 * leaf, *self.direct_path(leaf)):
            self.nodes[node] = None

    def truncate(self) -> None:
        while len(self.nodes) > 1 and not any(self.nodes[self.root() + 1 :: 2]):
            del self.nodes[self.root() :]

    def hash(self, node: int | None = None) -> bytes:
        node = self.root() if node is None else node
        value = self.nodes[node]
        known = b"\0" if value is None else b"\1" + value.encode()
        if level(node) == 0:
            return sha256(uint8.encode(1) + uint32.encode(node // 2) + known)
        below = (opaque.encode(self.hash(child(node))) for child in (left, right))
        return sha256(uint8.encode(2) + known + b"".join(below))

    def set_path(self, leaf: int, keys: list[bytes]) -> bytes:
        """Gives a leaf's filtered direct path new keys and parent hashes (RFC 9420 §7.9). The leaf's parent hash."""
        path = self.filtered_path(leaf)
        require(len(path) == len(keys), "the length of a path")
        for node in self.direct_path(leaf):
            self.nodes[node] = None
        above = b""
        for node, key in reversed(list(zip(path, keys, strict=True))):
            self.nodes[node] = ParentNode(encryption_key=key, parent_hash=above, unmerged_leaves=[])
            sibling = self.hash(self.copath_child(node, leaf))
            above = sha256(opaque.encode(key) + opaque.encode(above) + opaque.encode(sibling))
        return above
