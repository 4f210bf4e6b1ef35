//! Inputs for one decoder, made of its samples and of nothing, on a seed.

use anyhow::{Result, ensure};
use conclave_proto::codec::{Varint, encode};
use conclave_testkit::decoders::{Decoder, Shape, join_rows, split_rows};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tls_codec::DeserializeBytes as _;

/// Samples up to this size are cut and flipped everywhere, larger ones at random places.
const SMALL_BYTES: usize = 160;
/// With no more random places than this, only some rows of a store are mutated.
const FEW_PLACES: usize = 2;
/// How many.
const FEW_ROWS: usize = 4;
/// Bytes of a flood.
const FLOOD_BYTES: usize = 64 * 1024;
/// Largest random input, in bytes.
const RANDOM_BYTES: usize = 4096;
/// Limits above this are not tried: the input alone would not fit.
const TRIED_LIMIT_BYTES: usize = 256 * 1024 * 1024;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Makes inputs.
pub struct Mutator {
    rng: ChaCha20Rng,
    samples: Vec<Vec<u8>>,
    shape: Shape,
    limit_bytes: usize,
    /// Random places per sample.
    places: usize,
}

impl Mutator {
    /// A mutator with randomness of its own for each decoder.
    pub fn new(seed: u64, decoder: &Decoder) -> Result<Self> {
        let mut key = [0; 32];
        let parts = seed.to_be_bytes().into_iter().chain(decoder.name.bytes());
        for (at, byte) in parts.enumerate() {
            if let Some(slot) = key.get_mut(at % 32) {
                *slot ^= byte;
            }
        }
        let samples = (decoder.samples)();
        ensure!(!samples.is_empty(), "{} has no samples", decoder.name);
        Ok(Self {
            rng: ChaCha20Rng::from_seed(key),
            samples,
            shape: decoder.shape,
            limit_bytes: decoder.limit_bytes,
            places: places(decoder.name),
        })
    }

    fn below(&mut self, end: usize) -> usize {
        let random = usize::try_from(self.rng.next_u64() >> 32).unwrap_or(0);
        random.checked_rem(end).unwrap_or(0)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// What is mutated: the samples, or the values of their rows. The function that is given puts one back among the others.
    fn each(&mut self, mut change: impl FnMut(&mut Self, &[u8]) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut inputs = Vec::new();
        for sample in self.samples.clone() {
            match (self.shape, split_rows(&sample)) {
                (Shape::Rows, Some(rows)) => {
                    for at in self.chosen_rows(&rows) {
                        let value = rows.get(at).map(|(_, value)| value.clone());
                        for changed in change(self, &value.unwrap_or_default()) {
                            inputs.push(with_row(&rows, at, changed));
                        }
                    }
                }
                _ => inputs.extend(change(self, &sample)),
            }
        }
        inputs
    }

    /// Which rows of a store are mutated: all, or some where each input costs much.
    fn chosen_rows(&mut self, rows: &Rows) -> Vec<usize> {
        if self.places > FEW_PLACES {
            return (0..rows.len()).collect();
        }
        (0..FEW_ROWS).map(|_| self.below(rows.len())).collect()
    }

    /// Places in a sample: all of them in a small one.
    fn places_in(&mut self, length: usize) -> Vec<usize> {
        if length <= SMALL_BYTES && self.shape == Shape::Bytes {
            return (0..length).collect();
        }
        let mut places: Vec<usize> = (0..self.places).map(|_| self.below(length)).collect();
        places.extend([0, 1, 2, length.saturating_sub(1)]);
        places.retain(|place| *place < length);
        places
    }

    /// Random bytes of many lengths.
    pub fn random(&mut self) -> Vec<Vec<u8>> {
        let mut inputs = Vec::new();
        for length in 0..=64 {
            inputs.push(self.bytes(length));
        }
        for _ in 0..self.places {
            let length = self.below(RANDOM_BYTES);
            let mut input = self.bytes(length);
            // The first bytes often say what follows: small numbers get further.
            for byte in input.iter_mut().take(2) {
                *byte %= 24;
            }
            inputs.push(input);
        }
        if self.shape == Shape::Rows {
            let bytes = inputs.clone();
            inputs.extend(self.each(|this, _| {
                let at = this.below(bytes.len());
                bytes.get(at).cloned().into_iter().collect()
            }));
        }
        inputs
    }

    /// Samples cut short.
    pub fn truncated(&mut self) -> Vec<Vec<u8>> {
        self.each(|this, sample| {
            let places = this.places_in(sample.len());
            let cut = |at: usize| sample.get(..at).unwrap_or_default().to_vec();
            places.into_iter().map(cut).collect()
        })
    }

    /// Samples with one bit flipped: each bit of a small one.
    pub fn flipped(&mut self) -> Vec<Vec<u8>> {
        self.each(|this, sample| {
            let mut inputs = Vec::new();
            for at in this.places_in(sample.len()) {
                let small = sample.len() <= SMALL_BYTES && this.shape == Shape::Bytes;
                let bits = if small {
                    (0..8).collect()
                } else {
                    vec![this.below(8)]
                };
                for bit in bits {
                    let mut input = sample.to_vec();
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                    inputs.push(input);
                }
            }
            inputs
        })
    }

    /// Samples with bytes after them, and the beginning of one with the end of another.
    pub fn spliced(&mut self) -> Vec<Vec<u8>> {
        let all = self.samples.clone();
        let mut inputs = self.each(|this, sample| {
            let mut inputs = Vec::new();
            for length in 1..=3 {
                let tail = this.bytes(length);
                inputs.push([sample, &tail].concat());
                inputs.push([sample, &vec![0; length]].concat());
            }
            inputs.push(sample.repeat(2));
            for other in all.iter().take(8) {
                let (from, to) = (this.below(sample.len()), this.below(other.len()));
                let head = sample.get(..from).unwrap_or_default();
                inputs.push([head, other.get(to..).unwrap_or_default()].concat());
            }
            inputs
        });
        if self.shape == Shape::Rows {
            inputs.extend(self.shuffled_rows());
        }
        inputs
    }

    /// Stores that lack a row, have one twice, or have one under another's key.
    fn shuffled_rows(&mut self) -> Vec<Vec<u8>> {
        let mut inputs = Vec::new();
        for sample in self.samples.clone() {
            let rows = split_rows(&sample).unwrap_or_default();
            for at in self.chosen_rows(&rows) {
                let mut fewer = rows.clone();
                fewer.remove(at);
                inputs.push(join(&fewer));
                let other = self.below(rows.len());
                let value = rows.get(other).map(|(_, value)| value.clone());
                inputs.push(with_row(&rows, at, value.unwrap_or_default()));
                let mut renamed = rows.clone();
                let key = self.bytes(9);
                if let Some((own, _)) = renamed.get_mut(at) {
                    own.truncate(1);
                    own.extend(key);
                }
                inputs.push(join(&renamed));
            }
        }
        inputs
    }

    /// Samples in which what may be a length says much more than there is.
    pub fn lying_lengths(&mut self) -> Vec<Vec<u8>> {
        // Of TLS vectors, of big-endian integers, of CBOR strings, lists and maps.
        let lies: &[&[u8]] = &[
            &[0xbf, 0xff, 0xff, 0xff],
            &[0xff; 8],
            &[0x7f, 0xff],
            &[0x5b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x9f],
            &[0x5f],
        ];
        self.each(|this, sample| {
            let mut inputs = Vec::new();
            for at in this.places_in(sample.len()) {
                let lie = lies.get(this.below(lies.len())).copied().unwrap_or(&[]);
                let (head, tail) = sample.split_at_checked(at).unwrap_or_default();
                inputs.push([head, lie, tail.get(1..).unwrap_or_default()].concat());
                inputs.push([head, lie].concat());
            }
            inputs
        })
    }

    /// Samples in which a list is said to be very long, and is: of bytes that are the smallest item of many kinds, or begin another list
    /// each.
    pub fn floods(&mut self) -> Vec<Vec<u8>> {
        let room = self.limit_bytes.min(FLOOD_BYTES);
        let count = (self.places / 40).clamp(1, 4);
        self.each(|this, sample| {
            let mut inputs = Vec::new();
            for (at, end) in vectors(sample, 6 * count) {
                let (head, tail) = (sample.get(..at), sample.get(end..));
                let (head, tail) = (head.unwrap_or_default(), tail.unwrap_or_default());
                let length = room.saturating_sub(head.len() + tail.len() + 8) & !1;
                for unit in [&[0u8][..], &[1, 0]] {
                    let items: Vec<u8> = unit.iter().copied().cycle().take(length).collect();
                    let tls = encode(&Varint(length as u64));
                    inputs.push([head, &tls, &items, tail].concat());
                }
            }
            for _ in 0..count {
                let at = this.below(sample.len());
                let head = sample.get(..at).unwrap_or_default();
                let length = room.saturating_sub(head.len() + 8);
                // CBOR lists of small items; lists, maps and tags in each other; Yjs lists likewise.
                let units = [
                    &[0xf6u8][..],
                    &[0x81],
                    &[0xa1, 0],
                    &[0xc1],
                    &[0x9f],
                    &[117, 1],
                ];
                for unit in units {
                    let items: Vec<u8> = unit.iter().copied().cycle().take(length).collect();
                    inputs.push([head, &[0x9f], &items].concat());
                }
            }
            inputs
        })
    }

    /// Inputs one byte past the limit.
    pub fn oversize(&mut self) -> Vec<Vec<u8>> {
        let Some(length) = self.limit_bytes.checked_add(1) else {
            return Vec::new();
        };
        if length > TRIED_LIMIT_BYTES {
            return Vec::new();
        }
        let mut padded = self.samples.first().cloned().unwrap_or_default();
        padded.resize(length, 0);
        vec![vec![0; length], padded]
    }
}

/// Where a sample seems to hold a byte string or list with its length in front: begin and end. At most so many, from all over it.
fn vectors(sample: &[u8], count: usize) -> Vec<(usize, usize)> {
    let ends = (0..sample.len()).filter_map(|at| {
        let (length, rest) = Varint::tls_deserialize_bytes(sample.get(at..)?).ok()?;
        let length = usize::try_from(length.0).ok()?;
        let end = sample.len() - rest.len().checked_sub(length)?;
        (length > 0).then_some((at, end))
    });
    let all: Vec<(usize, usize)> = ends.collect();
    let step = all.len().div_ceil(count.max(1)).max(1);
    all.into_iter().step_by(step).collect()
}

/// How many random places: fewer where a group, a document or a store is loaded for each input.
fn places(name: &str) -> usize {
    match name.split('.').next() {
        Some("engine") if name.ends_with("live_store") => 2,
        Some("engine") => 6,
        Some("mls") if name.ends_with("_rows") => 6,
        Some("mls" | "doc") => 60,
        Some("crdt") => 150,
        _ => 400,
    }
}

fn join(rows: &Rows) -> Vec<u8> {
    let pairs = rows.iter();
    join_rows(pairs.map(|(key, value)| (key.as_slice(), value.as_slice())))
}

fn with_row(rows: &Rows, at: usize, value: Vec<u8>) -> Vec<u8> {
    let mut rows = rows.clone();
    if let Some((_, own)) = rows.get_mut(at) {
        *own = value;
    }
    join(&rows)
}
