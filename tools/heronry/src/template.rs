//! `heronry template ...`: the templates that agents start from.
//!
//! Owns: the commands, which language a file is of.  Not: making templates, which the node does.
//! M1  a file whose language its name does not tell is refused before anything is sent.

use crate::cli::{Global, TemplateCommand};
use crate::link::{Link, Words};
use crate::output::Output;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

/// Longest wait for a deployment: a build, behind others, and every shard that loads it.
pub const DEPLOY_WAIT_MAX: Duration = Duration::from_secs(180);
/// Languages by the ends of their files' names.
const LANGUAGES: [(&str, &str); 4] =
    [("py", "python"), ("js", "javascript"), ("mjs", "javascript"), ("wasm", "wasm")];

/// Runs one verb.
pub fn run(global: &Global, command: &TemplateCommand, output: Output) -> Result<()> {
    let reply = match command {
        TemplateCommand::Deploy { name, file, warm, no_activate } => {
            let language = language(file)?;
            let warm = warm.as_deref().map(read).transpose()?;
            let words = Words::new("TEMPLATE.DEPLOY")
                .arg(name)
                .option("LANGUAGE", Some(language))
                .option("SOURCE", Some(read(file)?))
                .option("WARM", warm)
                .flag("INACTIVE", *no_activate);
            Link::open_for(global, DEPLOY_WAIT_MAX)?.ask(&words)?
        }
        TemplateCommand::Activate { name, number } => {
            let words = Words::new("TEMPLATE.ACTIVATE").arg(name).number(u64::from(*number));
            Link::open(global)?.ask(&words)?
        }
        TemplateCommand::List => Link::open(global)?.ask(&Words::new("TEMPLATE.LIST"))?,
    };
    Ok(output.reply(&reply)?)
}

/// The language of a file, by the end of its name (M1).
fn language(file: &Path) -> Result<&'static str> {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match LANGUAGES.iter().find(|(end, _)| end.eq_ignore_ascii_case(extension)) {
        Some((_, language)) => Ok(language),
        None => bail!(
            "{}: the end of the name says which language it is: .py, .js, .mjs or .wasm",
            file.display()
        ),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_the_end_of_a_name_is_the_language() {
        let of = |name: &str| language(Path::new(name)).ok();
        assert_eq!(of("a/agent.py"), Some("python"));
        assert_eq!(of("agent.MJS"), Some("javascript"));
        assert_eq!((of("x.js"), of("x.wasm")), (Some("javascript"), Some("wasm")));
        for unknown in ["agent", "agent.rb", "py", ".py", "a.py.txt"] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }
}
