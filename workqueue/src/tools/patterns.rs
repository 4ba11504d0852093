// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which queues are meant: names with `*` and `?`.

/// Is the name one of those meant? All are if there is no pattern.
pub(crate) fn wanted(name: &str, patterns: &[String]) -> bool {
    let name: Vec<char> = name.chars().collect();
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            let pattern: Vec<char> = pattern.chars().collect();
            matches(&name, &pattern)
        })
}

/// Goes on greedily, and back to the last `*` where that fails.
fn matches(name: &[char], pattern: &[char]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(of) {
            Some('*') => {
                star = Some((at, of));
                of += 1;
            }
            Some(&c) if c == '?' || c == name[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((from, back)) => {
                    star = Some((from + 1, back));
                    at = from + 1;
                    of = back + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn names_are_matched_whole() {
        let is = |name: &str, pattern: &str| wanted(name, &[pattern.to_owned()]);
        for pattern in [
            "events", "*", "ev*", "*ts", "e*e*s", "event?", "**", "events*",
        ] {
            assert!(is("events", pattern), "{pattern}");
        }
        for pattern in ["event", "vents", "?", "events?", "x*", "*x", "", "EVENTS"] {
            assert!(!is("events", pattern), "{pattern}");
        }
        assert!(is("aXbXc", "a*X?") && is("", "*") && is("ü", "?"));
        assert!(wanted("any", &[]));
        assert!(wanted("b", &["a".to_owned(), "b".to_owned()]));
    }
}
