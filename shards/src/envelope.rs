//! What shards say to each other: requests and answers, in one small binary form.
//!
//! Owns: the mesh's message format (postcard of [`Envelope`]); both ends run the same binary.
//! E1  a decoded envelope is checked like network input: an unreadable one, or one that names
//!     a shard that does not exist, is an error and never a panic.

use heronry_engine::verb::Target;
use heronry_engine::{Ack, Nanos, Refusal, Reply, ShardId, Verb};
use serde::{Deserialize, Serialize};

/// One message on the mesh.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Envelope {
    /// A request for an agent or for the receiving shard itself.
    Request {
        /// Who gets the answer: the shard and its reference. `None`: nobody waits.
        asker: Option<(ShardId, u64)>,
        /// Whom it is for.
        target: Target,
        /// What is asked.
        verb: Verb,
        /// The promise wanted of the answer.
        ack: Ack,
        /// When to give up, on the node's clock.
        deadline: Option<Nanos>,
    },
    /// The answer to the request that the receiver sent under `token`.
    Answer {
        /// The receiver's reference.
        token: u64,
        /// What came of it.
        result: Result<Reply, Refusal>,
    },
}

/// The bytes were no envelope, or it named shard `shard` of `shard_count` (E1).
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not decodable.
    #[error("{bytes} bytes are no envelope: {source}")]
    Unreadable {
        /// Length of what came.
        bytes: usize,
        /// The decoder's reason.
        source: postcard::Error,
    },
    /// Names a shard that this node does not have.
    #[error("an envelope names shard {shard} of {shard_count}")]
    NoShard {
        /// The number named.
        shard: u16,
        /// How many there are.
        shard_count: u16,
    },
}

impl Envelope {
    /// Replaces the contents of `out` by this envelope's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let filled = postcard::to_extend(self, std::mem::take(out));
        *out = filled.expect("E1: an envelope has no type that postcard cannot write");
    }

    /// Reads what a peer sent (E1).
    pub fn decode(bytes: &[u8], shard_count: u16) -> Result<Envelope, EnvelopeError> {
        let envelope = postcard::from_bytes(bytes)
            .map_err(|source| EnvelopeError::Unreadable { bytes: bytes.len(), source })?;
        if let Envelope::Request { asker: Some((ShardId(shard), _)), .. } = envelope
            && shard >= shard_count
        {
            return Err(EnvelopeError::NoShard { shard, shard_count });
        }
        Ok(envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heronry_engine::{AgentKey, TenantId, VersionId};

    fn samples() -> Vec<Envelope> {
        let key: AgentKey = "notebook/a".parse().expect("a good key");
        let request = |asker| Envelope::Request {
            asker,
            target: Target::agent(TenantId(0), key.clone()),
            verb: Verb::Send { payload: "append x".into(), request_id: Some("r".into()) },
            ack: Ack::Sealed,
            deadline: Some(Nanos(7)),
        };
        let refusal = Refusal::BadKey { key: "x".into(), rule: "a key is template/name".into() };
        vec![
            request(None),
            request(Some((ShardId(1), 9))),
            Envelope::Answer { token: 3, result: Ok(Reply::Version(VersionId(4))) },
            Envelope::Answer { token: 3, result: Ok(Reply::Forked(vec![key])) },
            Envelope::Answer { token: 3, result: Err(refusal) },
        ]
    }

    #[test]
    fn e1_what_is_encoded_decodes_and_what_is_cut_does_not_panic() {
        let mut bytes = Vec::new();
        for sample in samples() {
            sample.encode(&mut bytes);
            assert_eq!(Envelope::decode(&bytes, 2).expect("own bytes"), sample);
            for cut in 0..bytes.len() {
                assert!(Envelope::decode(&bytes[..cut], 2).is_err(), "cut at {cut}");
            }
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x55;
                // Any outcome but a panic will do: another envelope may be what this now says.
                let _ = Envelope::decode(&flipped, 2);
            }
        }
    }

    #[test]
    fn e1_an_unknown_shard_is_refused() {
        let mut bytes = Vec::new();
        samples().remove(1).encode(&mut bytes);
        assert!(matches!(
            Envelope::decode(&bytes, 1),
            Err(EnvelopeError::NoShard { shard: 1, shard_count: 1 })
        ));
    }
}
