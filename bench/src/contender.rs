// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who takes part, by name: our data paths, ours under a source of pressure,
//! the rivals, and disks that are there already.

use std::fmt;
use std::str::FromStr;

use crate::matrix::{bad, BadMatrix};

/// Our data paths.
pub const OURS: [&str; 4] = ["plain", "get-data", "user-copy", "batch"];

/// The rivals, in the order of the columns.
pub const RIVALS: [&str; 10] = [
    "libublk-example",
    "libublk",
    "libublk-async",
    "rublk-null",
    "rublk-loop",
    "loop",
    "nbd",
    "zram",
    "null_blk",
    "brd",
];

/// The sources of pressure on a disk of ours, with what is asked for when no
/// value is named, and the option of `ublk-ramdisk add` that asks for it.
pub const PRESSURES: [(&str, &str, &str); 5] = [
    ("slots", "32", "--slots="),
    ("mbps", "64", "--mbps="),
    ("psi", "memory:50", "--psi="),
    ("memory", "192M", "--memory-limit="),
    ("requeue", "10,100,0,-1", "--inject=requeue="),
];

/// One who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// One of [`OURS`], one of [`RIVALS`], or the name of a disk that is there.
    pub base: String,
    /// Source of pressure and value.
    pub pressure: Option<(String, String)>,
    /// The node of a disk that is there already.
    pub node: Option<String>,
}

impl Contender {
    /// Is it our RAM disk, whose own counters can be asked?
    pub fn is_ours(&self) -> bool {
        self.node.is_none() && OURS.contains(&self.base.as_str())
    }

    /// The option that puts the disk under pressure, as `ublk-ramdisk add` or, for
    /// null_blk, its `mbps` file takes it.
    pub fn option(&self) -> Option<String> {
        let (kind, value) = self.pressure.as_ref()?;
        if self.base == "null_blk" {
            return Some(format!("{kind}={value}"));
        }
        let (.., option) = PRESSURES.iter().find(|(name, ..)| name == kind)?;
        Some(format!("{option}{value}"))
    }
}

/// `batch`, `batch+slots`, `batch+slots=8`, `null_blk+mbps=64`, `fast:/dev/sdx`.
impl FromStr for Contender {
    type Err = BadMatrix;

    fn from_str(word: &str) -> Result<Self, BadMatrix> {
        if let Some((name, node)) = word.split_once(':').filter(|_| word.contains(":/")) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
                return bad(format!("contender '{word}': not like NAME:/dev/sdx"));
            }
            if OURS.contains(&name) || RIVALS.contains(&name) {
                return bad(format!("contender '{word}': the name {name} is taken"));
            }
            if node.contains(char::is_whitespace) {
                return bad(format!("contender '{word}': no spaces in the path"));
            }
            return Ok(Self {
                base: name.to_owned(),
                pressure: None,
                node: Some(node.to_owned()),
            });
        }
        let (base, pressure) = match word.split_once('+') {
            Some((base, pressure)) => (base, Some(pressure)),
            None => (word, None),
        };
        let ours = OURS.contains(&base);
        if !ours && !RIVALS.contains(&base) {
            return bad(format!(
                "contender '{word}': none of {} {}, one of the first four with +{}, or NAME:/dev/NODE",
                OURS.join(" "),
                RIVALS.join(" "),
                PRESSURES.map(|(name, ..)| name).join(" +"),
            ));
        }
        let pressure = match pressure {
            Some(text) => Some(pressure_of(word, text)?),
            None => None,
        };
        match &pressure {
            Some((kind, _)) if !ours && (base != "null_blk" || kind != "mbps") => bad(format!(
                "contender '{word}': only ours, and null_blk with mbps, can be put under pressure"
            )),
            _ => Ok(Self {
                base: base.to_owned(),
                pressure,
                node: None,
            }),
        }
    }
}

fn pressure_of(word: &str, text: &str) -> Result<(String, String), BadMatrix> {
    let (kind, value) = match text.split_once('=') {
        Some((kind, value)) => (kind, Some(value)),
        None => (text, None),
    };
    let Some((_, usual, _)) = PRESSURES.iter().find(|(name, ..)| *name == kind) else {
        return bad(format!(
            "contender '{word}': '{kind}' is none of {}",
            PRESSURES.map(|(name, ..)| name).join(" ")
        ));
    };
    let value = value.unwrap_or(usual);
    let plain = |c: char| c.is_ascii_alphanumeric() || ",.:-_".contains(c);
    if value.is_empty() || !value.chars().all(plain) {
        return bad(format!("contender '{word}': '{value}' is no value"));
    }
    Ok((kind.to_owned(), value.to_owned()))
}

/// As it is written again; a usual value is not said.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, &self.pressure) {
            (Some(node), _) => write!(f, "{}:{node}", self.base),
            (None, None) => f.write_str(&self.base),
            (None, Some((kind, value))) => {
                let usual = PRESSURES
                    .iter()
                    .any(|(name, usual, _)| name == kind && usual == value);
                match usual {
                    true => write!(f, "{}+{kind}", self.base),
                    false => write!(f, "{}+{kind}={value}", self.base),
                }
            }
        }
    }
}

impl Contender {
    /// The column's name and the folder's: without the node.
    pub fn name(&self) -> String {
        match &self.node {
            Some(_) => self.base.clone(),
            None => self.to_string(),
        }
    }
}

/// A list of them, in the order that the columns will have: a name once.
pub fn list(words: &str) -> Result<Vec<Contender>, BadMatrix> {
    let mut list: Vec<Contender> = Vec::new();
    for word in words.split([',', ' ']).filter(|word| !word.is_empty()) {
        // The commas of a value: `requeue=1,50,0,-1` continues with digits.
        if let (Some(last), true) = (list.last_mut(), continues(word)) {
            if let Some((_, value)) = last.pressure.as_mut() {
                value.push(',');
                value.push_str(word);
                continue;
            }
        }
        list.push(word.parse()?);
    }
    let mut once: Vec<Contender> = Vec::new();
    for contender in list {
        if !once.iter().any(|other| other.name() == contender.name()) {
            once.push(contender);
        }
    }
    if once.is_empty() {
        return bad("contenders: an empty list");
    }
    once.sort_by_key(column);
    Ok(once)
}

fn continues(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// Where the column stands: ours, ours under pressure, rivals, then the others.
fn column(contender: &Contender) -> (usize, usize, String) {
    let place = |names: &[&str]| names.iter().position(|name| *name == contender.base);
    match (&contender.node, &contender.pressure) {
        (Some(_), _) => (3, 0, contender.base.clone()),
        (None, pressure) => match (place(&OURS), pressure) {
            (Some(at), None) => (0, at, String::new()),
            (Some(at), Some(_)) => (1, at, contender.to_string()),
            (None, _) => (2, place(&RIVALS).unwrap_or(0), contender.to_string()),
        },
    }
}

/// Everybody, each source of pressure on the quickest data path.
pub fn everybody() -> Vec<Contender> {
    let plain = OURS.iter().chain(&RIVALS).map(|name| (*name).to_owned());
    let pressed = PRESSURES.iter().map(|(kind, ..)| format!("batch+{kind}"));
    let words: Vec<String> = plain.chain(pressed).collect();
    list(&words.join(" ")).expect("the names that there are")
}

/// Sorts the names of columns as [`list`] does; a name of an older run that is
/// not known any more comes last.
pub fn sort_names(names: &mut [String]) {
    names.sort_by_key(|name| match name.parse::<Contender>() {
        Ok(contender) => column(&contender),
        Err(_) => (4, 0, name.clone()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<String> {
        list(words).unwrap().iter().map(Contender::name).collect()
    }

    #[test]
    fn the_columns_have_one_order_whatever_was_asked_first() {
        assert_eq!(
            names("brd,batch+slots=8,libublk,batch,x:/dev/sdx,plain,batch"),
            ["plain", "batch", "batch+slots=8", "libublk", "brd", "x"]
        );
        let mut columns = ["mine", "brd", "batch+slots", "plain"].map(str::to_owned);
        sort_names(&mut columns);
        assert_eq!(columns, ["plain", "batch+slots", "brd", "mine"]);
    }

    #[test]
    fn pressure_has_a_usual_value_and_an_option() {
        let one = |word: &str| list(word).unwrap().remove(0);
        assert_eq!(one("batch+slots").option().unwrap(), "--slots=32");
        assert_eq!(one("plain+mbps=100").option().unwrap(), "--mbps=100");
        assert_eq!(one("null_blk+mbps=100").option().unwrap(), "mbps=100");
        let requeue = one("batch+requeue=2,100,0,-1");
        assert_eq!(requeue.option().unwrap(), "--inject=requeue=2,100,0,-1");
        assert_eq!(requeue.name(), "batch+requeue=2,100,0,-1");
        assert_eq!(one("batch+slots=32").name(), "batch+slots", "the usual");
        assert_eq!(one("batch").option(), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let all = everybody();
        let text: Vec<String> = all.iter().map(Contender::to_string).collect();
        assert_eq!(list(&text.join(" ")).unwrap(), all);
        assert!(all.len() >= 19);
        let node = "fast:/dev/disk/by-id/x";
        assert_eq!(list(node).unwrap()[0].to_string(), node);
        assert!(!list(node).unwrap()[0].is_ours());
    }

    #[test]
    fn a_name_that_is_none_is_refused_in_one_line() {
        for words in [
            "",
            ",",
            "bach",
            "batch+",
            "batch+slot",
            "batch+slots=",
            "batch+slots=a b",
            "brd+slots",
            "null_blk+slots",
            "batch:/dev/x",
            ":/dev/x",
            "../x:/dev/x",
            "a/b:/dev/x",
            "batch+slots=$(id)",
        ] {
            let complaint = list(words).unwrap_err().to_string();
            assert!(
                !complaint.contains('\n') && !complaint.is_empty(),
                "{words}"
            );
        }
    }
}
