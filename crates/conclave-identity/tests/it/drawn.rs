//! What a generator has given out as a key does not stay in it.

use conclave_identity::{DeviceKey, HeadKey, ReceivingKey, ServiceKey, UserKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{CryptoRng, CryptoRngCore, Error, RngCore, SeedableRng};

/// What ChaCha keeps of what it has drawn, in bytes: four blocks.
const KEPT_BYTES: usize = 256;

/// Counts what is taken of it.
struct Counted {
    rng: ChaCha20Rng,
    bytes: usize,
}

impl RngCore for Counted {
    fn next_u32(&mut self) -> u32 {
        self.bytes += 4;
        self.rng.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.bytes += 8;
        self.rng.next_u64()
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        self.bytes += to.len();
        self.rng.fill_bytes(to);
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(to);
        Ok(())
    }
}

impl CryptoRng for Counted {}

#[test]
fn a_generator_is_used_up_after_each_key() {
    let draws: [fn(&mut dyn CryptoRngCore); 5] = [
        |rng| drop(UserKey::generate(rng)),
        |rng| drop(DeviceKey::generate(rng)),
        |rng| drop(ReceivingKey::generate(rng)),
        |rng| drop(ServiceKey::generate(rng)),
        |rng| drop(HeadKey::generate(rng)),
    ];
    for draw in draws {
        let rng = ChaCha20Rng::seed_from_u64(1);
        let mut rng = Counted { rng, bytes: 0 };
        draw(&mut rng);
        assert!(rng.bytes >= 32 + KEPT_BYTES, "{}", rng.bytes);
    }
}
