// SPDX-License-Identifier: MIT OR Apache-2.0
//! The terminal, taken over and given back.

use std::io::{self, IsTerminal, Stdout};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::terminal::{
    disable_raw_mode, enable_raw_mode, size, EnterAlternateScreen, LeaveAlternateScreen,
};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};
use ublk_ramdisk::error::Failure;

/// A terminal in raw mode, on its other screen. Dropping it brings back what was there before, also
/// when a panic unwinds.
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Checks that standard input and output are a terminal on which text can be placed.
    ///
    /// # Errors
    /// Status 2, and what to use instead.
    pub fn can_be_had() -> Result<(), Failure> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "top needs a terminal for its input and output; elsewhere use \
                 `ublk-ramdisk stats --watch`",
            ));
        }
        let kind = std::env::var("TERM").unwrap_or_default();
        if kind.is_empty() || kind == "dumb" {
            return Err(Failure::usage(format!(
                "top cannot place text on a terminal whose TERM is '{kind}'; there use \
                 `ublk-ramdisk stats --watch`"
            )));
        }
        Ok(())
    }

    /// Takes the terminal over: raw mode, so that keys come one by one, and its other screen, so that
    /// what was there before comes back.
    pub fn open() -> Result<Screen, Failure> {
        let failed = |error: io::Error| Failure::runtime(format!("the terminal: {error}"));
        enable_raw_mode().map_err(failed)?;
        let entered = execute!(io::stdout(), EnterAlternateScreen, cursor::Hide);
        let opened = entered.and_then(|()| {
            // A serial line has no size that it knows of.
            let viewport = match size() {
                Ok((1.., 1..)) => Viewport::Fullscreen,
                _ => Viewport::Fixed(Rect::new(0, 0, 80, 24)),
            };
            let backend = CrosstermBackend::new(io::stdout());
            Terminal::with_options(backend, TerminalOptions { viewport })
        });
        opened.map(Screen).map_err(|error| {
            restore();
            failed(error)
        })
    }

    /// Draws the next picture. Only what differs from the last one is sent to the terminal.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back. Errors do not matter: the terminal itself may be gone.
fn restore() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}
