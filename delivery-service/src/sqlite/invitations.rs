//! Invitations as the operator sees them.

use conclave_order::rows::InvitationRow;
use conclave_proto::UnixMs;

use super::codes::uint;
use super::{Store, StoreError};

impl Store {
    /// Every invitation, the newest first.
    pub(crate) async fn invitations(&mut self) -> Result<Vec<InvitationRow>, StoreError> {
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "SELECT id, created_ms, expires_ms, uses_left FROM invitations ORDER BY created_ms DESC, id",
        )
        .fetch_all(&mut self.connection)
        .await?;
        rows.into_iter()
            .map(|(id, created, expires, uses_left)| {
                Ok(InvitationRow {
                    id,
                    created: UnixMs(uint(created)?),
                    expires: UnixMs(uint(expires)?),
                    uses_left: uint(uses_left)?,
                })
            })
            .collect()
    }

    /// Removes an invitation; false when there is none of that name.
    pub(crate) async fn revoke_invitation(&mut self, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM invitations WHERE id = ?")
            .bind(id)
            .execute(&mut self.connection)
            .await?;
        Ok(done.rows_affected() > 0)
    }
}
