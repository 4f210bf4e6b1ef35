//! The device on whose behalf this crate acts.

use conclave_identity::{CREDENTIAL_TYPE, DeviceCredential, DeviceKey, SCHEME_ED25519};
use conclave_proto::DeviceId;
use conclave_rules::LeafFacts;
use openmls::credentials::{Credential, CredentialType, CredentialWithKey};

use crate::provider::DeviceSigner;

/// This device: its key and its credential.
#[derive(Clone, Copy)]
pub struct DeviceContext<'a> {
    /// The device's signature key.
    pub key: &'a DeviceKey,
    /// Its credential, which certifies that key.
    pub credential: &'a DeviceCredential,
}

impl std::fmt::Debug for DeviceContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceContext({:?})", self.device())
    }
}

impl<'a> DeviceContext<'a> {
    /// The device's id, as certified.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.credential.certificate.device
    }

    pub(crate) fn signer(&self) -> DeviceSigner<'a> {
        DeviceSigner(self.key)
    }

    pub(crate) fn credential_with_key(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: Credential::new(
                CredentialType::from(CREDENTIAL_TYPE),
                self.credential.to_bytes(),
            ),
            signature_key: self.key.public().to_vec().into(),
        }
    }

    /// The leaf that a path by this device brings.
    pub(crate) fn leaf_facts(&self) -> LeafFacts {
        LeafFacts {
            credential_type: CREDENTIAL_TYPE,
            credential: self.credential.to_bytes().into(),
            scheme: SCHEME_ED25519,
            key: self.key.public().to_vec().into(),
            capable: 1,
            lifetime: None,
        }
    }
}
