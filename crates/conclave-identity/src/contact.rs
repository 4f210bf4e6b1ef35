//! A contact: what one person gives another so that they can pin each other.

use std::fmt;

use conclave_proto::UserId;
use conclave_proto::codec::encode;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{VERSION, check_version, decode_canonical};
use crate::error::{NameError, TextError};
use crate::names::{NAME_CHARS, check_name};
use crate::text::Kind;
use crate::user::{GENESIS_BYTES, UserGenesis};

const KIND: Kind = Kind {
    prefix: "conclave:user:",
    max_bytes: 2 + GENESIS_BYTES + 2 + 4 * NAME_CHARS,
};

/// A user as they introduce themselves. Not signed and not secret: it is worth what the way it came is worth, until the
/// [`crate::safety_number`] is compared.
///
/// As text it is `conclave:user:` and base32; upper case reads as well, which lets a QR code use its denser alphanumeric mode.
#[derive(Clone, PartialEq, Eq)]
pub struct Contact {
    /// The statement that the user began with.
    pub genesis: UserGenesis,
    /// What the user calls themselves: a suggestion for a petname. See [`check_name`].
    pub name: String,
}

/// The encoded form, with its version first.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Statement {
    version: u16,
    genesis: UserGenesis,
    #[tls_codec(with = "crate::codec::name")]
    name: String,
}

impl Contact {
    /// A contact with a name that others can read.
    ///
    /// # Errors
    /// [`NameError`] when it is no name.
    pub fn new(genesis: UserGenesis, name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(Self {
            genesis,
            name: name.to_owned(),
        })
    }

    /// The user.
    #[must_use]
    pub fn user_id(&self) -> UserId {
        self.genesis.user_id()
    }

    /// Text of this contact, in lower case and without spaces.
    #[must_use]
    pub fn to_text(&self) -> String {
        let statement = Statement {
            version: VERSION,
            genesis: self.genesis.clone(),
            name: self.name.clone(),
        };
        KIND.write(&encode(&statement))
    }

    /// Reads the text of a contact. Case, surrounding white space and line breaks inside do not matter.
    ///
    /// # Errors
    /// [`TextError`] when it is another kind of text, was mistyped or cut off, or its content is not acceptable.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        let bytes = KIND.read(text)?;
        let statement: Statement = decode_canonical("contact", &bytes, KIND.max_bytes)?;
        check_version(statement.version)?;
        statement.genesis.check()?;
        Ok(Self {
            genesis: statement.genesis,
            name: statement.name,
        })
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contact")
            .field("user", &self.user_id())
            .finish_non_exhaustive()
    }
}
