//! A partition's agents as byte vectors in a map: the oracle of the model test.
//!
//! Owns: what every verb must answer and leave behind, in the plainest way.  Not: retention (the
//! partition under test keeps all versions), mailboxes (the test serves each request at once).

use std::collections::BTreeMap;

/// An image: its bytes, and which pages they are in. Two images with one `root` and length share
/// all pages; a seal of an image that is the head's makes no version.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Image {
    pub bytes: Vec<u8>,
    root: u64,
}

/// A version.
#[derive(Clone, Debug)]
pub struct Version {
    pub image: Image,
    pub parent: Option<u64>,
    pub checkpoint: bool,
}

/// An agent.
#[derive(Clone, Debug)]
pub struct Agent {
    pub image: Image,
    pub versions: BTreeMap<u64, Version>,
    pub head: u64,
    pub parent: Option<String>,
    next: u64,
    suffix_last: u32,
}

/// All agents by key.
#[derive(Clone, Default, Debug)]
pub struct Model {
    pub agents: BTreeMap<String, Agent>,
    root_last: u64,
}

/// A refusal's code.
pub type Refused = &'static str;

impl Agent {
    fn new(image: Image, parent: Option<String>) -> Agent {
        let first = Version { image: image.clone(), parent: None, checkpoint: false };
        let versions = BTreeMap::from([(1, first)]);
        Agent { image, versions, head: 1, parent, next: 2, suffix_last: 0 }
    }

    fn is_sealed(&self) -> bool {
        let head = &self.versions[&self.head].image;
        (head.root, head.bytes.len()) == (self.image.root, self.image.bytes.len())
    }

    fn push(&mut self, checkpoint: bool) {
        let (image, parent) = (self.image.clone(), Some(self.head));
        self.head = self.next;
        self.next += 1;
        self.versions.insert(self.head, Version { image, parent, checkpoint });
    }

    fn seal(&mut self) {
        if !self.is_sealed() {
            self.push(false);
        }
    }
}

impl Model {
    fn agent(&mut self, key: &str) -> Result<&mut Agent, Refused> {
        self.agents.get_mut(key).ok_or("NOAGENT")
    }

    /// CREATE; the version.
    pub fn create(&mut self, key: &str, image_bytes: usize) -> Result<u64, Refused> {
        if self.agents.contains_key(key) {
            return Err("EXISTS");
        }
        if key.contains('~') {
            return Err("NOAGENT");
        }
        let image = Image { bytes: vec![0; image_bytes], root: 0 };
        self.agents.insert(key.into(), Agent::new(image, None));
        Ok(1)
    }

    /// One turn that writes: to `at`, or of a message, then sealed.
    pub fn write(&mut self, key: &str, at: usize, bytes: &[u8]) -> Result<u64, Refused> {
        let root = self.root_last + 1;
        let agent = self.agent(key)?;
        let old_bytes = agent.image.bytes.len();
        let end = at + bytes.len();
        if !bytes.is_empty() && end > old_bytes {
            agent.image.bytes.resize(end, 0);
        }
        if !bytes.is_empty() && agent.image.bytes[at..end] != *bytes {
            agent.image.bytes[at..end].copy_from_slice(bytes);
            agent.image.root = root;
        }
        agent.seal();
        let head = agent.head;
        self.root_last = root;
        Ok(head)
    }

    /// A message to a counter, which it creates; the reply.
    pub fn add(&mut self, key: &str, number: i64) -> Result<i64, Refused> {
        if !self.agents.contains_key(key) {
            self.create(key, 0)?;
        }
        let agent = self.agent(key)?;
        let mut value = [0; 8];
        let len = agent.image.bytes.len().min(8);
        value[..len].copy_from_slice(&agent.image.bytes[..len]);
        let sum = i64::from_le_bytes(value).checked_add(number).ok_or("FAULT")?;
        self.write(key, 0, &sum.to_le_bytes())?;
        Ok(sum)
    }

    /// CHECKPOINT without a label; the version.
    pub fn checkpoint(&mut self, key: &str) -> Result<u64, Refused> {
        let agent = self.agent(key)?;
        if !agent.is_sealed() {
            agent.push(true);
        }
        let head = agent.head;
        agent.versions.get_mut(&head).expect("the head is a version").checkpoint = true;
        Ok(head)
    }

    /// ROLLBACK to a version, or to the newest checkpoint.
    pub fn rollback(&mut self, key: &str, to: Option<u64>) -> Result<u64, Refused> {
        let agent = self.agent(key)?;
        let newest = || agent.versions.iter().rev().find(|(_, version)| version.checkpoint);
        let to = to.unwrap_or_else(|| newest().map_or(1, |(id, _)| *id));
        agent.image = agent.versions.get(&to).ok_or("NOVERSION")?.image.clone();
        agent.head = to;
        Ok(to)
    }

    /// FORK; the branches' keys.
    pub fn fork(
        &mut self,
        key: &str,
        count: usize,
        at: Option<u64>,
    ) -> Result<Vec<String>, Refused> {
        let agent = self.agent(key)?;
        let at = at.unwrap_or(agent.head);
        let image = agent.versions.get(&at).ok_or("NOVERSION")?.image.clone();
        let mut number = agent.suffix_last;
        let mut branches = Vec::new();
        while branches.len() < count {
            number += 1;
            let branch = format!("{key}~{number}");
            if !self.agents.contains_key(&branch) {
                self.agents.insert(branch.clone(), Agent::new(image.clone(), Some(key.into())));
                branches.push(branch);
            }
        }
        self.agent(key)?.suffix_last = number;
        Ok(branches)
    }

    /// COMMIT; the parent's version.
    pub fn commit(&mut self, key: &str) -> Result<u64, Refused> {
        let branch = self.agent(key)?;
        let parent = branch.parent.clone().ok_or("WRONGSTATE")?;
        let image = branch.image.clone();
        let agent = self.agent(&parent)?;
        agent.image = image;
        agent.seal();
        let head = agent.head;
        let of_parent = |agent: &Agent| agent.parent.as_deref() == Some(&*parent);
        let branches = self.agents.iter().filter(|(_, agent)| of_parent(agent));
        let branches: Vec<String> = branches.map(|(key, _)| key.clone()).collect();
        for branch in branches {
            self.end(&branch);
        }
        Ok(head)
    }

    /// TERMINATE.
    pub fn terminate(&mut self, key: &str) -> Result<(), Refused> {
        self.agent(key)?;
        self.end(key);
        Ok(())
    }

    fn end(&mut self, key: &str) {
        self.agents.remove(key);
        for agent in self.agents.values_mut() {
            if agent.parent.as_deref() == Some(key) {
                agent.parent = None;
            }
        }
    }
}
