//! How `top` looks: one table of shards, one of hottest agents, on a screen, as text, as JSON.
//!
//! Owns: columns, units, order.  Not: where the figures come from.
//! V1  screen, text and JSON show the same figures.

use super::sample::{self, Row, Sample};
use crate::output::table;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Row as TableRow, Table};
use serde_json::{Value as Json, json};

const SHARD_HEAD: [&str; 12] = [
    "shard", "state", "cpu", "agents", "turns/s", "p50 us", "p99 us", "busy %", "hops/s", "frames",
    "conns", "restarts",
];
/// Widths of the columns of shards on a screen.
const SHARD_WIDTHS: [u16; 12] = [5, 8, 4, 9, 10, 8, 8, 6, 9, 12, 6, 8];

/// By what the shards are ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// Their number.
    Number,
    /// Busiest first.
    Busy,
    /// Most turns first.
    Turns,
    /// Most agents first.
    Agents,
}

impl Sort {
    /// The one after this.
    pub fn next(self) -> Sort {
        match self {
            Sort::Number => Sort::Busy,
            Sort::Busy => Sort::Turns,
            Sort::Turns => Sort::Agents,
            Sort::Agents => Sort::Number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Number => "number",
            Sort::Busy => "busy",
            Sort::Turns => "turns",
            Sort::Agents => "agents",
        }
    }
}

/// One frame.
pub struct View {
    rows: Vec<Row>,
    hottest: Vec<(String, u64)>,
    sort: Sort,
}

impl View {
    /// What happened between two looks, ordered by `sort`.
    pub fn new(earlier: &Sample, later: &Sample, sort: Sort) -> View {
        let mut rows = sample::rows(earlier, later);
        match sort {
            Sort::Number => rows.sort_by_key(|row| row.shard.number),
            Sort::Busy => rows.sort_by(|a, b| b.busy_percent.total_cmp(&a.busy_percent)),
            Sort::Turns => rows.sort_by(|a, b| b.turns_per_s.total_cmp(&a.turns_per_s)),
            Sort::Agents => {
                rows.sort_by_key(|row| std::cmp::Reverse(row.shard.counter("agents")));
            }
        }
        View { rows, hottest: later.hottest.clone(), sort }
    }

    /// The frame as text, for scripts and for screens that are none.
    pub fn text(&self) -> String {
        let owned = |head: &[&str]| head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| cells(row).to_vec()).collect();
        let shards = table(&owned(&SHARD_HEAD), &rows);
        let hot = |(key, turns): &(String, u64)| vec![key.clone(), turns.to_string()];
        let hottest: Vec<Vec<String>> = self.hottest.iter().map(hot).collect();
        if hottest.is_empty() {
            return shards;
        }
        format!("{shards}\n{}", table(&owned(&["hottest agent", "turns of late"]), &hottest))
    }

    /// The frame as data.
    pub fn json(&self) -> Json {
        let row = |row: &Row| {
            let counters: serde_json::Map<String, Json> =
                row.shard.counters.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            json!({
                "shard": row.shard.number, "state": row.shard.state, "cpu": row.shard.cpu,
                "restarts": row.shard.restarts, "turns_per_s": row.turns_per_s,
                "hops_per_s": row.hops_per_s, "busy_percent": row.busy_percent,
                "counters": counters,
            })
        };
        let hot = |(key, turns): &(String, u64)| json!({"key": key, "turns": turns});
        json!({
            "shards": self.rows.iter().map(row).collect::<Vec<_>>(),
            "hottest": self.hottest.iter().map(hot).collect::<Vec<_>>(),
        })
    }

    /// The frame on a screen.
    pub fn draw(&self, frame: &mut Frame<'_>, paused: bool) {
        let shards_height = u16::try_from(self.rows.len()).unwrap_or(u16::MAX).saturating_add(3);
        let [top, middle, bottom] = Layout::vertical([
            Constraint::Max(shards_height),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_shards(frame, top);
        self.draw_hottest(frame, middle);
        let state = if paused { "paused" } else { "live" };
        let keys = format!(" {state} | q quit | p pause | s sort (by {})", self.sort.name());
        let style = Style::new().add_modifier(Modifier::DIM);
        frame.render_widget(Line::styled(keys, style), bottom);
    }

    fn draw_shards(&self, frame: &mut Frame<'_>, area: Rect) {
        let line = |row: &Row| {
            let line = TableRow::new(cells(row).map(Cell::from));
            let color = match row.shard.state.as_str() {
                "up" if row.busy_percent >= 90.0 => Color::Yellow,
                "up" => Color::Reset,
                _ => Color::Red,
            };
            line.style(Style::new().fg(color))
        };
        let turns: f64 = self.rows.iter().map(|row| row.turns_per_s).sum();
        let agents: u64 = self.rows.iter().map(|row| row.shard.counter("agents")).sum();
        let title = format!(" heronry: {agents} agents, {turns:.0} turns/s ");
        let table = Table::new(self.rows.iter().map(line), SHARD_WIDTHS)
            .header(head(&SHARD_HEAD))
            .block(Block::bordered().title(title));
        frame.render_widget(table, area);
    }

    fn draw_hottest(&self, frame: &mut Frame<'_>, area: Rect) {
        let line = |(key, turns): &(String, u64)| TableRow::new([turns.to_string(), key.clone()]);
        let widths = [Constraint::Length(14), Constraint::Min(20)];
        let table = Table::new(self.hottest.iter().map(line), widths)
            .header(head(&["turns of late", "agent"]))
            .block(Block::bordered().title(" hottest agents "));
        frame.render_widget(table, area);
    }
}

fn head<'a>(names: &[&'a str]) -> TableRow<'a> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    TableRow::new(names.iter().map(|name| Cell::from(*name))).style(bold)
}

/// The figures of one shard, one per column of `SHARD_HEAD` (V1).
fn cells(row: &Row) -> [String; 12] {
    let shard = &row.shard;
    let us = |name: &str| format!("{:.1}", shard.counter(name) as f64 / 1000.0);
    [
        shard.number.to_string(),
        shard.state.clone(),
        shard.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()),
        shard.counter("agents").to_string(),
        format!("{:.0}", row.turns_per_s),
        us("turn_ns_p50"),
        us("turn_ns_p99"),
        format!("{:.0}", row.busy_percent),
        format!("{:.0}", row.hops_per_s),
        format!("{} {:.0}%", shard.counter("frames_used"), frames_percent(row)),
        shard.counter("connections").to_string(),
        shard.restarts.to_string(),
    ]
}

fn frames_percent(row: &Row) -> f64 {
    const FRAME_BYTES: f64 = 4096.0;
    let total = row.shard.counter("frames_total").max(1);
    let patches = row.shard.counter("patch_bytes") as f64 / FRAME_BYTES;
    (row.shard.counter("frames_used") as f64 + patches) * 100.0 / total as f64
}

#[cfg(test)]
mod tests {
    use super::sample::Shard;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    fn sample(at: Instant, turns: [u64; 2]) -> Sample {
        let shard = |number: u64, turns: u64| Shard {
            number,
            state: "up".into(),
            cpu: Some(number),
            restarts: 0,
            counters: [("turns", turns), ("agents", 10 + number), ("turn_ns_p50", 1500)]
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
        };
        let shards = vec![shard(0, turns[0]), shard(1, turns[1])];
        Sample { at, shards, hottest: vec![("counter/hot".into(), 9)] }
    }

    fn view(sort: Sort) -> View {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        View::new(&sample(start, [0, 0]), &sample(later, [100, 300]), sort)
    }

    #[test]
    fn v1_screen_text_and_json_show_the_same_figures() {
        let view = view(Sort::Number);
        let text = view.text();
        assert!(text.contains("counter/hot"), "{text}");
        let json = view.json();
        assert_eq!(json["shards"][1]["turns_per_s"], 300.0);
        assert_eq!(json["hottest"][0]["key"], "counter/hot");
        let mut terminal = Terminal::new(TestBackend::new(110, 12)).expect("a screen in memory");
        terminal.draw(|frame| view.draw(frame, false)).expect("drawn");
        let screen = terminal.backend().to_string();
        for shown in ["400 turns/s", "21 agents", "counter/hot", "1.5", "q quit"] {
            assert!(screen.contains(shown), "{shown} is not on\n{screen}");
        }
    }

    #[test]
    fn sort_goes_around_and_orders() {
        let first = |sort| view(sort).rows[0].shard.number;
        assert_eq!([first(Sort::Number), first(Sort::Turns), first(Sort::Agents)], [0, 1, 1]);
        let mut sort = Sort::Number;
        for _ in 0..4 {
            sort = sort.next();
        }
        assert_eq!(sort, Sort::Number);
    }
}
