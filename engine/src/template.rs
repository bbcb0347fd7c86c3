//! Templates: the named behaviours that agents are made from.
//!
//! Owns: which templates a node has, their order, and which number of each new agents get.  Not:
//! what they do.
//! L1  names fit into a key; native ones are unique and stay, others have one active number.
//! L2  an index keeps its behaviour, so agents keep the number that they were made from.

use crate::behaviour::{
    Behaviour, Native, counter::Counter, echo::Echo, notebook::Notebook, relay::Relay,
};
use crate::key::AgentKey;
use crate::refusal::Refusal;
use std::rc::Rc;

/// The templates that every node has.
pub fn built_in() -> Vec<Native> {
    vec![&Echo, &Counter, &Notebook, &Relay]
}

enum Code {
    Native(Native),
    Deployed(Rc<dyn Behaviour>),
}

struct Entry {
    code: Code,
    /// Whether new agents are made from it.
    active: bool,
}

impl Entry {
    fn behaviour(&self) -> &dyn Behaviour {
        match &self.code {
            Code::Native(native) => *native,
            Code::Deployed(deployed) => &**deployed,
        }
    }
}

/// Why a template was not deployed or activated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// The name does not fit into a key (L1).
    #[error("template name {name:?} does not fit into a key: 1 to 63 of a-z, A-Z, 0-9, - and _")]
    BadName {
        /// The name.
        name: String,
    },
    /// A native template has the name.
    #[error("template {name:?} is built in; choose another name")]
    BuiltIn {
        /// The name.
        name: String,
    },
    /// The number is there already.
    #[error("template {name:?} has a number {number} already")]
    Exists {
        /// The name.
        name: String,
        /// The number.
        number: u32,
    },
    /// There is no such number.
    #[error("template {name:?} has no number {number}; TEMPLATE.LIST shows what there is")]
    NoNumber {
        /// The name.
        name: String,
        /// The number.
        number: u32,
    },
    /// The list is full.
    #[error("there are {count} templates and numbers of them, the most there can be")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// The templates of one partition. An agent keeps the index of its own.
pub(crate) struct Templates(Vec<Entry>);

impl Templates {
    /// Panics when two share a name, or one does not fit into a key (L1).
    pub(crate) fn new(natives: Vec<Native>) -> Templates {
        assert!(natives.len() <= usize::from(u16::MAX), "L1: too many templates");
        for (idx, native) in natives.iter().enumerate() {
            let name = native.name();
            assert!(fits(name), "L1: template name {name:?} does not fit into a key");
            let unique = natives[..idx].iter().all(|other| other.name() != name);
            assert!(unique, "L1: two templates are named {name:?}");
        }
        let entry = |native| Entry { code: Code::Native(native), active: true };
        Templates(natives.into_iter().map(entry).collect())
    }

    /// Adds a template or a number of one; its first number is active in any case. On an error
    /// nothing changed.
    pub(crate) fn deploy(
        &mut self,
        behaviour: Rc<dyn Behaviour>,
        activate: bool,
    ) -> Result<(), TemplateError> {
        let (name, number) = (behaviour.name().to_owned(), behaviour.number());
        if !fits(&name) {
            return Err(TemplateError::BadName { name });
        }
        let mut first = true;
        for entry in self.0.iter().filter(|entry| entry.behaviour().name() == name) {
            first = false;
            if matches!(entry.code, Code::Native(_)) {
                return Err(TemplateError::BuiltIn { name });
            }
            if entry.behaviour().number() == number {
                return Err(TemplateError::Exists { name, number });
            }
        }
        if self.0.len() >= usize::from(u16::MAX) {
            return Err(TemplateError::TooMany { count: self.0.len() });
        }
        self.0.push(Entry { code: Code::Deployed(behaviour), active: false });
        if activate || first {
            self.activate(&name, number)?;
        }
        Ok(())
    }

    /// Makes new agents of `name` come from `number` of it.
    pub(crate) fn activate(&mut self, name: &str, number: u32) -> Result<(), TemplateError> {
        if self.index(name, number).is_none() {
            return Err(TemplateError::NoNumber { name: name.to_owned(), number });
        }
        for entry in self.0.iter_mut().filter(|entry| entry.behaviour().name() == name) {
            entry.active = entry.behaviour().number() == number;
        }
        Ok(())
    }

    /// Index of the template that `key` names.
    pub(crate) fn find(&self, key: &AgentKey) -> Result<u16, Refusal> {
        let name = key.template();
        let is = |entry: &Entry| entry.active && entry.behaviour().name() == name;
        match self.0.iter().position(is) {
            Some(idx) => Ok(idx as u16),
            None => {
                let count = self.0.iter().filter(|entry| entry.active).count() as u32;
                Err(Refusal::NoTemplate { name: name.into(), count })
            }
        }
    }

    /// Index of a number of a template, active or not.
    pub(crate) fn index(&self, name: &str, number: u32) -> Option<u16> {
        let is = |entry: &Entry| {
            entry.behaviour().name() == name && entry.behaviour().number() == number
        };
        self.0.iter().position(is).map(|idx| idx as u16)
    }

    /// Index of a number of a template that begins with the same memory: the wanted number, or the
    /// newest.
    pub(crate) fn alike(&self, name: &str, number: u32, digest: Option<[u8; 32]>) -> Option<u16> {
        let numbered = |entry: &Entry| entry.behaviour().number();
        let is = |entry: &Entry| {
            entry.behaviour().name() == name && entry.behaviour().digest() == digest
        };
        let found = self.0.iter().enumerate().filter(|(_, entry)| is(entry));
        let best = found.max_by_key(|(_, entry)| (numbered(entry) == number, numbered(entry)));
        best.map(|(idx, _)| idx as u16)
    }

    /// Which number of its template is at an index.
    pub(crate) fn number(&self, idx: u16) -> u32 {
        self.behaviour(idx).number()
    }

    /// The behaviour at an index that [`Templates::find`] gave (L2).
    pub(crate) fn behaviour(&self, idx: u16) -> &dyn Behaviour {
        self.0[usize::from(idx)].behaviour()
    }
}

fn fits(name: &str) -> bool {
    format!("{name}/x").parse::<AgentKey>().is_ok_and(|key| key.template() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_every_built_in_is_found_by_its_name() {
        let templates = Templates::new(built_in());
        for behaviour in built_in() {
            let key: AgentKey = format!("{}/a", behaviour.name()).parse().unwrap();
            let idx = templates.find(&key).unwrap();
            assert_eq!(templates.behaviour(idx).name(), behaviour.name());
            assert!(!behaviour.summary().is_empty());
        }
        let key: AgentKey = "nothing/a".parse().unwrap();
        let refusal = Refusal::NoTemplate { name: "nothing".into(), count: 4 };
        assert_eq!(templates.find(&key), Err(refusal));
    }

    #[test]
    #[should_panic(expected = "L1: two templates")]
    fn l1_names_are_unique() {
        Templates::new(vec![&Echo, &Echo]);
    }
}
