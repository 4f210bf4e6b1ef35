//! Frames on the local socket.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::LOCAL_FRAME_BYTES;
use crate::error::Error;

/// Why a frame could not be written or read.
#[derive(Debug)]
pub(crate) enum CodecError {
    /// The other side is gone.
    Io(std::io::Error),
    /// It is larger than the socket takes.
    TooLarge,
    /// It is no frame.
    Malformed,
}

impl From<std::io::Error> for CodecError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Io(error) => super::local("the other process", &error),
            CodecError::TooLarge => Self::Argument {
                what: "too large for the local socket",
            },
            CodecError::Malformed => Self::Local {
                why: "it said something unintelligible".to_owned(),
            },
        }
    }
}

/// Writes one frame.
pub(crate) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), CodecError> {
    let mut frame = vec![0u8; 4];
    ciborium::into_writer(value, &mut frame).map_err(|_| CodecError::Malformed)?;
    let length = frame.len() - 4;
    if length > LOCAL_FRAME_BYTES {
        return Err(CodecError::TooLarge);
    }
    let prefix = u32::try_from(length)
        .map_err(|_| CodecError::Malformed)?
        .to_be_bytes();
    for (to, from) in frame.iter_mut().zip(prefix) {
        *to = from;
    }
    to.write_all(&frame).await?;
    Ok(to.flush().await?)
}

/// Reads one frame; none at the end of the stream. Memory grows with what arrives, not with what was announced.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, CodecError> {
    let mut prefix = [0u8; 4];
    if from.read(prefix.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Ok(None);
    }
    let rest = prefix.get_mut(1..).unwrap_or_default();
    from.read_exact(rest).await?;
    let length = u64::from(u32::from_be_bytes(prefix));
    if length > LOCAL_FRAME_BYTES as u64 {
        return Err(CodecError::Malformed);
    }
    let mut body = Vec::new();
    let read = from.take(length).read_to_end(&mut body).await?;
    if read as u64 != length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    ciborium::from_reader(body.as_slice())
        .map(Some)
        .map_err(|_| CodecError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_end_cleanly() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"one").await.unwrap();
        write(&mut bytes, &"two").await.unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(
            read::<String>(&mut from).await.unwrap().as_deref(),
            Some("one")
        );
        assert_eq!(
            read::<String>(&mut from).await.unwrap().as_deref(),
            Some("two")
        );
        assert_eq!(read::<String>(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let mut whole = Vec::new();
        write(&mut whole, &"text").await.unwrap();
        for cut in 1..whole.len() {
            assert!(
                read::<String>(&mut &whole[..cut]).await.is_err(),
                "cut at {cut}"
            );
        }
        let huge = [0xff, 0xff, 0xff, 0xff, 0];
        assert!(read::<String>(&mut huge.as_slice()).await.is_err());
        let announced_only = [0x03, 0xff, 0xff, 0xff, 1, 2, 3];
        assert!(
            read::<String>(&mut announced_only.as_slice())
                .await
                .is_err()
        );
    }
}
