// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top`: running disks on a terminal, as they are now.
//!
//! A thread asks the servers, so that a server that does not answer never holds up the keyboard.
//! [`model`] makes rates of what comes. [`draw`] and [`columns`] put them on the screen. [`screen`]
//! gives the terminal back however this ends.

mod columns;
mod draw;
mod history;
mod model;
mod screen;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ublk_ramdisk::error::{Exit, Failure};

use super::stats::{ask_all, Asked};
use crate::cli::TopArgs;
use crate::server::run_dir::RunDir;
use crate::server::signals::EndSignals;
use model::Model;
use screen::Screen;

/// How long the keyboard is waited for before signals and answers are looked at again.
const TICK: Duration = Duration::from_millis(100);

/// What the servers said, and when.
type Answer = (Instant, Result<Asked, Failure>);

/// Shows the disks until a key, a signal or an error ends it.
pub fn run(args: &TopArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine()?;
    let id = args.id.or(args.disk);
    // What is wrong from the start is said in a line, not on a screen.
    Screen::can_be_had()?;
    let first = (Instant::now(), Ok(ask_all(&run_dir, id)?));
    // Before the thread is made: it inherits the blocked signals.
    let signals = EndSignals::catch(true)
        .map_err(|error| Failure::runtime(format!("cannot wait for signals: {error}")))?;
    let mut screen = Screen::open()?;
    let answers = ask_again_and_again(run_dir, id, args.interval);
    let mut model = Model::new(args.interval);
    model.take(first)?;
    // The screen is given back before the outcome is told.
    serve(&mut screen, &mut model, &answers, &signals)
}

/// Asks in a thread of its own, which ends with the process or with the receiver.
fn ask_again_and_again(run_dir: RunDir, id: Option<u32>, interval: Duration) -> Receiver<Answer> {
    let (sender, answers): (Sender<Answer>, _) = mpsc::channel();
    std::thread::spawn(move || loop {
        std::thread::sleep(interval);
        let answer = ask_all(&run_dir, id);
        if sender.send((Instant::now(), answer)).is_err() {
            return;
        }
    });
    answers
}

/// The loop: signals, answers, a picture if anything is new, then a key.
fn serve(
    screen: &mut Screen,
    model: &mut Model,
    answers: &Receiver<Answer>,
    signals: &EndSignals,
) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| Failure::runtime(format!("the terminal: {error}"));
    let mut is_stale = true;
    let mut silence = None;
    loop {
        if signals.take().is_some() {
            return Ok(Exit::Done);
        }
        loop {
            match answers.recv_timeout(Duration::ZERO) {
                Ok(answer) => {
                    model.take(answer)?;
                    is_stale = true;
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::runtime(
                        "the thread that asks the servers has ended",
                    ))
                }
            }
        }
        let now = model.silence(Instant::now());
        // Nothing is drawn just because time passes, but the seconds of silence count on.
        is_stale |= now != silence;
        silence = now;
        if std::mem::take(&mut is_stale) {
            screen
                .draw(|frame| draw::draw(frame, model, silence))
                .map_err(failed)?;
        }
        if event::poll(TICK).map_err(failed)? {
            match event::read().map_err(failed)? {
                // Some terminals also report the release of a key.
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(Exit::Done),
                        // In raw mode Ctrl-C is a key and no signal.
                        KeyCode::Char('c') if control => return Ok(Exit::Done),
                        KeyCode::Down | KeyCode::Char('j') => model.choose_next(),
                        KeyCode::Up | KeyCode::Char('k') => model.choose_previous(),
                        KeyCode::PageDown | KeyCode::Char(' ') => model.scroll_down(),
                        KeyCode::PageUp | KeyCode::Char('b') => model.scroll_up(),
                        _ => {}
                    }
                    is_stale = true;
                }
                Event::Resize(..) => is_stale = true,
                _ => {}
            }
        }
    }
}
