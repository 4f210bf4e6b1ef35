//! A member's rows of the public state: those of [`crate::stored`], and the roots of the log, which a member has from nobody else.

use conclave_proto::Hash;
use conclave_proto::codec::decode;
use conclave_rules::{GROUP_STATE_BYTES, GroupState, StateParts};
use zeroize::Zeroizing;

use super::ClientGroup;
use crate::error::MlsError;
use crate::overlay::Overlay;
use crate::stored::{self, Changed, OWN_ROWS};

/// Followed by a position of the log since the epoch began.
const ROOT_ROWS: &[u8] = b"own/root/";
/// Three rows for everything, as programs before this one wrote them.
const OLD_ROWS: [&[u8]; 3] = [b"own/state", b"own/roster", b"own/documents"];

fn root_key(position: u64) -> Vec<u8> {
    [ROOT_ROWS, &position.to_be_bytes()[..]].concat()
}

/// Reads the state.
pub(super) fn read(overlay: &Overlay) -> Result<GroupState, MlsError> {
    if let [Some(core), Some(roster), Some(documents)] = OLD_ROWS.map(|key| overlay.get_row(key)) {
        let state = GroupState::from_parts(&StateParts {
            core: core.as_slice().into(),
            roster: roster.as_slice().into(),
            documents: documents.as_slice().into(),
        })?;
        for key in OLD_ROWS {
            overlay.put_row(key, None);
        }
        write(overlay, &state, Changed::All);
        return Ok(state);
    }
    let roots = overlay.rows_under(ROOT_ROWS);
    let root = |(_, value): &(Vec<u8>, Zeroizing<Vec<u8>>)| {
        decode::<Hash>("log root", value, GROUP_STATE_BYTES).map_err(MlsError::from)
    };
    let roots = roots.iter().map(root).collect::<Result<_, _>>()?;
    stored::read(&overlay.rows_under(OWN_ROWS), roots)
}

fn write(overlay: &Overlay, state: &GroupState, changed: Changed) {
    let mut put = |key: Vec<u8>, value| overlay.put_row(&key, Some(Zeroizing::new(value)));
    if matches!(changed, Changed::Epoch | Changed::All) {
        for (key, _) in overlay.rows_under(ROOT_ROWS) {
            overlay.put_row(&key, None);
        }
        for (at, root) in (state.epoch_start..).zip(&state.epoch_log_roots) {
            put(root_key(at), root.0.to_vec());
        }
    } else if let Some(root) = state.epoch_log_roots.last() {
        put(root_key(state.frontier.size()), root.0.to_vec());
    }
    stored::write(state, changed, &mut put);
}

impl ClientGroup {
    /// Writes what changed of the public state.
    pub(super) fn save_state(&self, changed: Changed) {
        write(self.provider.overlay(), &self.state, changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_positions() {
        assert!(root_key(9) < root_key(10));
        assert!(root_key(255) < root_key(256));
    }
}
