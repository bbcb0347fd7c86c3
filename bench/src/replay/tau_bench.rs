//! tau-bench records: each conversation is an agent, its tool calls go to tool agents elsewhere.
//!
//! Owns: the turns of a conversation and the order in which tool agents say they took them.
//! Not: driving (`drive.rs`), reading back (`verify.rs`).
//! U1  every message of a trajectory is one `append` to the conversation's notebook; every tool
//!     call is one message to the conversation's relay, which calls a tool agent whose home is
//!     another shard (where there are two) and passes its reply back.
//! U2  a tool agent appends the calls it gets, from all conversations; the length it replies says
//!     where a call landed, so its whole image is known whatever the order was.

use super::azure::notebook_head;
use super::script::{Script, TraceError, Turn};
use crate::wire;
use heronry_engine::{AgentKey, ShardId, TenantId};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Record {
    traj: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Append this text to the conversation.
    Append(Vec<u8>),
    /// Call tool `tool` with this text.
    Call { tool: u32, text: Vec<u8> },
}

/// Which step of which conversation a turn is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    pass: u32,
    conversation: u32,
    step: u32,
}

/// The records as turns, repeated with other names.
#[derive(Debug)]
pub struct TauBench {
    conversations: Vec<Vec<Step>>,
    /// Per tool and shard, the key of the tool agent at home there.
    tools: Vec<Vec<String>>,
    repeat_count: usize,
    shard_count: u16,
    places: Vec<Place>,
    turns: Vec<Turn>,
    /// Per tool agent: calls as (text length after it, place), in the order replies came.
    landed: Vec<Vec<(u64, Place)>>,
}

impl TauBench {
    /// Reads a JSON array of records, for a node of `shard_count` shards.
    pub fn parse(
        text: &str,
        repeat_count: usize,
        shard_count: u16,
    ) -> Result<TauBench, TraceError> {
        let json = |error| TraceError::Json { record: 1, format: "tau-bench", error };
        let records: Vec<Record> = serde_json::from_str(text).map_err(json)?;
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let conversations: Vec<Vec<Step>> =
            records.iter().map(|record| steps(record, &mut names)).collect();
        if conversations.iter().all(Vec::is_empty) {
            return Err(TraceError::Empty);
        }
        let mut tools = vec![Vec::new(); names.len()];
        for (name, tool) in &names {
            tools[*tool as usize] = tool_keys(name, shard_count);
        }
        let landed = vec![Vec::new(); tools.len() * shard_count as usize];
        let mut script = TauBench {
            conversations,
            tools,
            repeat_count,
            shard_count,
            places: Vec::new(),
            turns: Vec::new(),
            landed,
        };
        script.lay_out();
        Ok(script)
    }

    /// All conversations of all passes go on together, one step each in turn.
    fn lay_out(&mut self) {
        let longest = self.conversations.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..longest {
            for pass in 0..self.repeat_count {
                for (at, steps) in self.conversations.iter().enumerate() {
                    if step >= steps.len() {
                        continue;
                    }
                    let family = (pass * self.conversations.len() + at) as u32;
                    let (pass, conversation) = (pass as u32, at as u32);
                    self.places.push(Place { pass, conversation, step: step as u32 });
                    self.turns.push(Turn { family, arrival_ns: 0, stage_count: 1 });
                }
            }
        }
    }

    fn step(&self, place: Place) -> &Step {
        &self.conversations[place.conversation as usize][place.step as usize]
    }

    /// The tool agent that `place` calls: at home on the shard after its relay's (U1).
    fn tool_agent(&self, place: Place, tool: u32) -> usize {
        let relay = home(&relay_key(place), self.shard_count);
        let shard = (relay.0 + 1) % self.shard_count;
        tool as usize * self.shard_count as usize + shard as usize
    }

    fn tool_key(&self, tool_agent: usize) -> &str {
        let shards = self.shard_count as usize;
        &self.tools[tool_agent / shards][tool_agent % shards]
    }

    fn conversation_count(&self) -> usize {
        self.conversations.len() * self.repeat_count
    }

    /// Tool agents that were called.
    fn called(&self) -> Vec<usize> {
        (0..self.landed.len()).filter(|at| !self.landed[*at].is_empty()).collect()
    }

    /// Conversations of one pass that have a relay, because they call a tool.
    fn relayed(&self) -> Vec<usize> {
        let calls = |steps: &Vec<Step>| steps.iter().any(|s| matches!(s, Step::Call { .. }));
        (0..self.conversations.len()).filter(|at| calls(&self.conversations[*at])).collect()
    }

    /// Key and text of an agent that has a notebook; `None` past the last one.
    fn notebook(&self, agent_idx: usize, out: &mut Vec<u8>) -> Option<String> {
        let Some(tool) = agent_idx.checked_sub(self.conversation_count()) else {
            let place = self.family_place(agent_idx);
            for step in &self.conversations[place.conversation as usize] {
                if let Step::Append(text) = step {
                    out.extend_from_slice(text);
                }
            }
            return Some(conversation_key(place));
        };
        let tool_agent = *self.called().get(tool)?;
        let mut calls = self.landed[tool_agent].clone();
        calls.sort_by_key(|(len_after, _)| *len_after);
        calls.iter().for_each(|(_, place)| self.append_call(*place, out));
        Some(self.tool_key(tool_agent).to_owned())
    }

    fn family_place(&self, family: usize) -> Place {
        let count = self.conversations.len();
        Place { pass: (family / count) as u32, conversation: (family % count) as u32, step: 0 }
    }

    fn append_call(&self, place: Place, out: &mut Vec<u8>) {
        if let Step::Call { text, .. } = self.step(place) {
            out.extend_from_slice(format!("{}-{} ", place.pass, place.conversation).as_bytes());
            out.extend_from_slice(text);
        }
    }
}

impl Script for TauBench {
    fn turns(&self) -> &[Turn] {
        &self.turns
    }

    fn family_count(&self) -> u32 {
        self.conversation_count() as u32
    }

    fn encode(&mut self, turn_idx: usize, _stage: u8, out: &mut Vec<u8>) -> u32 {
        let place = self.places[turn_idx];
        let mut payload = Vec::new();
        let key = match self.step(place) {
            Step::Append(text) => {
                payload.extend_from_slice(b"append ");
                payload.extend_from_slice(text);
                conversation_key(place)
            }
            Step::Call { tool, .. } => {
                payload.extend_from_slice(self.tool_key(self.tool_agent(place, *tool)).as_bytes());
                payload.extend_from_slice(b" append ");
                self.append_call(place, &mut payload);
                relay_key(place)
            }
        };
        wire::command(out, &[b"AGENT.SEND", key.as_bytes(), &payload]);
        1
    }

    fn replied(&mut self, turn_idx: usize, _stage: u8, _nth: u32, reply: &[u8]) {
        let place = self.places[turn_idx];
        if let Step::Call { tool, .. } = self.step(place) {
            // A reply that is no number leaves a gap that the check of images then finds.
            let len_after = wire::number(reply).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            let tool_agent = self.tool_agent(place, *tool);
            self.landed[tool_agent].push((len_after, place));
        }
    }

    fn agent_count(&self) -> usize {
        let relays = self.relayed().len() * self.repeat_count;
        self.conversation_count() + self.called().len() + relays
    }

    fn fork_count(&self) -> usize {
        0
    }

    fn image(&self, agent_idx: usize, out: &mut Vec<u8>) -> String {
        let start = out.len();
        notebook_head(0, out);
        let text_start = out.len();
        if let Some(key) = self.notebook(agent_idx, out) {
            let text_bytes = (out.len() - text_start) as u64;
            out[start..start + 8].copy_from_slice(&text_bytes.to_le_bytes());
            return key;
        }
        // A relay keeps nothing.
        out.truncate(start);
        let relayed = self.relayed();
        let relay = agent_idx - self.conversation_count() - self.called().len();
        let family = relay / relayed.len() * self.conversations.len();
        relay_key(self.family_place(family + relayed[relay % relayed.len()]))
    }
}

fn steps(record: &Record, names: &mut BTreeMap<String, u32>) -> Vec<Step> {
    let mut steps = Vec::new();
    for message in &record.traj {
        let mut text = format!("{}: ", message.role).into_bytes();
        text.extend_from_slice(message.content.as_deref().unwrap_or("").as_bytes());
        let calls = message.tool_calls.as_deref().unwrap_or(&[]);
        for call in calls {
            text.extend_from_slice(format!("[calls {}]", call.function.name).as_bytes());
        }
        text.push(b'\n');
        steps.push(Step::Append(text));
        for call in calls {
            let next = names.len() as u32;
            let tool = *names.entry(call.function.name.clone()).or_insert(next);
            let text = format!("{}\n", call.function.arguments).into_bytes();
            steps.push(Step::Call { tool, text });
        }
    }
    steps
}

/// One key per shard, at home there: the first of `tool-NAME-0`, `-1`, ... that hashes to it.
fn tool_keys(name: &str, shard_count: u16) -> Vec<String> {
    let candidates = || (0u32..).map(|n| format!("notebook/tool-{name}-{n}"));
    let at_home = |shard: u16| {
        let mut there = candidates().filter(|key| home(key, shard_count) == ShardId(shard));
        there.next().unwrap_or_default()
    };
    (0..shard_count).map(at_home).collect()
}

/// Home of a key; names of tools that break the grammar of keys count as at home on shard 0.
fn home(key: &str, shard_count: u16) -> ShardId {
    key.parse::<AgentKey>().map_or(ShardId(0), |key| key.id(TenantId(0)).home(shard_count))
}

fn conversation_key(place: Place) -> String {
    format!("notebook/c{}-{}", place.pass, place.conversation)
}

fn relay_key(place: Place) -> String {
    format!("relay/c{}-{}", place.pass, place.conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"[
        {"task_id": 1, "traj": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"function": {"name": "think", "arguments": "{\"a\":1}"}, "id": "x"}]},
            {"role": "tool", "name": "think", "content": "done", "tool_call_id": "x"}]},
        {"task_id": 2, "traj": [
            {"role": "assistant", "content": "x", "tool_calls": [
                {"function": {"name": "think", "arguments": "{}"}, "id": "y"}]}]}]"#;

    #[test]
    fn u1_tool_agents_are_at_home_on_another_shard_than_the_relay() {
        let script = TauBench::parse(SAMPLE, 20, 3).expect("records");
        for place in &script.places {
            if let Step::Call { tool, .. } = script.step(*place) {
                let key = script.tool_key(script.tool_agent(*place, *tool));
                assert_ne!(home(key, 3), home(&relay_key(*place), 3), "{key}");
            }
        }
    }

    #[test]
    fn u2_the_image_of_a_tool_agent_follows_the_lengths_it_replied() {
        let mut script = TauBench::parse(SAMPLE, 1, 1).expect("records");
        assert_eq!(script.turns().len(), 6);
        let calls: Vec<usize> = (0..6)
            .filter(|turn| matches!(script.step(script.places[*turn]), Step::Call { .. }))
            .collect();
        let mut texts = Vec::new();
        for turn in &calls {
            let mut text = Vec::new();
            script.append_call(script.places[*turn], &mut text);
            texts.push(text);
        }
        // The second call landed first; its reply came last.
        let both = texts[0].len() + texts[1].len();
        script.replied(calls[0], 0, 0, format!(":{both}\r\n").as_bytes());
        script.replied(calls[1], 0, 0, format!(":{}\r\n", texts[1].len()).as_bytes());
        let mut image = Vec::new();
        assert_eq!(script.image(2, &mut image), "notebook/tool-think-0");
        let text = [texts[1].clone(), texts[0].clone()].concat();
        assert!(image.ends_with(&text));
        assert_eq!(image[..8], (text.len() as u64).to_le_bytes());
        let mut image = Vec::new();
        assert_eq!(script.image(0, &mut image), "notebook/c0-0");
        assert!(image.ends_with(b"user: hello\nassistant: [calls think]\ntool: done\n"));
        assert_eq!(script.agent_count(), 5);
        let mut image = Vec::new();
        assert_eq!(script.image(4, &mut image), "relay/c0-1");
        assert!(image.is_empty());
    }
}
