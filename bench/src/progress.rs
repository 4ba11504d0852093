// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a run is and how long it will still take, by this machine's clock.
//!
//! fio runs in a guest whose clock counts instructions, and says nothing about the time that its
//! user waits. So the part in the guest writes `@step DONE ALL LABEL` before each sample, in shares
//! of the expected cost ([`crate::matrix::job_file::cost`]). The part outside turns that into per
//! cent and minutes, and passes all other lines.

use std::time::Duration;

/// What was said so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the first sample began, and how much was done by then.
    first: Option<(Duration, u64)>,
}

impl Progress {
    /// The text for a line about a sample, or nothing if the line is about
    /// something else. `now` is the time since the run began.
    pub fn line(&mut self, line: &str, now: Duration) -> Option<String> {
        let rest = line.strip_prefix("@step ")?;
        let mut words = rest.splitn(3, ' ');
        let done: u64 = words.next()?.parse().ok()?;
        let all: u64 = words.next()?.parse().ok()?;
        let label = words.next().unwrap_or_default();
        // From the first sample on: the boot of the guest and the fill have another pace.
        let (began, before) = *self.first.get_or_insert((now, done));
        let per_cent = (done * 100).checked_div(all).unwrap_or(100);
        let mut text = format!("{per_cent:3} % {label}");
        let (taken, by) = (now.saturating_sub(began), done.saturating_sub(before));
        // Nothing is known of the pace before the first sample has ended.
        if by > 0 {
            let rest = taken.as_secs_f64() * all.saturating_sub(done) as f64 / by as f64;
            text += &format!(", about {} left", in_words(rest));
        }
        Some(text)
    }

    /// Was there any sample yet?
    pub fn shown(&self) -> bool {
        self.first.is_some()
    }
}

/// A time in words.
fn in_words(seconds: f64) -> String {
    match seconds.round() as u64 {
        seconds @ 0..=90 => format!("{seconds} s"),
        seconds @ 91..=5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_in_proportion_to_what_is_done() {
        let mut progress = Progress::default();
        let at = Duration::from_secs;
        assert!(!progress.shown());
        assert_eq!(progress.line("bench-device: filling brd", at(1)), None);
        let line = |progress: &mut Progress, text, now| progress.line(text, at(now)).unwrap();
        assert_eq!(
            line(&mut progress, "@step 0 1000 a on b", 10),
            "  0 % a on b"
        );
        let half = line(&mut progress, "@step 500 1000 a on b", 40);
        assert_eq!(half, " 50 % a on b, about 30 s left");
        let end = line(&mut progress, "@step 1000 1000 done", 70);
        assert_eq!(end, "100 % done, about 0 s left");
        assert!(progress.shown());
    }

    #[test]
    fn a_run_that_goes_on_does_not_count_what_was_there() {
        let mut progress = Progress::default();
        progress.line("@step 900 1000 a", Duration::ZERO);
        let text = progress.line("@step 950 1000 b", Duration::from_secs(600));
        assert_eq!(text.unwrap(), " 95 % b, about 10 min left");
    }

    #[test]
    fn a_broken_line_is_only_a_line() {
        for line in ["@step", "@step x 3 a", "@step 3", "step 1 2 a", ""] {
            assert_eq!(Progress::default().line(line, Duration::ZERO), None);
        }
        assert_eq!(in_words(5401.0), "1 h 30 min");
    }
}
