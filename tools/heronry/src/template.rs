//! `heronry template list`: the templates that agents start from.
//!
//! Owns: the command.  Not: the templates, which the node names.
//! The list is what TEMPLATE.LIST replies.

use crate::cli::{Global, TemplateCommand};
use crate::link::{Link, Words};
use crate::output::Output;
use anyhow::Result;

/// Runs one verb.
pub fn run(global: &Global, command: &TemplateCommand, output: Output) -> Result<()> {
    match command {
        TemplateCommand::List => {
            let reply = Link::open(global)?.ask(&Words::new("TEMPLATE.LIST"))?;
            Ok(output.reply(&reply)?)
        }
    }
}
