//! What many tests begin with, and do in passing.

use conclave_mls::Plan;
use conclave_proto::{DocumentId, GroupPolicy, InstanceId, Record};

use crate::harness::{Member, TestService};

/// A first life of a store.
pub const ONE: InstanceId = InstanceId([1; 8]);

/// A commit that changes nobody.
pub const RENEWAL: Plan = Plan {
    add: Vec::new(),
    remove: Vec::new(),
    policy: None,
    self_update: true,
};

/// A document, and its first snapshot.
pub type NewDocument = (DocumentId, Record);

impl TestService {
    /// Somebody alone in a group with a document.
    pub async fn alone(&self) -> (Member, NewDocument) {
        let mut alice = self.member().await;
        alice.create_group(GroupPolicy::default()).await;
        let document = alice.create_document().await;
        (alice, document)
    }

    /// Two members of a group.
    pub async fn pair(&self) -> (Member, Member) {
        let mut alice = self.member().await;
        alice.create_group(GroupPolicy::default()).await;
        let mut bob = self.member().await;
        alice.invite(&mut bob).await;
        (alice, bob)
    }

    /// Two members of a group with a document, which the second one finds there.
    pub async fn pair_with_document(&self) -> (Member, Member, NewDocument) {
        let (mut alice, document) = self.alone().await;
        let mut bob = self.member().await;
        alice.invite(&mut bob).await;
        (alice, bob, document)
    }
}
