//! Proofs that one head of a document's log is a prefix of a later one.

use conclave_proto::Hash;
use conclave_proto::merkle::{NodeId, NodeSource, consistency_nodes, consistency_proof_from};
use conclave_rules::LogId;

use crate::keys::{Keys, Rows, Stop};

const DAMAGED: Stop = Stop::Damaged { what: "log" };

/// The nodes of one log among loaded rows.
struct Loaded<'a> {
    log: LogId,
    rows: &'a Rows,
}

impl NodeSource for Loaded<'_> {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let key = (self.log, NodeId { level, index });
        self.rows.nodes.get(&key).copied().flatten()
    }
}

/// The proof that the log's first `new` records begin with its first `old`; empty where the smaller size is not below the larger.
///
/// # Errors
/// [`Stop::Lacks`] names the nodes that it is made of, until they are loaded.
pub fn proof(log: LogId, old: u64, new: u64, rows: &Rows) -> Result<Vec<Hash>, Stop> {
    if old >= new {
        return Ok(Vec::new());
    }
    let mut lacking = Keys::default();
    for node in consistency_nodes(old, new).map_err(|_| DAMAGED)? {
        match rows.nodes.get(&(log, node)) {
            Some(Some(_)) => {}
            Some(None) => return Err(DAMAGED),
            None => {
                lacking.nodes.insert((log, node));
            }
        }
    }
    if !lacking.is_empty() {
        return Err(Stop::Lacks(Box::new(lacking)));
    }
    consistency_proof_from(&Loaded { log, rows }, old, new).map_err(|_| DAMAGED)
}

/// The newest of many proofs: records of one author, written in one go, need the same.
#[derive(Debug, Default)]
pub struct Proofs(Option<(u64, u64, Vec<Hash>)>);

impl Proofs {
    /// As [`proof`].
    ///
    /// # Errors
    /// As [`proof`].
    pub fn get(&mut self, log: LogId, old: u64, new: u64, rows: &Rows) -> Result<Vec<Hash>, Stop> {
        if let Some((of, to, proof)) = &self.0
            && (*of, *to) == (old, new)
        {
            return Ok(proof.clone());
        }
        let proof = proof(log, old, new, rows)?;
        self.0 = Some((old, new, proof.clone()));
        Ok(proof)
    }
}
