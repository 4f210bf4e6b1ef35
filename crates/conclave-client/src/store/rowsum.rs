//! The sum over all rows, by which a row that was deleted, added, or put back in an older version is noticed.
//!
//! Each row's value has a random nonce of its own, so that key and nonce together name one version of one row: nothing else opens there.
//! The sum is the XOR of a keyed hash (HMAC-SHA-256) of every such pair, with their number; it is kept sealed in the header, changed in
//! the same transaction as the rows, and compared when the store is opened. Who does not have the store key neither knows the hashes nor
//! the sum, and cannot make one set of rows pass for another. A whole older store, sum and all, is consistent: that is not noticed here.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::error::StoreError;
use super::secret::{FORMAT_VERSION, fill_random};

const LABEL: &[u8] = b"conclave 1.0 store row sum";
const NONCE_BYTES: usize = 24;
const SUM_BYTES: usize = 32;

/// A sum and the keys to continue and to seal it.
#[derive(Clone)]
pub(super) struct RowSum {
    hash: Hmac<Sha256>,
    cipher: XChaCha20Poly1305,
    sum: [u8; SUM_BYTES],
    rows: u64,
}

impl RowSum {
    /// The sum over no rows.
    pub(super) fn new(store_key: &[u8]) -> Result<Self, StoreError> {
        let failed = |_| StoreError::Damaged { what: "row sum" };
        let mut keys = Zeroizing::new([0u8; 64]);
        Hkdf::<Sha256>::new(None, store_key)
            .expand(LABEL, keys.as_mut_slice())
            .map_err(failed)?;
        let (hash, cipher) = keys.split_at(32);
        Ok(Self {
            hash: <Hmac<Sha256> as Mac>::new_from_slice(hash)
                .map_err(|_| StoreError::Damaged { what: "row sum" })?,
            cipher: XChaCha20Poly1305::new(cipher.into()),
            sum: [0; SUM_BYTES],
            rows: 0,
        })
    }

    pub(super) fn add(&mut self, row_key: &[u8], nonce: &[u8]) {
        self.turn(row_key, nonce);
        self.rows = self.rows.wrapping_add(1);
    }

    pub(super) fn remove(&mut self, row_key: &[u8], nonce: &[u8]) {
        self.turn(row_key, nonce);
        self.rows = self.rows.wrapping_sub(1);
    }

    fn turn(&mut self, row_key: &[u8], nonce: &[u8]) {
        let mut hash = self.hash.clone();
        hash.update(&(row_key.len() as u64).to_be_bytes());
        hash.update(row_key);
        hash.update(nonce);
        let hash = hash.finalize().into_bytes();
        for (sum, hash) in self.sum.iter_mut().zip(hash) {
            *sum ^= hash;
        }
    }

    /// What the header keeps.
    pub(super) fn seal(&self) -> Result<Vec<u8>, StoreError> {
        let mut out = vec![FORMAT_VERSION];
        let mut nonce = [0u8; NONCE_BYTES];
        fill_random(&mut nonce)?;
        out.extend_from_slice(&nonce);
        let sealed = self
            .cipher
            .encrypt(
                XNonce::from_slice(&nonce),
                Payload {
                    msg: &self.plain(),
                    aad: LABEL,
                },
            )
            .map_err(|_| StoreError::TooLarge)?;
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Whether the header keeps this very sum.
    pub(super) fn check(&self, kept: &[u8]) -> Result<(), StoreError> {
        let damaged = || StoreError::Damaged { what: "row sum" };
        let (version, rest) = kept.split_first().ok_or_else(damaged)?;
        if *version != FORMAT_VERSION {
            return Err(StoreError::UnknownFormat {
                found: u16::from(*version),
            });
        }
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let payload = Payload {
            msg: body,
            aad: LABEL,
        };
        let kept = self
            .cipher
            .decrypt(XNonce::from_slice(nonce), payload)
            .map_err(|_| damaged())?;
        if kept == self.plain() {
            Ok(())
        } else {
            Err(StoreError::RowsChanged)
        }
    }

    fn plain(&self) -> Vec<u8> {
        let mut plain = self.sum.to_vec();
        plain.extend_from_slice(&self.rows.to_be_bytes());
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_of_a_set_of_versions() {
        let (one, two) = ([1u8; 24], [2u8; 24]);
        let empty = RowSum::new(&[7; 32]).unwrap();
        let mut sum = empty.clone();
        sum.add(b"a", &one);
        sum.add(b"b", &two);
        let kept = sum.seal().unwrap();
        let mut again = empty.clone();
        again.add(b"b", &two);
        again.add(b"a", &one);
        again.check(&kept).unwrap();
        // Another version, another place, a row too few, the same row three times, and another store.
        for rows in [
            vec![(b"a", two), (b"b", two)],
            vec![(b"a", two), (b"b", one)],
            vec![(b"a", one)],
            vec![(b"a", one), (b"b", two), (b"b", two), (b"b", two)],
        ] {
            let mut other = empty.clone();
            for (key, nonce) in rows {
                other.add(key, &nonce);
            }
            assert!(matches!(other.check(&kept), Err(StoreError::RowsChanged)));
        }
        again.remove(b"a", &one);
        assert!(matches!(again.check(&kept), Err(StoreError::RowsChanged)));
        let other = RowSum::new(&[8; 32]).unwrap();
        assert!(matches!(
            other.check(&kept),
            Err(StoreError::Damaged { .. })
        ));
        for at in 0..kept.len() {
            let mut bad = kept.clone();
            bad[at] ^= 1;
            assert!(sum.check(&bad).is_err(), "byte {at}");
            assert!(sum.check(&kept[..at]).is_err(), "cut at {at}");
        }
    }
}
