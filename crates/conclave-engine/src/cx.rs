//! What a handler may use. It has no group: a handler is given the group or document that it is about, and what it wants of others it posts,
//! for the same transition to do after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_mls::KeyStore;
use conclave_proto::frame::WelcomeDelivery;
use conclave_proto::{DeviceId, DocumentId, GroupId, Refusal, RescueId, UnixMs, UserId};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use zeroize::Zeroizing;

use crate::beat::Pulses;
use crate::clock::Clocks;
use crate::commands::Listing;
use crate::device::{Device, random};
use crate::document::{Lending, WorkId};
use crate::engine::HOT_DOCUMENTS;
use crate::event::{Event, Told};
use crate::evidence::Proofs;
use crate::finding::{Finding, Findings};
use crate::gather::Gather;
use crate::group::Refound;
use crate::io::{CommandId, Output, Read, ReadId};
use crate::link::Link;
use crate::operations::Operations;
use crate::pause::Pauses;
use crate::presence::Presence;
use crate::rescue::{Parted, RescueInfo, RescueUse};
use crate::revocation::Job;
use crate::service::Known;
use crate::timers::{TimerKind, Timers};
use crate::unsent::AllUnsent;
use crate::work::{DocWork, GroupWork};

/// Documents that are re-keyed in one transition. Between two steps others come in: acknowledgements of edits wait for few.
pub(crate) const REKEYS: usize = 4;

/// However long the service says to wait, in milliseconds.
const LONGEST_WAIT_MS: u64 = 3600 * 1000;

/// How long the service takes no more of what it refused, in milliseconds, as far as it says so.
pub(crate) fn wait_ms(refusal: &Refusal) -> u64 {
    match refusal {
        Refusal::RateLimited { retry_after_ms } => (*retry_after_ms).min(LONGEST_WAIT_MS),
        _ => 0,
    }
}

/// What rows were asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReadTarget {
    Group(GroupId),
    /// What is left of a group whose MLS rows cannot be read.
    Stray(GroupId),
    /// Kept evidence of a frozen group, to be judged again.
    Thaw(GroupId),
    /// Kept evidence, for whoever asks.
    Evidence(CommandId),
    /// Evidence against the service or a device, for whoever asks.
    Proof(CommandId),
    /// Some of the rows that are read together.
    Gather(u64),
    /// A snapshot of a document, by its position, for a look.
    Snapshot(GroupId, DocumentId, u64),
    /// A rescue copy, for whoever asks.
    Rescue(CommandId, RescueId, RescueUse),
}

/// What a handler wants done after it, in the same transition, outside of what it was given.
#[derive(Debug)]
pub(crate) enum Post {
    /// Work on a group, or on a document of it.
    Group(GroupId, GroupWork),
    /// An invitation that waits may be taken now.
    OfferInvitation(GroupId),
    /// A Welcome is kept until the user decides.
    KeepWelcome(Box<WelcomeDelivery>),
    /// This store is older than what its device has done.
    RestoredEverywhere,
    /// Nothing is left to be kept of a group that this device is out of.
    End(GroupId),
    /// Begins anew with what a command lists.
    List(CommandId, Listing),
    /// Goes on with a list of groups.
    ListNext(CommandId),
    /// Founds a group anew.
    Refound(Box<Refound>),
    /// A user's devices changed, who is not the own one.
    DevicesOf(UserId),
    /// There is room to keep edits apart again.
    RescueRoom,
    /// A group has documents to open, and too many are in memory.
    MakeRoom(GroupId),
}

/// What a handler may use. See the module documentation.
pub(crate) struct Cx {
    pub(crate) device: Device,
    pub(crate) keystore: KeyStore,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) now: UnixMs,
    pub(crate) out: Output,
    pub(crate) link: Link,
    /// Which service this device knows.
    pub(crate) service: Known,
    pub(crate) clocks: Clocks,
    pub(crate) timers: Timers,
    pub(crate) findings: Findings,
    /// What was found in this transition, and how many events came before.
    pub(crate) found: Vec<(usize, Finding)>,
    pub(crate) operations: Operations,
    /// What waits for the service.
    pub(crate) unsent: AllUnsent,
    /// What is paused.
    pub(crate) pauses: Pauses,
    /// What is shown and watched of documents' presence.
    pub(crate) presence: Presence,
    /// What members tell each other that the service showed them.
    pub(crate) pulses: Pulses,
    /// What is kept of documents' logs to be returned, in bytes.
    pub(crate) kept_bytes: u64,
    /// Devices of the own user that are taken away, and those that were.
    pub(crate) revocations: BTreeMap<DeviceId, Job>,
    /// Own edits that were kept apart.
    pub(crate) rescues: BTreeMap<RescueId, RescueInfo>,
    /// Evidence against the service, or a device.
    pub(crate) proofs: Proofs,
    /// What waits for room to keep edits apart, and was told of.
    pub(crate) rescue_full: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Groups whose membership has ended, while their rows are read once more.
    pub(crate) parting: BTreeMap<GroupId, Parted>,
    /// Rows that are read together.
    pub(crate) gathers: BTreeMap<u64, Gather>,
    /// Who waits for documents whose own edits are being kept apart.
    pub(crate) letting_go: BTreeMap<(GroupId, DocumentId), Vec<CommandId>>,
    /// Commands that look into groups, while these come into memory.
    pub(crate) listing: BTreeMap<CommandId, Listing>,
    /// Groups in which this store was found older than what its device has done.
    pub(crate) restored: BTreeSet<GroupId>,
    /// Documents in memory, those that were not worked on for longest first.
    pub(crate) by_age: BTreeMap<u64, (GroupId, DocumentId)>,
    /// How many documents may still be re-keyed in this transition.
    pub(crate) rekeys_left: usize,
    /// Documents that are in memory at most, of all groups, where none of them has something to do.
    pub(crate) hot_documents: usize,
    /// Documents in memory of other groups than the one at work.
    pub(crate) documents_elsewhere: usize,
    pub(crate) reads: BTreeMap<ReadId, ReadTarget>,
    /// What work is lent.
    pub(crate) lending: Lending,
    /// Work that was lent and is not back.
    pub(crate) lent: BTreeMap<WorkId, (GroupId, DocumentId)>,
    pub(crate) posts: VecDeque<Post>,
    /// How often a group was settled or a document worked on: for whoever counts work.
    pub(crate) worked: u64,
    next_id: u64,
    next_read: u64,
}

impl Cx {
    pub(crate) fn new(device: Device, keystore: KeyStore, rng: ChaCha20Rng, now: UnixMs) -> Self {
        Self {
            device,
            keystore,
            rng,
            now,
            out: Output::default(),
            link: Link::default(),
            service: Known::default(),
            clocks: Clocks::default(),
            timers: Timers::default(),
            findings: Findings::default(),
            found: Vec::new(),
            operations: Operations::default(),
            unsent: AllUnsent::default(),
            pauses: Pauses::default(),
            presence: Presence::default(),
            pulses: Pulses::default(),
            kept_bytes: 0,
            revocations: BTreeMap::new(),
            rescues: BTreeMap::new(),
            proofs: Proofs::new(),
            rescue_full: BTreeSet::new(),
            parting: BTreeMap::new(),
            gathers: BTreeMap::new(),
            letting_go: BTreeMap::new(),
            listing: BTreeMap::new(),
            restored: BTreeSet::new(),
            by_age: BTreeMap::new(),
            rekeys_left: REKEYS,
            hot_documents: HOT_DOCUMENTS,
            documents_elsewhere: 0,
            reads: BTreeMap::new(),
            lending: Lending::default(),
            lent: BTreeMap::new(),
            posts: VecDeque::new(),
            worked: 0,
            next_id: 1,
            next_read: 1,
        }
    }

    /// Asks for something to be done after the handler that is at work.
    pub(crate) fn post(&mut self, what: Post) {
        self.posts.push_back(what);
    }

    /// As [`Self::post`], for work on a group.
    pub(crate) fn post_group(&mut self, group: GroupId, work: GroupWork) {
        self.post(Post::Group(group, work));
    }

    /// As [`Self::post`], for work on a document.
    pub(crate) fn post_document(&mut self, group: GroupId, document: DocumentId, work: DocWork) {
        self.post_group(group, GroupWork::Document(document, work));
    }

    /// Sets a timer; one of the same kind that is set already stays.
    pub(crate) fn wake(&mut self, after_ms: u64, kind: TimerKind) {
        self.timers.set(self.now.plus_ms(after_ms), kind);
    }

    /// As [`Self::wake`], for what it is too early for.
    pub(crate) fn wake_at(&mut self, at: UnixMs, kind: TimerKind) {
        self.timers.set(at, kind);
    }

    /// Sets a timer between the bounds, unless one of its kind is set.
    pub(crate) fn plan(&mut self, from_ms: u64, to_ms: u64, kind: TimerKind) {
        if !self.timers.is_set(kind) {
            let delay = self.jitter(from_ms, to_ms);
            self.wake(delay, kind);
        }
    }

    pub(crate) fn cancel_timer(&mut self, kind: TimerKind) {
        self.timers.cancel(kind);
    }

    /// A delay in milliseconds drawn between the bounds.
    pub(crate) fn jitter(&mut self, from_ms: u64, to_ms: u64) -> u64 {
        let span = to_ms.saturating_sub(from_ms).saturating_add(1);
        from_ms + self.rng.next_u64() % span
    }

    /// A delay in milliseconds after a refusal: drawn between the bounds, and not shorter than the service says.
    pub(crate) fn jitter_after(&mut self, refusal: &Refusal, from_ms: u64, to_ms: u64) -> u64 {
        self.jitter(from_ms, to_ms).max(wait_ms(refusal))
    }

    pub(crate) fn read(&mut self, prefix: Vec<u8>, target: ReadTarget) {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        self.reads.insert(id, target);
        self.out.reads.push(Read { id, prefix });
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        // In the order of time; who keeps them durably makes sure that none repeats after a restart within one millisecond.
        (self.now.0 << 20) | (self.next_id & 0xf_ffff)
    }

    pub(crate) fn random16(&mut self) -> [u8; 16] {
        random(&mut self.rng)
    }

    pub(crate) fn event(&mut self, event: Event) {
        if let Event::DocumentChanged { changes, .. } = &event {
            let own = self.device.user();
            let own = changes.iter().filter(|change| Some(change.user) == own);
            own.for_each(|change| self.note_seen(&change.device));
        }
        self.out.told.push(Told::Event(event));
    }

    /// Something came that a device wrote: of an own one it is kept when that was.
    pub(crate) fn note_seen(&mut self, device: &DeviceId) {
        if self.device.note_seen(device, self.now) {
            self.device.save_labels(&mut self.out.writes);
        }
    }

    /// What a user is called here.
    pub(crate) fn name_of(&self, user: &UserId) -> Option<String> {
        self.device.name_of(user)
    }

    /// Stores a row.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Zeroizing<Vec<u8>>) {
        self.out.writes.put(key, value);
    }

    /// Deletes a row.
    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.out.writes.delete(key);
    }
}
