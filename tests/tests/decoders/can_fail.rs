//! The judgement can fail: each bad habit is tried on a decoder that has it.

use anyhow::{Result, ensure};
use conclave_testkit::decoders::{Decoded, Decoder, Source};

use crate::attack::{Attack, quiet_panics};
use crate::mutate::Mutator;
use crate::{MEMORY, alone};

fn decoder(decode: fn(&[u8]) -> Decoded) -> Decoder {
    Decoder::new("made.up", Source::Network, 1000, decode, || {
        vec![vec![1; 20]]
    })
}

fn complaint(decode: fn(&[u8]) -> Decoded, input: &[u8]) -> String {
    let decoder = decoder(decode);
    let outcome = Attack::new(&decoder, &MEMORY).with(input);
    outcome
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[test]
fn a_panic_is_found() {
    let _alone = alone();
    quiet_panics();
    let panics = |bytes: &[u8]| {
        assert!(bytes.len() != 3, "as a test");
        Err("code")
    };
    assert!(
        complaint(panics, &[0; 3])
            .contains("panicked on 3 bytes 000000 (tests/tests/decoders/can_fail.rs")
    );
    assert_eq!(complaint(panics, &[0; 4]), "");
}

#[test]
fn memory_for_what_was_only_announced_is_found() {
    let _alone = alone();
    let believes = |bytes: &[u8]| {
        let announced = usize::from(*bytes.first().ok_or("empty")?) << 20;
        drop(std::hint::black_box(vec![0u8; announced]));
        Err("code")
    };
    assert!(complaint(believes, &[9]).contains("took"));
    assert_eq!(complaint(believes, &[0]), "");
}

#[test]
fn a_second_encoding_is_found() {
    let _alone = alone();
    let lenient = |bytes: &[u8]| Ok(bytes.split_last().map(|(_, rest)| rest.to_vec()));
    assert!(complaint(lenient, &[1, 2]).contains("encoded otherwise"));
    assert!(complaint(|_| Err(""), &[1]).contains("no code"));
}

#[test]
fn a_limit_that_is_not_kept_is_found() -> Result<()> {
    let _alone = alone();
    let takes_all = decoder(|_| Ok(None));
    let copies = decoder(|bytes| {
        drop(std::hint::black_box(bytes.repeat(100)));
        Err("code")
    });
    for bad in [takes_all, copies] {
        let inputs = Mutator::new(1, &bad)?.oversize();
        ensure!(inputs.len() == 2 && inputs.iter().all(|input| input.len() == 1001));
        for input in inputs {
            ensure!(Attack::new(&bad, &MEMORY).refused_unseen(&input).is_err());
        }
    }
    Ok(())
}

#[test]
fn mutations_are_the_same_on_the_same_seed_and_differ_from_the_sample() -> Result<()> {
    let _alone = alone();
    let of = |seed| -> Result<Vec<Vec<u8>>> {
        let decoder = decoder(|_| Ok(None));
        let mut mutator = Mutator::new(seed, &decoder)?;
        Ok([
            mutator.random(),
            mutator.truncated(),
            mutator.flipped(),
            mutator.spliced(),
            mutator.lying_lengths(),
            mutator.floods(),
        ]
        .concat())
    };
    let inputs = of(1)?;
    ensure!(inputs == of(1)? && inputs != of(2)?);
    ensure!(inputs.iter().all(|input| *input != [1; 20]));
    // Every cut, every bit.
    ensure!((0..20).all(|length| inputs.contains(&vec![1; length])));
    for bit in 0..160 {
        let mut flipped = vec![1; 20];
        flipped[bit / 8] ^= 1 << (bit % 8);
        ensure!(inputs.contains(&flipped), "bit {bit}");
    }
    Ok(())
}
