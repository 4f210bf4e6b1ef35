"""Which record brought which operation (§11.6.1)."""

from dataclasses import dataclass, field

from .records import ClaimRow, EpochRow, ReplicaClaims, WireClaims


@dataclass
class Run:
    """Records one after another that brought equally many operations of an id."""

    seq: int
    records: int
    each: int
    carrier: bytes | None = None


@dataclass
class Claims:
    """All of a log's; or, where they are not known from its beginning, none."""

    known: bool
    runs: dict[int, list[Run]] = field(default_factory=dict)
    epochs: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def founded(cls, owners: dict[int, tuple[bytes, int]], founder: bytes) -> "Claims":
        """What a document begins with."""
        runs = {
            client: [Run(0, 1, at, None if device == founder else founder)]
            for client, (device, at) in owners.items()
            if at
        }
        return cls(True, runs)

    @classmethod
    def told(cls, wire: WireClaims, clients: list[int]) -> "Claims":
        claims, seq, epoch = cls(True), 0, 0
        for row in wire.epochs:
            seq, epoch = seq + row.after, epoch + row.more
            claims.epochs.append((seq, epoch))
        for client, replica in zip(clients, wire.replicas, strict=True):
            seq, runs = 0, []
            for row in replica.rows:
                runs.append(Run(seq + row.after, row.records, row.each, row.carrier))
                seq += row.after + row.records
            if runs:
                claims.runs[client] = runs
        return claims

    def begin(self, seq: int, epoch: int) -> None:
        """A record of this epoch stands here."""
        if not self.epochs or self.epochs[-1][1] < epoch:
            self.epochs.append((seq, epoch))

    def bring(self, client: int, seq: int, operations: int) -> None:
        """A record brought the next operations of an id."""
        runs = self.runs.setdefault(client, [])
        last = runs[-1] if runs else None
        if last and (last.seq + last.records, last.each, last.carrier) == (seq, operations, None):
            last.records += 1
        else:
            runs.append(Run(seq, 1, operations))

    def tell(self, clients: list[int]) -> WireClaims | None:
        if not self.known:
            return None
        epochs, last = [], (0, 0)
        for seq, epoch in self.epochs:
            epochs.append(EpochRow(after=seq - last[0], more=epoch - last[1]))
            last = (seq, epoch)
        replicas = []
        for client in clients:
            rows, seq = [], 0
            for run in self.runs.get(client, []):
                rows.append(ClaimRow(after=run.seq - seq, records=run.records, each=run.each, carrier=run.carrier))
                seq = run.seq + run.records
            replicas.append(ReplicaClaims(rows=rows))
        return WireClaims(epochs=epochs, replicas=replicas)
