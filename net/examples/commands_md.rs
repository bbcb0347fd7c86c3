//! Prints docs/commands.md: `cargo run -p heronry-net --example commands_md`.
//!
//! Owns: nothing; the text is `commands_markdown`'s.
//! `cargo xtask docs` writes the file; this shows it without the other crates.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(heronry_net::commands_markdown().as_bytes())
}
