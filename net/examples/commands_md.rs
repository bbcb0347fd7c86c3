//! Prints docs/commands.md: `cargo run -p heronry-net --example commands_md`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(heronry_net::commands_markdown().as_bytes())
}
