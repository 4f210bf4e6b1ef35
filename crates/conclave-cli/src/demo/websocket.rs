//! Reading a recorded WebSocket conversation (RFC 6455): the HTTP head is skipped, client frames are unmasked, messages are put together.
//!
//! A recording may end in the middle of a frame, where a process was killed: what is incomplete is left out.

use conclave_client::proto::chunk::Assembler;
use conclave_client::proto::limits::FRAME_BYTES;

/// Why a recording is no WebSocket conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordingFault {
    /// Reserved bits are set: an extension is in use that this reader does not know.
    #[error("a frame uses an extension")]
    Extension,
    /// A continuation without a beginning, or a beginning inside a message.
    #[error("frames do not follow each other")]
    Sequence,
    /// The chunks of a protocol frame do not follow each other.
    #[error("chunks do not follow each other")]
    Chunks,
}

/// One WebSocket message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Its payload, unmasked.
    pub payload: Vec<u8>,
}

const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const FIRST_CONTROL: u8 = 8;

/// All complete messages of one direction of a connection.
///
/// # Errors
/// [`RecordingFault`].
pub fn messages(stream: &[u8]) -> Result<Vec<Message>, RecordingFault> {
    let mut found = Vec::new();
    let Some(mut rest) = after_http_head(stream) else {
        return Ok(found);
    };
    let mut open: Option<Message> = None;
    while let Some((frame, after)) = frame(rest) {
        rest = after;
        if frame.reserved {
            return Err(RecordingFault::Extension);
        }
        if frame.opcode >= FIRST_CONTROL {
            found.push(Message {
                opcode: frame.opcode,
                payload: frame.payload,
            });
            continue;
        }
        let message = match (open.take(), frame.opcode) {
            (Some(mut message), CONTINUATION) => {
                message.payload.extend_from_slice(&frame.payload);
                message
            }
            (None, CONTINUATION) | (Some(_), _) => return Err(RecordingFault::Sequence),
            (None, opcode) => Message {
                opcode,
                payload: frame.payload,
            },
        };
        if frame.last {
            found.push(message);
        } else {
            open = Some(message);
        }
    }
    Ok(found)
}

/// All complete protocol frames in one direction of a connection, encoded.
///
/// # Errors
/// [`RecordingFault`].
pub fn protocol_frames(stream: &[u8]) -> Result<Vec<Vec<u8>>, RecordingFault> {
    let mut assembler = Assembler::new(FRAME_BYTES);
    let mut frames = Vec::new();
    for message in messages(stream)? {
        if message.opcode == BINARY
            && let Some(frame) = assembler
                .take(message.payload)
                .map_err(|_| RecordingFault::Chunks)?
        {
            frames.push(frame);
        }
    }
    Ok(frames)
}

struct Frame {
    last: bool,
    reserved: bool,
    opcode: u8,
    payload: Vec<u8>,
}

fn after_http_head(stream: &[u8]) -> Option<&[u8]> {
    const END: &[u8] = b"\r\n\r\n";
    let at = stream.windows(END.len()).position(|window| window == END)?;
    stream.get(at + END.len()..)
}

/// The next frame and what follows it; none when it is incomplete. RFC 6455 §5.2.
fn frame(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&second, rest) = rest.split_first()?;
    let (length, rest) = match second & 0x7f {
        126 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let (mask, rest) = if second & 0x80 == 0 {
        ([0; 4], rest)
    } else {
        let (mask, rest) = rest.split_first_chunk::<4>()?;
        (*mask, rest)
    };
    let (masked, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let payload = masked
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    let frame = Frame {
        last: first & 0x80 != 0,
        reserved: first & 0x70 != 0,
        opcode: first & 0x0f,
        payload,
    };
    Some((frame, rest))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET /v1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";

    /// Writes a masked client frame.
    pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [9u8, 1, 250, 3];
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(0x80 | short as u8),
            long @ 126..=65535 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(long as u16).to_be_bytes());
            }
            huge => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(huge as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        bytes
    }

    /// A recording of binary messages.
    pub fn recording(payloads: &[&[u8]]) -> Vec<u8> {
        let mut stream = HEAD.to_vec();
        for payload in payloads {
            stream.extend(client_frame(0x82, payload));
        }
        stream
    }

    #[test]
    fn masked_messages_of_all_lengths_are_read() {
        let long = vec![7u8; 300];
        let huge = vec![5u8; 70_000];
        let stream = recording(&[b"short", &long, &huge]);
        let read = messages(&stream).unwrap();
        let payloads: Vec<&[u8]> = read
            .iter()
            .map(|message| message.payload.as_slice())
            .collect();
        assert_eq!(payloads, [b"short".as_slice(), &long, &huge]);
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let mut stream = HEAD.to_vec();
        stream.extend(client_frame(0x02, b"first "));
        stream.extend(client_frame(0x89, b"ping"));
        stream.extend(client_frame(0x80, b"second"));
        let read = messages(&stream).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(
            read[1],
            Message {
                opcode: 2,
                payload: b"first second".to_vec()
            }
        );
    }

    #[test]
    fn unmasked_frames_of_a_service_are_read() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        stream.extend([0x82, 3, 1, 2, 3]);
        assert_eq!(messages(&stream).unwrap()[0].payload, [1, 2, 3]);
    }

    #[test]
    fn what_was_cut_off_is_left_out() {
        let stream = recording(&[b"whole", b"cut off"]);
        for cut in 1..8 {
            assert_eq!(messages(&stream[..stream.len() - cut]).unwrap().len(), 1);
        }
        assert!(messages(b"GET / HTT").unwrap().is_empty());
        assert!(messages(b"").unwrap().is_empty());
    }

    #[test]
    fn extensions_and_stray_continuations_are_faults() {
        let mut stream = HEAD.to_vec();
        stream.extend(client_frame(0xc2, b"compressed"));
        assert_eq!(messages(&stream), Err(RecordingFault::Extension));
        let mut stream = HEAD.to_vec();
        stream.extend(client_frame(0x80, b"stray"));
        assert_eq!(messages(&stream), Err(RecordingFault::Sequence));
    }

    #[test]
    fn chunked_frames_are_put_together() {
        let frame = vec![4u8; 600_000];
        let parts = conclave_client::proto::chunk::split(frame.clone());
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(protocol_frames(&recording(&parts)).unwrap(), [frame]);
    }
}
