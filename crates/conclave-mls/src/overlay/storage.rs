//! The OpenMLS storage trait over an [`Overlay`].

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};

use super::{Overlay, OverlayError};

const V: u16 = CURRENT_VERSION;

/// Prefix of the rows that hold key packages with their private keys.
pub(crate) const KEY_PACKAGE: &str = "kp";
const JOIN_CONFIG: &str = "config";
const OWN_LEAF_NODES: &str = "leaf-nodes";
const PROPOSAL: &str = "proposal";
const PROPOSAL_REFS: &str = "proposal-refs";
const TREE: &str = "tree";
const TRANSCRIPT: &str = "transcript";
const CONTEXT: &str = "context";
const CONFIRMATION: &str = "confirmation";
const GROUP_STATE: &str = "mls-state";
const MESSAGE_SECRETS: &str = "message-secrets";
const RESUMPTION: &str = "resumption";
const LEAF_INDEX: &str = "leaf-index";
const EPOCH_SECRETS: &str = "epoch-secrets";
const SIGNATURE_KEYS: &str = "signature-keys";
const ENCRYPTION_KEYS: &str = "encryption-keys";
const EPOCH_KEYS: &str = "epoch-keys";
const PSK: &str = "psk";

type Done = Result<(), OverlayError>;

/// Writer, reader and deleter of a value that a group has one of.
macro_rules! group_value {
    ($label:expr, $value:ident, $write:ident, $read:ident, $delete:ident) => {
        fn $write<G: traits::GroupId<V>, T: traits::$value<V>>(&self, group: &G, value: &T) -> Done {
            self.put($label, group, value)
        }
        group_value!(@rest $label, $value, $read, $delete);
    };
    (@rest $label:expr, $value:ident, $read:ident, $delete:ident) => {
        fn $read<G: traits::GroupId<V>, T: traits::$value<V>>(
            &self,
            group: &G,
        ) -> Result<Option<T>, OverlayError> {
            self.get($label, group)
        }
        fn $delete<G: traits::GroupId<V>>(&self, group: &G) -> Done {
            self.delete($label, group)
        }
    };
}

impl StorageProvider<V> for Overlay {
    type Error = OverlayError;

    group_value!(
        JOIN_CONFIG,
        MlsGroupJoinConfig,
        write_mls_join_config,
        mls_group_join_config,
        delete_group_config
    );
    fn write_tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        group: &G,
        tree: &T,
    ) -> Done {
        self.put_in_pieces(TREE, group, tree)
    }

    fn tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        group: &G,
    ) -> Result<Option<T>, OverlayError> {
        self.get_from_pieces(TREE, group)
    }

    fn delete_tree<G: traits::GroupId<V>>(&self, group: &G) -> Done {
        self.delete_pieces(TREE, group)
    }

    group_value!(
        TRANSCRIPT,
        InterimTranscriptHash,
        write_interim_transcript_hash,
        interim_transcript_hash,
        delete_interim_transcript_hash
    );
    group_value!(
        CONTEXT,
        GroupContext,
        write_context,
        group_context,
        delete_context
    );
    group_value!(
        CONFIRMATION,
        ConfirmationTag,
        write_confirmation_tag,
        confirmation_tag,
        delete_confirmation_tag
    );
    group_value!(
        MESSAGE_SECRETS,
        MessageSecrets,
        write_message_secrets,
        message_secrets,
        delete_message_secrets
    );
    group_value!(
        RESUMPTION,
        ResumptionPskStore,
        write_resumption_psk_store,
        resumption_psk_store,
        delete_all_resumption_psk_secrets
    );
    group_value!(
        LEAF_INDEX,
        LeafNodeIndex,
        write_own_leaf_index,
        own_leaf_index,
        delete_own_leaf_index
    );
    group_value!(
        EPOCH_SECRETS,
        GroupEpochSecrets,
        write_group_epoch_secrets,
        group_epoch_secrets,
        delete_group_epoch_secrets
    );

    fn write_group_state<S: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
        state: &S,
    ) -> Done {
        self.put(GROUP_STATE, group, state)
    }

    fn group_state<S: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
    ) -> Result<Option<S>, OverlayError> {
        self.get(GROUP_STATE, group)
    }

    fn delete_group_state<G: traits::GroupId<V>>(&self, group: &G) -> Done {
        self.delete(GROUP_STATE, group)
    }

    fn append_own_leaf_node<G: traits::GroupId<V>, L: traits::LeafNode<V>>(
        &self,
        group: &G,
        leaf_node: &L,
    ) -> Done {
        let mut nodes: Vec<L> = self.own_leaf_nodes(group)?;
        // Leaf nodes cannot be cloned through the trait: copy by encoding.
        nodes.push(super::decode(&super::encode(leaf_node)?)?);
        self.put(OWN_LEAF_NODES, group, &nodes)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, L: traits::LeafNode<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<L>, OverlayError> {
        Ok(self.get(OWN_LEAF_NODES, group)?.unwrap_or_default())
    }

    fn delete_own_leaf_nodes<G: traits::GroupId<V>>(&self, group: &G) -> Done {
        self.delete(OWN_LEAF_NODES, group)
    }

    fn queue_proposal<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
        reference: &R,
        proposal: &P,
    ) -> Done {
        self.put(PROPOSAL, &(group, reference), proposal)?;
        let wanted = super::encode(reference)?;
        let mut refs = self.encoded_refs(group)?;
        if !refs
            .iter()
            .any(|known| known.as_slice() == wanted.as_slice())
        {
            refs.push(wanted.to_vec());
            self.put(PROPOSAL_REFS, group, &refs)?;
        }
        Ok(())
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<R>, OverlayError> {
        let refs = self.encoded_refs(group)?;
        refs.iter().map(|bytes| super::decode(bytes)).collect()
    }

    fn queued_proposals<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
    ) -> Result<Vec<(R, P)>, OverlayError> {
        let refs: Vec<R> = self.queued_proposal_refs(group)?;
        refs.into_iter()
            .map(|reference| {
                let proposal = self
                    .get(PROPOSAL, &(group, &reference))?
                    .ok_or(OverlayError::Damaged)?;
                Ok((reference, proposal))
            })
            .collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Done {
        self.delete(PROPOSAL, &(group, reference))?;
        let wanted = super::encode(reference)?;
        let mut refs = self.encoded_refs(group)?;
        refs.retain(|known| known.as_slice() != wanted.as_slice());
        self.put(PROPOSAL_REFS, group, &refs)
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Done {
        for reference in self.queued_proposal_refs::<G, R>(group)? {
            self.delete(PROPOSAL, &(group, &reference))?;
        }
        self.delete(PROPOSAL_REFS, group)
    }

    fn write_signature_key_pair<
        K: traits::SignaturePublicKey<V>,
        P: traits::SignatureKeyPair<V>,
    >(
        &self,
        public_key: &K,
        pair: &P,
    ) -> Done {
        self.put(SIGNATURE_KEYS, public_key, pair)
    }

    fn signature_key_pair<K: traits::SignaturePublicKey<V>, P: traits::SignatureKeyPair<V>>(
        &self,
        public_key: &K,
    ) -> Result<Option<P>, OverlayError> {
        self.get(SIGNATURE_KEYS, public_key)
    }

    fn delete_signature_key_pair<K: traits::SignaturePublicKey<V>>(&self, public_key: &K) -> Done {
        self.delete(SIGNATURE_KEYS, public_key)
    }

    fn write_encryption_key_pair<K: traits::EncryptionKey<V>, P: traits::HpkeKeyPair<V>>(
        &self,
        public_key: &K,
        pair: &P,
    ) -> Done {
        self.put(ENCRYPTION_KEYS, public_key, pair)
    }

    fn encryption_key_pair<P: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        public_key: &K,
    ) -> Result<Option<P>, OverlayError> {
        self.get(ENCRYPTION_KEYS, public_key)
    }

    fn delete_encryption_key_pair<K: traits::EncryptionKey<V>>(&self, public_key: &K) -> Done {
        self.delete(ENCRYPTION_KEYS, public_key)
    }

    fn write_encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        P: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
        pairs: &[P],
    ) -> Done {
        self.put(EPOCH_KEYS, &(group, epoch, leaf_index), pairs)
    }

    fn encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        P: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<Vec<P>, OverlayError> {
        Ok(self
            .get(EPOCH_KEYS, &(group, epoch, leaf_index))?
            .unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Done {
        self.delete(EPOCH_KEYS, &(group, epoch, leaf_index))
    }

    fn write_key_package<R: traits::HashReference<V>, K: traits::KeyPackage<V>>(
        &self,
        reference: &R,
        key_package: &K,
    ) -> Done {
        self.put(KEY_PACKAGE, reference, key_package)
    }

    fn key_package<R: traits::HashReference<V>, K: traits::KeyPackage<V>>(
        &self,
        reference: &R,
    ) -> Result<Option<K>, OverlayError> {
        self.get(KEY_PACKAGE, reference)
    }

    fn delete_key_package<R: traits::HashReference<V>>(&self, reference: &R) -> Done {
        self.delete(KEY_PACKAGE, reference)
    }

    fn write_psk<I: traits::PskId<V>, B: traits::PskBundle<V>>(&self, id: &I, psk: &B) -> Done {
        self.put(PSK, id, psk)
    }

    fn psk<B: traits::PskBundle<V>, I: traits::PskId<V>>(
        &self,
        id: &I,
    ) -> Result<Option<B>, OverlayError> {
        self.get(PSK, id)
    }

    fn delete_psk<I: traits::PskId<V>>(&self, id: &I) -> Done {
        self.delete(PSK, id)
    }
}

impl Overlay {
    fn encoded_refs<G: traits::GroupId<V>>(&self, group: &G) -> Result<Vec<Vec<u8>>, OverlayError> {
        Ok(self.get(PROPOSAL_REFS, group)?.unwrap_or_default())
    }
}
