//! Prints docs/config.md from the table of keys.
//!
//! Owns: nothing; the text is `heronry_engine::config::markdown`.
//! Not: writing the file; the shell does, and a test fails while the file differs.

fn main() {
    print!("{}", heronry_engine::config::markdown());
}
