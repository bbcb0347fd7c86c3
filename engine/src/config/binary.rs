//! The compiled config: one file that a node maps, checks once, and reads in place.
//!
//! Owns: the format below.  Not: reading and writing files.
//! B1  bytes that differ from what `to_bytes` made are refused, wherever the difference is.
//! B2  equal configs compile to equal bytes, so their hash tells whether two nodes agree.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0  | 8  | magic `HERONCFG` |
//! | 8  | 4  | format, little endian: 1 |
//! | 12 | 4  | zero |
//! | 16 | 32 | schema hash: BLAKE3 of the table of keys without its documentation |
//! | 48 | 8  | length of the archive in bytes, little endian |
//! | 56 | 8  | zero |
//! | 64 | 32 | BLAKE3 of the archive |
//! | 96 | .. | archive: rkyv 0.8, little endian, root at its end |

use super::check::check;
use super::keys::KEYS;
use super::{ArchivedConfig, Config};
use rkyv::rancor::{self, Source};
use rkyv::util::AlignedVec;

const MAGIC: [u8; 8] = *b"HERONCFG";
const FORMAT: u32 = 1;
/// Bytes before the archive.
pub const HEADER_BYTES: usize = 96;
/// The archive's place in memory must be a multiple of this to be read in place.
pub const ALIGN_BYTES: usize = 16;
/// Longest archive that is read; paths and a password are its only variable parts.
pub const ARCHIVE_BYTES_MAX: u64 = 64 << 10;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(align_of::<ArchivedConfig>() <= ALIGN_BYTES);

/// Why bytes are no config; nothing of them was used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BinaryError {
    /// Shorter than its header says, or than a header.
    #[error("the compiled config has {len_bytes} bytes, {expected_bytes} belong to it: it was cut")]
    Truncated {
        /// How many there are.
        len_bytes: u64,
        /// How many there should be.
        expected_bytes: u64,
    },
    /// Longer than its header says.
    #[error("the compiled config has {len_bytes} bytes, only {expected_bytes} belong to it")]
    TooLong {
        /// How many there are.
        len_bytes: u64,
        /// How many there should be.
        expected_bytes: u64,
    },
    /// Another kind of file.
    #[error("not a compiled config: it begins with {found:02x?}, not with \"HERONCFG\"")]
    Magic {
        /// Its first bytes.
        found: [u8; 8],
    },
    /// Made by another version of this program.
    #[error(
        "the compiled config has format {found}, this program reads {FORMAT}; compile it again"
    )]
    Format {
        /// Its format.
        found: u32,
    },
    /// Made for other keys.
    #[error(
        "the compiled config was made for other keys (schema {}, this program has {}); \
         run `heronry config compile` again",
        short(*.found), short(*.expected)
    )]
    Schema {
        /// Its schema hash.
        found: [u8; 32],
        /// This program's.
        expected: [u8; 32],
    },
    /// Bytes that are always zero are not.
    #[error("the compiled config is damaged: byte {offset} is {found}, not 0")]
    Reserved {
        /// Which byte.
        offset: usize,
        /// Its value.
        found: u8,
    },
    /// No archive is that long.
    #[error(
        "the compiled config says that it holds {len_bytes} bytes, at most {ARCHIVE_BYTES_MAX}"
    )]
    Length {
        /// What it says.
        len_bytes: u64,
    },
    /// The archive's hash is another.
    #[error(
        "the compiled config is damaged: its hash is {}, it says {}",
        short(*.found), short(*.said)
    )]
    Hash {
        /// The hash of the archive.
        found: [u8; 32],
        /// What the header says.
        said: [u8; 32],
    },
    /// Lies in memory where it cannot be read in place.
    #[error("the compiled config lies at an address that is no multiple of {ALIGN_BYTES}")]
    Misaligned,
    /// The archive is not valid, though its hash is right.
    #[error("the compiled config is not what this program writes: its archive is not valid")]
    Archive,
    /// A value is out of its range, though the hash is right.
    #[error("the compiled config says {key} = {value}; allowed: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

impl Config {
    /// The compiled form (B2).
    pub fn to_bytes(&self) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Panic>(self)
            .expect("B2: an archive without shared pointers always serialises");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + archive.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&schema_hash());
        bytes.extend_from_slice(&(archive.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(blake3::hash(&archive).as_bytes());
        assert_eq!(bytes.len(), HEADER_BYTES, "B1: the header has its length");
        bytes.extend_from_slice(&archive);
        bytes
    }

    /// Reads the compiled form, wherever it lies in memory (B1, F1).
    pub fn from_bytes(bytes: &[u8]) -> Result<Config, BinaryError> {
        let archive = archive_of(bytes)?;
        let mut aligned = AlignedVec::<ALIGN_BYTES>::with_capacity(archive.len());
        aligned.extend_from_slice(archive);
        let archived = access(&aligned)?;
        config_of(archived)
    }

    /// BLAKE3 of the compiled form: what running nodes report, so that drift is visible.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.to_bytes()).as_bytes()
    }
}

/// Reads the compiled form in place: checked once, then free. `bytes` is usually a mapped file and
/// must begin at a multiple of [`ALIGN_BYTES`].
pub fn view(bytes: &[u8]) -> Result<&ArchivedConfig, BinaryError> {
    let archive = archive_of(bytes)?;
    if archive.as_ptr().align_offset(ALIGN_BYTES) != 0 {
        return Err(BinaryError::Misaligned);
    }
    let archived = access(archive)?;
    config_of(archived)?;
    Ok(archived)
}

/// BLAKE3 of the table of keys: paths, kinds, ranges, units and defaults, not the documentation.
pub fn schema_hash() -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for key in KEYS {
        for part in [key.path, &key.kind.schema(), &key.default.to_string()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// The archive's bytes, after every check of the header.
fn archive_of(bytes: &[u8]) -> Result<&[u8], BinaryError> {
    let len_bytes = bytes.len() as u64;
    let cut = BinaryError::Truncated { len_bytes, expected_bytes: HEADER_BYTES as u64 };
    let (header, archive) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(cut)?;
    let found = chunk::<8>(header, 0);
    if found != MAGIC {
        return Err(BinaryError::Magic { found });
    }
    let found = u32::from_le_bytes(chunk(header, 8));
    if found != FORMAT {
        return Err(BinaryError::Format { found });
    }
    let (found, expected) = (chunk::<32>(header, 16), schema_hash());
    if found != expected {
        return Err(BinaryError::Schema { found, expected });
    }
    if let Some(offset) = (12..16).chain(56..64).find(|offset| header[*offset] != 0) {
        return Err(BinaryError::Reserved { offset, found: header[offset] });
    }
    let archive_bytes = u64::from_le_bytes(chunk(header, 48));
    if archive_bytes > ARCHIVE_BYTES_MAX {
        return Err(BinaryError::Length { len_bytes: archive_bytes });
    }
    let expected_bytes = HEADER_BYTES as u64 + archive_bytes;
    match len_bytes.cmp(&expected_bytes) {
        std::cmp::Ordering::Less => {
            return Err(BinaryError::Truncated { len_bytes, expected_bytes });
        }
        std::cmp::Ordering::Greater => {
            return Err(BinaryError::TooLong { len_bytes, expected_bytes });
        }
        std::cmp::Ordering::Equal => {}
    }
    let (found, said) = (*blake3::hash(archive).as_bytes(), chunk::<32>(header, 64));
    if found == said { Ok(archive) } else { Err(BinaryError::Hash { found, said }) }
}

/// Checks the archive's structure; `bytes` is aligned.
fn access(bytes: &[u8]) -> Result<&ArchivedConfig, BinaryError> {
    rkyv::access::<ArchivedConfig, Quiet>(bytes).map_err(|_| BinaryError::Archive)
}

/// The typed values, after every check of the text form.
fn config_of(archived: &ArchivedConfig) -> Result<Config, BinaryError> {
    let config: Config =
        rkyv::deserialize::<Config, Quiet>(archived).map_err(|_| BinaryError::Archive)?;
    for key in KEYS {
        let value = (key.get)(&config);
        if !key.kind.allows(&value) {
            let value = if key.kind.is_secret() { "(not shown)".into() } else { value.to_string() };
            return Err(BinaryError::Value { key: key.path, value, allowed: key.kind.to_string() });
        }
    }
    if let Some(broken) = check(&config).into_iter().next() {
        let value = super::keys::key(broken.path).map(|key| (key.get)(&config).to_string());
        let value = value.unwrap_or_default();
        return Err(BinaryError::Value { key: broken.path, value, allowed: broken.rule });
    }
    Ok(config)
}

/// An error of the archive's check that keeps nothing: the hash was right, so whoever made it is
/// at fault, and where it is wrong would not help.
#[derive(Debug)]
struct Quiet;

impl std::fmt::Display for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the archive is not valid")
    }
}

impl std::error::Error for Quiet {}

impl rancor::Trace for Quiet {
    fn trace<R>(self, _: R) -> Quiet {
        self
    }
}

impl Source for Quiet {
    fn new<T: std::error::Error + Send + Sync + 'static>(_: T) -> Quiet {
        Quiet
    }
}

fn chunk<const N: usize>(header: &[u8; HEADER_BYTES], offset: usize) -> [u8; N] {
    header[offset..offset + N].try_into().expect("B1: the header's fields lie within it")
}

fn short(hash: [u8; 32]) -> String {
    hash[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
