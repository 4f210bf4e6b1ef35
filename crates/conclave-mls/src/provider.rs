//! What OpenMLS is handed: RustCrypto, an overlay, and a signer.

use conclave_identity::DeviceKey;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;

use crate::overlay::{Overlay, Rows};

/// Crypto and storage of one group, or of the key store.
#[derive(Debug, Default)]
pub struct Provider {
    crypto: RustCrypto,
    overlay: Overlay,
}

impl Provider {
    /// A provider over stored rows.
    #[must_use]
    pub fn new(rows: Rows) -> Self {
        Self {
            crypto: RustCrypto::default(),
            overlay: Overlay::new(rows),
        }
    }

    /// The storage.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Overlay;

    fn storage(&self) -> &Overlay {
        &self.overlay
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto
    }
}

/// Signs what OpenMLS asks for with the device's key. OpenMLS hands over the finished `SignContent` (RFC 9420 §5.1.2).
pub(crate) struct DeviceSigner<'a>(pub &'a DeviceKey);

impl Signer for DeviceSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_raw(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
