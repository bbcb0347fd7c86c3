//! The template commands as methods with types.
//!
//! Owns: how replies become rows.  Not: names and ranges; the node checks them and refuses.
//! Replies are read in RESP3 and RESP2 alike.

use super::agent::unexpected;
use super::{Client, ClientError};
use crate::resp::Value;
use heronry_engine::verb::Language;

/// What TEMPLATE.DEPLOY takes.
#[derive(Clone, Copy, Debug)]
pub struct Deployment<'a> {
    /// The template's name.
    pub name: &'a str,
    /// What the source is.
    pub language: Language,
    /// Source text, or a module.
    pub source: &'a [u8],
    /// Code to run before the template is sealed.
    pub warm: Option<&'a [u8]>,
    /// Whether new agents get it at once.
    pub activate: bool,
}

impl Client {
    /// TEMPLATE.DEPLOY; the template's number. Takes seconds for a new module: connect with as much
    /// patience.
    pub fn deploy(&mut self, deployment: Deployment<'_>) -> Result<u32, ClientError> {
        let Deployment { name, language, source, warm, activate } = deployment;
        let language = language.name().as_bytes();
        let mut words: Vec<&[u8]> = vec![b"TEMPLATE.DEPLOY", name.as_bytes()];
        words.extend([b"LANGUAGE".as_slice(), language, b"SOURCE", source]);
        if let Some(warm) = warm {
            words.extend([b"WARM".as_slice(), warm]);
        }
        if !activate {
            words.push(b"INACTIVE");
        }
        let reply = self.ask(&words)?;
        number("TEMPLATE.DEPLOY", &reply)
    }

    /// TEMPLATE.ACTIVATE.
    pub fn activate(&mut self, name: &str, template_number: u32) -> Result<u32, ClientError> {
        let text = template_number.to_string();
        let reply = self.ask(&[b"TEMPLATE.ACTIVATE", name.as_bytes(), text.as_bytes()])?;
        number("TEMPLATE.ACTIVATE", &reply)
    }
}

fn number(command: &'static str, reply: &Value) -> Result<u32, ClientError> {
    let number = reply.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| unexpected(command, "a template's number", reply))
}
