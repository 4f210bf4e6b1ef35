//! Making, listing and revoking invitations, beside a running service or without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_order::limits::Limits;
use conclave_order::op::identity::CreateInvitation;
use conclave_order::rows::InvitationRow as Invitation;
use conclave_order::{Batch, Op, run_batch};
use conclave_proto::{Hash, UnixMs, hash};

use crate::config::Clock;
use crate::error::StartError;
use crate::sqlite::open::DirectoryLock;
use crate::sqlite::{Store, StoreError};

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 20;
/// Bytes of randomness in an invitation's name.
const NAME_BYTES: usize = 4;

/// A new invitation. The token is shown once: only its hash is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct NewInvitation {
    /// What the invited device brings.
    pub token: String,
    /// What is stored of it.
    pub invitation: Invitation,
}

impl std::fmt::Debug for NewInvitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInvitation")
            .field("invitation", &self.invitation)
            .finish_non_exhaustive()
    }
}

/// The invitations of a data directory.
#[derive(Debug, Clone)]
pub struct Invitations {
    data_dir: PathBuf,
    clock: Clock,
}

impl Invitations {
    /// The invitations of this data directory.
    #[must_use]
    pub fn of(data_dir: impl AsRef<Path>) -> Self {
        Self {
            data_dir: data_dir.as_ref().to_owned(),
            clock: Clock::default(),
        }
    }

    /// A service that runs keeps its schema: only where none does, it is brought up to date.
    async fn open(&self) -> Result<(Store, Option<Arc<DirectoryLock>>), StoreError> {
        Store::open_for_command(&self.data_dir).await
    }

    /// Makes an invitation that admits `uses` accounts within `valid_ms` milliseconds.
    ///
    /// # Errors
    /// [`StartError`] when the database cannot be used or the system gives no random bytes.
    pub async fn create(&self, uses: u64, valid_ms: u64) -> Result<NewInvitation, StartError> {
        let mut random = [0; TOKEN_BYTES + NAME_BYTES];
        getrandom::fill(&mut random).map_err(|_| StartError::Random)?;
        let (token, name) = random.split_at(TOKEN_BYTES);
        let token = data_encoding::BASE32_NOPAD
            .encode(token)
            .to_ascii_lowercase();
        let created = self.clock.now();
        let invitation = Invitation {
            id: data_encoding::HEXLOWER.encode(name),
            created,
            expires: UnixMs(created.0.saturating_add(valid_ms)),
            uses_left: uses,
        };
        let op = CreateInvitation {
            hash: token_hash(token.as_bytes()),
            row: invitation.clone(),
        };
        let (mut store, _lock) = self.open().await?;
        // Nothing of it is bounded by what an operator sets.
        let limits = Limits::OWN;
        let batch = Batch::new(vec![Op::CreateInvitation(op)], limits);
        for ended in run_batch(&mut store, batch, &()).await {
            ended
                .failure
                .map_or(Ok(()), Err)
                .map_err(StoreError::from)?;
        }
        store.let_go().await?;
        Ok(NewInvitation { token, invitation })
    }

    /// Every invitation, the newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be used.
    pub async fn list(&self) -> Result<Vec<Invitation>, StoreError> {
        let (mut store, _lock) = self.open().await?;
        let list = store.invitations().await?;
        store.let_go().await?;
        Ok(list)
    }

    /// Ends an invitation; false when there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be used.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        let (mut store, _lock) = self.open().await?;
        let revoked = store.revoke_invitation(id).await?;
        store.let_go().await?;
        Ok(revoked)
    }
}

/// What is stored of a token.
pub(crate) fn token_hash(token: &[u8]) -> Hash {
    hash::labelled("conclave 1.0 invitation token", &[token])
}
