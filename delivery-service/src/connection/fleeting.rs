//! Presence on its way to one connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::DeviceId;
use tokio::time::Instant;

use crate::document::presence::frame;
use crate::limits;

/// What all who have a document open are shown at one time.
pub(crate) struct Batch {
    /// In as many frames as it takes.
    pub(crate) parts: Vec<Part>,
}

/// One frame of a batch.
pub(crate) struct Part {
    /// The frame.
    pub(crate) frame: Bytes,
    /// The messages in it, by device.
    pub(crate) items: Vec<(DeviceId, Bytes)>,
}

impl Batch {
    /// Puts encoded messages into frames.
    pub(crate) fn new(channel: u64, messages: impl IntoIterator<Item = (DeviceId, Bytes)>) -> Self {
        let mut parts = Vec::new();
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let mut bytes = 0;
            let mut items = Vec::new();
            while let Some(item) = messages.next_if(|(_, item)| {
                items.is_empty() || bytes + item.len() <= limits::PRESENCE_FRAME_BYTES
            }) {
                bytes += item.1.len();
                items.push(item);
            }
            let frame = frame(channel, items.iter().map(|(_, item)| item));
            parts.push(Part { frame, items });
        }
        Self { parts }
    }

    /// What is left of it from a part on.
    fn rest(&self, from: usize) -> &[Part] {
        self.parts.get(from..).unwrap_or_default()
    }
}

/// What waits of one document.
enum Waiting {
    /// One batch from a part of it on, whose frames all connections share.
    Shared(Arc<Batch>, usize),
    /// The newest of each device, of several.
    Merged(BTreeMap<DeviceId, Bytes>),
}

fn bytes_of(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.frame.len()).sum()
}

/// What waits for one connection.
#[derive(Default)]
pub(crate) struct Fleeting {
    /// Documents of which something waits, the longest first.
    turns: VecDeque<u64>,
    waiting: BTreeMap<u64, Waiting>,
    addressed: VecDeque<Bytes>,
    /// Bytes that wait. A frame that others share counts as well: nobody else may hold it any more.
    bytes: usize,
    /// Since when something has waited, or the last of it went before other frames; none while nothing waits.
    since: Option<Instant>,
}

impl Fleeting {
    /// What is new of a document.
    pub(super) fn push(&mut self, channel: u64, batch: &Arc<Batch>) {
        self.begin();
        let waiting = match self.waiting.remove(&channel) {
            None => {
                self.turns.push_back(channel);
                self.bytes += bytes_of(&batch.parts);
                Waiting::Shared(batch.clone(), 0)
            }
            Some(before) => {
                let mut merged = match before {
                    Waiting::Merged(merged) => merged,
                    Waiting::Shared(before, from) => {
                        let rest = before.rest(from);
                        self.bytes -= bytes_of(rest);
                        let items = rest.iter().flat_map(|part| part.items.iter().cloned());
                        let merged: BTreeMap<DeviceId, Bytes> = items.collect();
                        self.bytes += merged.values().map(Bytes::len).sum::<usize>();
                        merged
                    }
                };
                for (device, item) in batch.parts.iter().flat_map(|part| &part.items) {
                    self.bytes += item.len();
                    let before = merged.insert(*device, item.clone());
                    self.bytes -= before.map_or(0, |before| before.len());
                }
                Waiting::Merged(merged)
            }
        };
        self.waiting.insert(channel, waiting);
        self.shed();
    }

    /// A message for this connection alone.
    pub(super) fn push_addressed(&mut self, frame: Bytes) {
        self.begin();
        self.bytes += frame.len();
        self.addressed.push_back(frame);
        while self.addressed.len() > limits::ADDRESSED_FRAMES {
            self.take_addressed();
        }
        self.shed();
    }

    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The oldest goes where too much waits: each is shown again by itself.
    fn shed(&mut self) {
        while self.bytes > limits::FLEETING_BYTES {
            if self.take_addressed().is_some() {
                continue;
            }
            let Some(channel) = self.turns.pop_front() else {
                return;
            };
            self.drop_all(channel);
        }
    }

    fn take_addressed(&mut self) -> Option<Bytes> {
        let frame = self.addressed.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    fn drop_all(&mut self, channel: u64) {
        self.bytes -= match self.waiting.remove(&channel) {
            Some(Waiting::Shared(batch, from)) => bytes_of(batch.rest(from)),
            Some(Waiting::Merged(merged)) => merged.values().map(Bytes::len).sum(),
            None => 0,
        };
    }

    /// The next frame of a document. What is left of it comes before what came later.
    fn take(&mut self, channel: u64) -> Option<Bytes> {
        match self.waiting.remove(&channel)? {
            Waiting::Shared(batch, from) => {
                let frame = batch.parts.get(from)?.frame.clone();
                self.bytes -= frame.len();
                if from + 1 < batch.parts.len() {
                    self.turns.push_front(channel);
                    let rest = Waiting::Shared(batch, from + 1);
                    self.waiting.insert(channel, rest);
                }
                Some(frame)
            }
            Waiting::Merged(merged) => {
                self.bytes -= merged.values().map(Bytes::len).sum::<usize>();
                Some(frame(channel, merged.values()))
            }
        }
    }

    /// The next frame, if it may go: nothing else waits, or nothing of this has gone for long. However much of it comes, one frame goes then: what else
    /// waits is not held up.
    pub(super) fn next(&mut self, is_idle: bool, now: Instant) -> Option<Bytes> {
        let since = self.since?;
        if !is_idle && now.duration_since(since) < limits::FLEETING_WAIT {
            return None;
        }
        self.since = Some(now);
        let next = self.take_addressed().or_else(|| {
            let channel = self.turns.pop_front()?;
            self.take(channel)
        });
        if self.addressed.is_empty() && self.turns.is_empty() {
            self.since = None;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::frame::ServiceFrame;

    use super::*;

    fn item(of: u8, text: u8) -> (DeviceId, Bytes) {
        (DeviceId([of; 16]), Bytes::from(vec![text; 3]))
    }

    fn batch(channel: u64, items: &[(DeviceId, Bytes)]) -> Arc<Batch> {
        Arc::new(Batch::new(channel, items.iter().cloned()))
    }

    #[test]
    fn who_keeps_up_shares_the_frame_of_all() {
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        let first = batch(7, &[item(1, b'a'), item(2, b'b')]);
        fleeting.push(7, &first);
        let sent = fleeting.next(true, now).unwrap();
        assert_eq!(sent.as_ptr(), first.parts[0].frame.as_ptr());
        assert!(fleeting.next(true, now).is_none());
    }

    #[test]
    fn more_than_one_frame_is_shared_too() {
        let items: Vec<_> = (0..100)
            .map(|of| (DeviceId([of; 16]), Bytes::from(vec![of; 4096])))
            .collect();
        let first = batch(7, &items);
        assert!(first.parts.len() > 2);
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        fleeting.push(7, &first);
        for part in &first.parts {
            let sent = fleeting.next(true, now).unwrap();
            assert_eq!(sent.as_ptr(), part.frame.as_ptr());
        }
        assert!(fleeting.next(true, now).is_none());
        assert_eq!(fleeting.bytes, 0);
        // What has gone of it is not shown again with what follows.
        fleeting.push(7, &first);
        fleeting.next(true, now).unwrap();
        fleeting.push(7, &batch(7, &items[..1]));
        let rest: usize = first.parts[1..].iter().map(|part| part.items.len()).sum();
        let Some(Waiting::Merged(merged)) = fleeting.waiting.get(&7) else {
            panic!("not merged");
        };
        assert_eq!(merged.len(), rest + 1);
    }

    #[test]
    fn who_does_not_gets_the_newest_of_each() {
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        for text in b'a'..=b'z' {
            fleeting.push(7, &batch(7, &[item(1, text), item(2, text)]));
        }
        fleeting.push(7, &batch(7, &[item(3, b'c')]));
        assert_eq!(fleeting.bytes, 9);
        let sent = fleeting.next(true, now).unwrap();
        let newest = batch(7, &[item(1, b'z'), item(2, b'z'), item(3, b'c')]);
        assert_eq!(sent, newest.parts[0].frame);
        assert_eq!(fleeting.bytes, 0);
        assert!(fleeting.next(true, now).is_none());
    }

    #[test]
    fn it_waits_for_other_frames_but_not_for_ever() {
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        for channel in 0..3 {
            fleeting.push(channel, &batch(channel, &[item(1, b'a')]));
        }
        assert!(fleeting.next(false, now).is_none());
        for round in 2..5 {
            let later = now + round * limits::FLEETING_WAIT;
            assert!(fleeting.next(false, later).is_some());
            // One at a time: the others wait again.
            assert!(fleeting.next(false, later).is_none());
        }
        fleeting.push(1, &batch(1, &[item(1, b'b')]));
        assert!(fleeting.next(false, Instant::now()).is_none());
        assert!(fleeting.next(true, Instant::now()).is_some());
    }

    #[test]
    fn who_is_sent_ever_more_still_gets_everything_else() {
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        let mut went = 0;
        for tenth in 0..100 {
            let now = now + tenth * limits::FLEETING_WAIT / 10;
            for _ in 0..50 {
                fleeting.push_addressed(Bytes::from_static(b"again"));
            }
            // Ten other frames could go meanwhile.
            let mut turns = (0..10).map(|_| fleeting.next(false, now));
            went += turns.by_ref().filter(Option::is_some).count();
        }
        assert!((8..=10).contains(&went), "{went}");
    }

    #[test]
    fn frames_that_all_share_count_for_each_who_does_not_take_them() {
        let mut fleeting = Fleeting::default();
        let items: Vec<_> = (0..20)
            .map(|of| (DeviceId([of; 16]), Bytes::from(vec![0; 4096])))
            .collect();
        for channel in 0..200 {
            fleeting.push(channel, &batch(channel, &items));
        }
        assert!(fleeting.bytes <= limits::FLEETING_BYTES);
        assert!(fleeting.waiting.len() < 20);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes() {
        let mut fleeting = Fleeting::default();
        for _ in 0..2 * limits::ADDRESSED_FRAMES {
            fleeting.push_addressed(Bytes::from_static(b"old"));
        }
        fleeting.push_addressed(Bytes::from_static(b"new"));
        assert_eq!(fleeting.addressed.len(), limits::ADDRESSED_FRAMES);
        assert_eq!(fleeting.addressed.back().unwrap().as_ref(), b"new");
        let large = |of| (DeviceId([of; 16]), Bytes::from(vec![0; 4096]));
        for _ in 0..2 {
            for channel in 0..100 {
                let items: Vec<_> = (0..100).map(large).collect();
                fleeting.push(channel, &batch(channel, &items));
            }
        }
        assert!(fleeting.bytes <= limits::FLEETING_BYTES);
        let mut rest = 0;
        while fleeting.next(true, Instant::now()).is_some() {
            rest += 1;
        }
        assert!(rest > 0);
        assert_eq!(fleeting.bytes, 0);
    }

    #[test]
    fn a_frame_without_messages_is_what_they_are_put_behind() {
        use conclave_proto::codec::{Tail, Varint, encode};
        let empty = ServiceFrame::Shown {
            channel: Varint(9),
            items: Tail(Vec::new()),
        };
        assert_eq!(frame(9, []), encode(&empty));
    }
}
