//! Every fixed bound of the engine, in one place, checked against each other at compile time.
//!
//! Owns: bounds that no setting changes.  Not: bounds that an operator may set, which are keys of
//! the config (`config.rs`); their ranges use these.

/// Longest key in bytes: `template/name~branch...`.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest template name in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 63;
/// Longest version label in bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest request id in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Most branches one FORK makes.
pub const FORK_COUNT_MAX: u32 = 10_000;
/// Largest image in bytes.
pub const IMAGE_BYTES_MAX: u64 = 4 << 30;
/// Largest payload of one message, and of one READ or WRITE, that a config may allow.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Most shards of one node.
pub const SHARD_COUNT_MAX: u16 = 1024;
/// Most ranges that one DIFF reply holds.
pub const DIFF_RANGE_COUNT_MAX: usize = 65_536;
/// Most keys that one LIST reply holds.
pub const LIST_COUNT_MAX: u32 = 10_000;
/// Most slots of agents that one LIST looks at, so that a rare pattern does not hold up the shard.
pub const LIST_SCAN_COUNT_MAX: u32 = 4_096;
/// Most agents that Hottest names.
pub const HOTTEST_COUNT_MAX: usize = 32;
/// Most sends and calls of one turn.
pub const EFFECT_COUNT_MAX: usize = 1_024;
/// Most calls that one agent awaits.
pub const CALL_COUNT_MAX: usize = 1_024;
/// Most items in all mailboxes of one shard.
pub const MAIL_COUNT_MAX: u32 = 1 << 20;
/// Most bytes of payload in all mailboxes of one shard.
pub const MAIL_BYTES_MAX: u64 = 1 << 30;
/// Bytes of replies past which an agent's dedupe window forgets its oldest ones early.
pub const DEDUPE_BYTES_MAX: usize = 1 << 20;
/// Most families whose owner is not their home, as one shard knows them.
pub const DIRECTORY_COUNT_MAX: u32 = 1 << 20;
/// Answers and effects of one shard that wait for the disk.
pub const WAITING_COUNT_MAX: usize = 65_536;

const _: () = assert!((PAYLOAD_BYTES_MAX as u64) < MAIL_BYTES_MAX);
const _: () = assert!(CALL_COUNT_MAX as u32 * 4 < MAIL_COUNT_MAX);
const _: () = assert!(TEMPLATE_BYTES_MAX + 2 < KEY_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!((PAYLOAD_BYTES_MAX as u64) < IMAGE_BYTES_MAX);
