//! The agent's randomness: a seed and a position.
//!
//! Owns: the bytes that the generator gives.  Not: where a seed comes from.
//! Q1  the bytes are a function of seed and position only, so an image gives the same ones wherever
//!     it is loaded.
//! Q2  after [`Random::reseed`] they depend on the entropy given, and cannot be told from the
//!     ones before without it.
//!
//! The bytes are BLAKE3's extendable output, keyed by the seed: a generator that starts at any
//! position without the ones before it (BLAKE3 paper, section 2.6).

/// What goes into the hash, so that the bytes serve no other purpose.
const PURPOSE: &[u8] = b"heronry random of an agent, 1";

/// The state of one agent's generator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Random {
    /// The key.
    pub seed: [u8; 32],
    /// Bytes given since the key was set.
    pub position: u64,
}

impl Random {
    /// A generator at its start.
    pub fn new(seed: [u8; 32]) -> Random {
        Random { seed, position: 0 }
    }

    /// Fills `out`. About 0.1 µs, and 1 ns a byte.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut reader = blake3::Hasher::new_keyed(&self.seed).update(PURPOSE).finalize_xof();
        reader.set_position(self.position);
        reader.fill(out);
        self.position = self.position.saturating_add(out.len() as u64);
    }

    /// Starts anew from the old seed and `entropy` together (Q2).
    pub fn reseed(&mut self, entropy: &[u8; 32]) {
        *self = Random::new(*blake3::keyed_hash(&self.seed, entropy).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q1_bytes_are_a_function_of_seed_and_position() {
        let mut whole = [0; 300];
        Random::new([7; 32]).fill(&mut whole);
        let mut parts = Random::new([7; 32]);
        let mut joined = Vec::new();
        for len in [1, 0, 64, 100, 135] {
            let mut part = vec![0; len];
            parts.fill(&mut part);
            joined.extend(part);
        }
        assert_eq!(joined, whole);
        assert_eq!(parts.position, 300);
        let mut tail = [0; 100];
        Random { seed: [7; 32], position: 200 }.fill(&mut tail);
        assert_eq!(tail, whole[200..]);
    }

    #[test]
    fn q2_reseeded_bytes_depend_on_old_seed_and_entropy() {
        let after = |seed: u8, entropy: u8| {
            let mut random = Random::new([seed; 32]);
            random.reseed(&[entropy; 32]);
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            bytes
        };
        assert_ne!(after(1, 1), after(1, 2));
        assert_ne!(after(1, 1), after(2, 1));
        assert_eq!(after(1, 1), after(1, 1));
    }
}
