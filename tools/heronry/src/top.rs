//! `heronry top`: the node at a glance, refreshed every second, or once as text.
//!
//! Owns: the terminal while it runs, keys, the rhythm.  Not: what is measured (`sample`) and how a
//! frame looks (`view`).
//! P1  the terminal is put back as it was on every way out.
//! P2  a node that goes away ends `top` with the reason; a shard that restarts does not.

pub mod sample;
pub mod view;

use crate::cli::{Global, TopOptions};
use crate::link::Link;
use crate::output::Output;
use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use sample::Sample;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use view::{Sort, View};

/// Hottest agents asked for; the screen shows as many as fit.
const HOTTEST_COUNT: usize = 50;
/// Time between the two looks of `--once`.
const ONCE_SPAN: Duration = Duration::from_millis(500);

/// What a key asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Quit,
    Pause,
    Sort,
    Other,
}

/// Runs `top` until its user leaves.
pub fn run(global: &Global, options: &TopOptions, output: Output) -> Result<()> {
    let mut link = Link::open(global)?;
    if options.once || output.json {
        return once(&mut link, output);
    }
    anyhow::ensure!(
        std::io::stdout().is_terminal(),
        "standard output is not a terminal; --once prints one frame as text, --json as data"
    );
    let earlier = Sample::take_with_hottest(&mut link, HOTTEST_COUNT)?;
    let interval = Duration::from_millis(options.interval_ms);
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let done = watch(&mut link, earlier, interval, &mut terminal);
    ratatui::restore();
    done
}

/// One frame as text or JSON.
fn once(link: &mut Link, output: Output) -> Result<()> {
    let earlier = Sample::take(link)?;
    std::thread::sleep(ONCE_SPAN);
    let later = Sample::take_with_hottest(link, HOTTEST_COUNT)?;
    let view = View::new(&earlier, &later, Sort::Number);
    if output.json {
        return Ok(output.json(&view.json())?);
    }
    Ok(output.text(&view.text())?)
}

fn watch(
    link: &mut Link,
    mut earlier: Sample,
    interval: Duration,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<()> {
    let mut later = earlier.clone();
    let (mut sort, mut paused) = (Sort::Number, false);
    loop {
        let view = View::new(&earlier, &later, sort);
        terminal.draw(|frame| view.draw(frame, paused))?;
        let until = Instant::now() + interval;
        while let Some(key) = next_key(until)? {
            match key {
                Key::Quit => return Ok(()),
                Key::Pause => paused = !paused,
                Key::Sort => sort = sort.next(),
                Key::Other => {}
            }
            let view = View::new(&earlier, &later, sort);
            terminal.draw(|frame| view.draw(frame, paused))?;
        }
        if !paused {
            earlier = later;
            later = Sample::take_with_hottest(link, HOTTEST_COUNT)?;
        }
    }
}

/// The next key or change of the screen until `until`; `None` when the time is up.
fn next_key(until: Instant) -> Result<Option<Key>> {
    let wait = until.saturating_duration_since(Instant::now());
    if !event::poll(wait)? {
        return Ok(None);
    }
    Ok(Some(key_of(&event::read()?)))
}

fn key_of(event: &Event) -> Key {
    let Event::Key(key) = event else { return Key::Other };
    if key.kind == KeyEventKind::Release {
        return Key::Other;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('p') => Key::Pause,
        KeyCode::Char('s') => Key::Sort,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let key = |code, modifiers| key_of(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Key::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Key::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Key::Other);
        assert_eq!(key(KeyCode::Char('p'), KeyModifiers::NONE), Key::Pause);
        assert_eq!(key(KeyCode::Char('s'), KeyModifiers::NONE), Key::Sort);
        assert_eq!(key_of(&Event::Resize(80, 24)), Key::Other);
    }
}
