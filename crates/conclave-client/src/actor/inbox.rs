//! What arrived and waits for the engine. Deliveries to one channel that wait together are taken as one: an engine may need time in
//! proportion to the document for each, and would fall behind whoever writes faster than that.

use std::collections::VecDeque;
use std::future::pending;

use conclave_proto::frame::ServiceFrame;

use crate::transport::{Transport, Wire};

/// Most that waits here. What does not find room stays in the transport, which stops reading.
const WAITING: usize = 256;
/// Records of one delivery after which no other joins it.
const JOINED_RECORDS: usize = 4096;

/// The connection's incoming end: what arrived, in order.
pub(super) struct Inbox {
    transport: Option<Transport>,
    waiting: VecDeque<Wire>,
}

impl Inbox {
    /// Without a transport nothing ever arrives.
    pub(super) fn new(transport: Option<Transport>) -> Self {
        Self {
            transport,
            waiting: VecDeque::new(),
        }
    }

    /// Whether there can ever be a connection.
    pub(super) fn can_connect(&self) -> bool {
        self.transport.is_some()
    }

    /// Closes the connection at once; waits until the service was told.
    pub(super) fn close(self) -> impl Future<Output = ()> + use<> {
        let closing = self.transport.map(Transport::close);
        async move {
            if let Some(closing) = closing {
                closing.await;
            }
        }
    }

    /// Ends the present pause between two attempts to connect, if there is one.
    pub(super) fn connect_now(&self) {
        if let Some(transport) = &self.transport {
            transport.connect_now();
        }
    }

    /// Waits for what comes next. May be dropped while waiting without losing anything.
    pub(super) async fn next(&mut self) -> Option<Wire> {
        if self.waiting.is_empty() {
            let Some(transport) = &mut self.transport else {
                return pending().await;
            };
            let wire = transport.next().await?;
            self.waiting.push_back(wire);
        }
        self.try_next()
    }

    /// What has arrived already, if anything.
    pub(super) fn try_next(&mut self) -> Option<Wire> {
        while self.waiting.len() < WAITING {
            match self.transport.as_mut().and_then(Transport::try_next) {
                Some(wire) => self.waiting.push_back(wire),
                None => break,
            }
        }
        self.take()
    }

    /// The next, with the deliveries to its channel that continue it.
    fn take(&mut self) -> Option<Wire> {
        let mut first = self.waiting.pop_front()?;
        let mut at = 0;
        while let Some(wire) = self.waiting.get_mut(at) {
            match joined(&mut first, wire) {
                Joined::Taken => drop(self.waiting.remove(at)),
                Joined::Apart => at += 1,
                Joined::End => break,
            }
        }
        Some(first)
    }
}

enum Joined {
    /// It is part of the first now.
    Taken,
    /// It has nothing to do with the first.
    Apart,
    /// The first must be handled before it.
    End,
}

fn joined(first: &mut Wire, next: &mut Wire) -> Joined {
    let (Wire::Frame(first), Wire::Frame(next)) = (first, next) else {
        return Joined::End;
    };
    let ServiceFrame::Deliver {
        channel,
        first_seq,
        records,
    } = first.frame_mut()
    else {
        return Joined::End;
    };
    match next.frame_mut() {
        ServiceFrame::Deliver { channel: other, .. }
        | ServiceFrame::Ack { channel: other, .. }
        | ServiceFrame::AppendRefused { channel: other, .. }
            if other != channel =>
        {
            Joined::Apart
        }
        ServiceFrame::Deliver {
            first_seq: seq,
            records: more,
            ..
        } if first_seq.0.checked_add(records.0.len() as u64) == Some(seq.0)
            && records.0.len() < JOINED_RECORDS =>
        {
            records.0.append(&mut more.0);
            Joined::Taken
        }
        // It waits for records that it may have come before.
        ServiceFrame::Shown { .. } => Joined::Apart,
        _ => Joined::End,
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::Hash;
    use conclave_proto::codec::{Tail, Varint};
    use conclave_proto::frame::DeliveredRecord;

    use super::*;
    use crate::transport::Received;

    fn deliver(channel: u64, first_seq: u64, count: u64) -> ServiceFrame {
        let record = |at| DeliveredRecord::Leaf(Hash([at as u8; 32]));
        ServiceFrame::Deliver {
            channel: Varint(channel),
            first_seq: Varint(first_seq),
            records: Tail((first_seq..first_seq + count).map(record).collect()),
        }
    }

    fn ack(channel: u64, first_seq: u64) -> ServiceFrame {
        ServiceFrame::Ack {
            channel: Varint(channel),
            next_clock: Varint(1),
            first_seq: Varint(first_seq),
            count: Varint(1),
        }
    }

    fn taken(frames: Vec<ServiceFrame>) -> Vec<ServiceFrame> {
        let wire = |frame| Wire::Frame(Received::for_tests(frame));
        let mut inbox = Inbox::new(None);
        inbox.waiting.extend(frames.into_iter().map(wire));
        std::iter::from_fn(|| inbox.take())
            .map(|wire| match wire {
                Wire::Frame(received) => *received.into_frame(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_continues_a_delivery_joins_it_past_other_channels() {
        let frames = vec![
            deliver(1, 10, 2),
            deliver(2, 5, 1),
            deliver(1, 12, 1),
            ack(2, 6),
            deliver(1, 13, 3),
            deliver(2, 7, 1),
        ];
        let expected = [
            deliver(1, 10, 6),
            deliver(2, 5, 1),
            ack(2, 6),
            deliver(2, 7, 1),
        ];
        assert_eq!(taken(frames), expected);
    }

    #[test]
    fn nothing_passes_what_it_may_depend_on() {
        // Own records that were ordered between two deliveries, a gap, and anything that concerns more than one document.
        for between in [ack(1, 12), deliver(1, 20, 1), ServiceFrame::Pong] {
            let frames = vec![deliver(1, 10, 2), between, deliver(1, 12, 1)];
            assert_eq!(taken(frames.clone()), frames);
        }
    }

    #[test]
    fn a_delivery_does_not_grow_without_end() {
        let most = JOINED_RECORDS as u64;
        let frames = vec![deliver(1, 0, most), deliver(1, most, 1)];
        assert_eq!(taken(frames.clone()), frames);
    }

    #[test]
    fn the_end_of_a_connection_is_not_passed() {
        let frame = |frame| Wire::Frame(Received::for_tests(frame));
        let failed = Wire::Failed {
            cause: crate::trouble::Trouble::Lost { why: String::new() },
            pause: std::time::Duration::ZERO,
        };
        let mut inbox = Inbox::new(None);
        let arrived = [frame(deliver(1, 0, 1)), failed, frame(deliver(1, 1, 1))];
        inbox.waiting.extend(arrived);
        let mut kinds = Vec::new();
        while let Some(wire) = inbox.take() {
            kinds.push(matches!(wire, Wire::Frame(_)));
        }
        assert_eq!(kinds, [true, false, true]);
    }
}
