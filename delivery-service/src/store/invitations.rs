//! Invitation tokens. Only hashes are stored: a copy of the database admits nobody.

use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{Hash, Refusal, UnixMs, hash};
use sqlx::SqliteConnection;

use super::codes::{int, uint};
use super::{OpError, StoreError};

/// An invitation as listed: never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Short name, for revoking it.
    pub id: String,
    /// When it was made.
    pub created: UnixMs,
    /// When it ends.
    pub expires: UnixMs,
    /// Accounts it still admits.
    pub uses_left: u64,
}

/// What is stored of a token.
pub(crate) fn token_hash(token: &[u8]) -> Hash {
    hash::labelled("conclave 1.0 invitation token", &[token])
}

/// Uses a token up by one.
pub(crate) async fn redeem(
    conn: &mut SqliteConnection,
    token: Option<Hash>,
    now: UnixMs,
) -> Result<(), OpError> {
    let not_admitted = Refusal::Forbidden {
        why: ForbiddenWhy::NotAdmitted,
    };
    let Some(token) = token else {
        return Err(not_admitted.into());
    };
    let used = sqlx::query(
        "UPDATE invitations SET uses_left = uses_left - 1 WHERE hash = ? AND uses_left > 0 AND expires_ms > ?",
    )
    .bind(token.as_bytes())
    .bind(int(now.0))
    .execute(&mut *conn)
    .await?;
    if used.rows_affected() == 1 {
        Ok(())
    } else {
        Err(not_admitted.into())
    }
}

/// Stores an invitation.
pub(crate) async fn insert(
    conn: &mut SqliteConnection,
    token: Hash,
    invitation: &Invitation,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO invitations (hash, id, created_ms, expires_ms, uses_left) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(token.as_bytes())
    .bind(&invitation.id)
    .bind(int(invitation.created.0))
    .bind(int(invitation.expires.0))
    .bind(int(invitation.uses_left))
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Every invitation, the newest first.
pub(crate) async fn list(conn: &mut SqliteConnection) -> Result<Vec<Invitation>, StoreError> {
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT id, created_ms, expires_ms, uses_left FROM invitations ORDER BY created_ms DESC, id",
    )
    .fetch_all(&mut *conn)
    .await?;
    rows.into_iter()
        .map(|(id, created, expires, uses_left)| {
            Ok(Invitation {
                id,
                created: UnixMs(uint(created)?),
                expires: UnixMs(uint(expires)?),
                uses_left: uint(uses_left)?,
            })
        })
        .collect()
}

/// Removes an invitation; false when there is none of that name.
pub(crate) async fn revoke(conn: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM invitations WHERE id = ?")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    Ok(done.rows_affected() > 0)
}
