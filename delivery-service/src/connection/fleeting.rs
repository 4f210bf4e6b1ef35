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
    /// The whole of it as one frame.
    pub(crate) frame: Bytes,
    /// The messages in it, by device.
    pub(crate) items: Vec<(DeviceId, Bytes)>,
}

/// What waits of one document.
enum Waiting {
    /// One batch, whose frame all connections share.
    Shared(Arc<Batch>),
    /// The newest of each device, of several.
    Merged(BTreeMap<DeviceId, Bytes>),
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
                self.bytes += batch.frame.len();
                Waiting::Shared(batch.clone())
            }
            Some(before) => {
                let mut merged = match before {
                    Waiting::Merged(merged) => merged,
                    Waiting::Shared(before) => {
                        self.bytes -= before.frame.len();
                        let items = before.items.iter().cloned();
                        let merged: BTreeMap<DeviceId, Bytes> = items.collect();
                        self.bytes += merged.values().map(Bytes::len).sum::<usize>();
                        merged
                    }
                };
                for (device, item) in &batch.items {
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
            self.take(channel);
        }
    }

    fn take_addressed(&mut self) -> Option<Bytes> {
        let frame = self.addressed.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    fn take(&mut self, channel: u64) -> Option<Bytes> {
        match self.waiting.remove(&channel)? {
            Waiting::Shared(batch) => {
                self.bytes -= batch.frame.len();
                Some(batch.frame.clone())
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
        let frame = frame(channel, items.iter().map(|(_, item)| item));
        let items = items.to_vec();
        Arc::new(Batch { frame, items })
    }

    #[test]
    fn who_keeps_up_shares_the_frame_of_all() {
        let mut fleeting = Fleeting::default();
        let now = Instant::now();
        let first = batch(7, &[item(1, b'a'), item(2, b'b')]);
        fleeting.push(7, &first);
        let sent = fleeting.next(true, now).unwrap();
        assert_eq!(sent.as_ptr(), first.frame.as_ptr());
        assert!(fleeting.next(true, now).is_none());
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
        assert_eq!(sent, newest.frame);
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
