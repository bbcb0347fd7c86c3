//! What is made from the command line's types and the tables of other crates: completions, man
//! pages, `docs/commands.md`, `docs/config.md`.
//!
//! Owns: where each goes within a folder.  Not: their texts.
//! N1  running it twice writes the same bytes.

use crate::cli::Cli;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use std::fs;
use std::path::Path;

/// The completions of one shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "heronry", &mut text);
    text
}

/// The man page of `heronry` itself.
pub fn page() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    Ok(text)
}

/// One man page per command.
pub fn write_pages(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let write = || clap_mangen::generate_to(Cli::command(), dir);
    write().with_context(|| format!("cannot write to {}", dir.display()))
}

/// Everything generated: `commands.md`, `config.md`, `man/`, `completions/`.
pub fn write_docs(dir: &Path) -> Result<()> {
    write_pages(&dir.join("man"))?;
    let folder = dir.join("completions");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (shell, name) in
        [(Shell::Bash, "heronry.bash"), (Shell::Zsh, "_heronry"), (Shell::Fish, "heronry.fish")]
    {
        write(&folder.join(name), &completions(shell))?;
    }
    write(&dir.join("commands.md"), heronry_net::commands_markdown().as_bytes())?;
    write(&dir.join("config.md"), heronry_engine::config::markdown().as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn n1_generated_docs_are_the_same_each_time() {
        let (one, two) = (tempfile::tempdir(), tempfile::tempdir());
        let (one, two) = (one.expect("a folder"), two.expect("a folder"));
        for dir in [one.path(), two.path()] {
            write_docs(dir).expect("written");
        }
        for name in ["commands.md", "config.md", "completions/heronry.bash", "man/heronry.1"] {
            let read = |dir: &Path| fs::read(dir.join(name)).expect(name);
            assert!(!read(one.path()).is_empty(), "{name} is empty");
            assert_eq!(read(one.path()), read(two.path()), "{name}");
        }
    }
}
