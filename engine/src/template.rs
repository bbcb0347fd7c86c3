//! Templates: the named behaviours that agents are made from.
//!
//! Owns: which templates a node has, and their order.  Not: what they do.
//! L1  names are unique and fit into a key.

use crate::behaviour::{Behaviour, counter::Counter, echo::Echo, notebook::Notebook, relay::Relay};
use crate::key::AgentKey;
use crate::refusal::Refusal;

/// The templates that every node has.
pub fn built_in() -> Vec<&'static dyn Behaviour> {
    vec![&Echo, &Counter, &Notebook, &Relay]
}

/// The templates of one partition. An agent keeps the index of its own.
pub(crate) struct Templates(Vec<&'static dyn Behaviour>);

impl Templates {
    /// Panics when two share a name, or one does not fit into a key (L1).
    pub(crate) fn new(behaviours: Vec<&'static dyn Behaviour>) -> Templates {
        assert!(behaviours.len() <= usize::from(u16::MAX), "L1: too many templates");
        for (idx, behaviour) in behaviours.iter().enumerate() {
            let name = behaviour.name();
            let key = format!("{name}/x").parse::<AgentKey>();
            let fits = key.is_ok_and(|key| key.template() == name);
            assert!(fits, "L1: template name {name:?} does not fit into a key");
            let unique = behaviours[..idx].iter().all(|other| other.name() != name);
            assert!(unique, "L1: two templates are named {name:?}");
        }
        Templates(behaviours)
    }

    /// Index of the template that `key` names.
    pub(crate) fn find(&self, key: &AgentKey) -> Result<u16, Refusal> {
        let name = key.template();
        match self.0.iter().position(|behaviour| behaviour.name() == name) {
            Some(idx) => Ok(idx as u16),
            None => Err(Refusal::NoTemplate { name: name.into(), count: self.0.len() as u32 }),
        }
    }

    /// The behaviour at an index that [`Templates::find`] gave.
    pub(crate) fn behaviour(&self, idx: u16) -> &'static dyn Behaviour {
        self.0[usize::from(idx)]
    }
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
