//! A growing buffer that wipes the memory it grows out of.

use std::io::{self, Write};

use zeroize::Zeroizing;

/// Collects bytes. A plain `Vec` leaves copies of secrets behind wherever it reallocates; this one does not.
#[derive(Default)]
pub(super) struct SecretBuffer(Zeroizing<Vec<u8>>);

impl SecretBuffer {
    /// The bytes written.
    pub(super) fn into_inner(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl Write for SecretBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger =
                Vec::with_capacity(needed.max(self.0.capacity().saturating_mul(2)).max(512));
            larger.extend_from_slice(&self.0);
            // The old buffer is wiped as it is dropped.
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_written() {
        let mut buffer = SecretBuffer::default();
        for round in 0..200u8 {
            buffer.write_all(&[round; 7]).unwrap();
        }
        let bytes = buffer.into_inner();
        assert_eq!(bytes.len(), 1400);
        assert_eq!(bytes[1399], 199);
        assert_eq!(bytes[0], 0);
    }
}
