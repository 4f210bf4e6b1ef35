"""The encoding that Yjs is written in."""

from .codec import Malformed

Id = tuple[int, int]  # client and clock

GC, DELETED, STRING, TYPE, VALUES, SKIP = 0, 1, 4, 7, 8, 10  # kinds of blocks


class Lib0:
    """The encoding that Yjs is written in."""

    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise Malformed("an update that ends too early")
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def string(self) -> str:
        return self.take(self.number()).decode()

    def id(self) -> Id:
        return self.number(), self.number()

    def skip_value(self) -> None:
        kind = self.byte()
        if kind == 125:
            while self.byte() & 128:
                pass
        elif kind in (124, 123, 122):
            self.take(4 if kind == 124 else 8)
        elif kind in (119, 116):
            self.take(self.number())
        elif kind == 118:
            for _ in range(self.number()):
                self.string()
                self.skip_value()
        elif kind == 117:
            for _ in range(self.number()):
                self.skip_value()
        elif kind not in (127, 126, 121, 120):
            raise Malformed(f"a value of kind {kind}")

    def content_length(self, kind: int) -> int:
        """Passes over a block's content. How many clocks it takes."""
        if kind == DELETED:
            return self.number()
        if kind == 3:
            self.take(self.number())
        elif kind == STRING:
            return len(self.string().encode("utf-16-le")) // 2
        elif kind == 5:
            self.string()
        elif kind == 6:
            self.string()
            self.string()
        elif kind == TYPE:
            if self.number() == 3:
                self.string()
        elif kind == VALUES:
            count = self.number()
            for _ in range(count):
                self.skip_value()
            return count
        elif kind == 9:
            self.string()
            self.skip_value()
        else:
            raise Malformed(f"content of kind {kind}")
        return 1
