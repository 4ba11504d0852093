// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contenders, by name: our data paths, ours under a source of pressure, the rivals, and disks
//! that are there already.
//!
//! A name says how its disk is made: `batch`, `batch+slots=8`, `null_blk+mbps=64`, `NAME:/dev/sdx`.
//! It is the name of the column in the tables and of the folder of samples.
//! [`crate::runner::disks`] makes the disk that belongs to a name; dropping the disk takes it away.

use std::fmt;
use std::str::FromStr;

use ublk_ramdisk::mq::Source;
use ublk_ramdisk::pressure::Injection;

use crate::matrix::{bad, BadMatrix};

/// Our data paths.
/// `buffer`: the driver copies to a buffer of the tag, and the server copies on: two copies per byte.
/// `user-copy`: the server moves the data with pread and pwrite on `/dev/ublkcN`: one copy.
/// `batch`: the same copy, and one io_uring command fetches or commits many requests (BATCH_IO).
pub const OURS: [&str; 3] = ["buffer", "user-copy", "batch"];

/// The rivals, in the order of the columns.
/// The first four are ublk servers too, the others block drivers of the kernel.
/// `rublk-loop` and `loop` keep their data in a file of a tmpfs.
pub const RIVALS: [&str; 9] = [
    "libublk-example",
    "libublk",
    "rublk-null",
    "rublk-loop",
    "loop",
    "nbd",
    "zram",
    "null_blk",
    "brd",
];

/// A source of pressure on a disk of ours.
pub struct Pressure {
    /// Its name behind the `+`.
    pub kind: &'static str,
    /// The value if none is named.
    /// A name leaves it out, so that the column of the usual run stays short.
    pub usual: &'static str,
    /// The source that its refusals are counted under.
    pub source: Source,
}

/// All of them, in the order of the columns.
/// `slots`: requests that the driver holds at once. `mbps`: MiB per second, as null_blk counts them.
/// `requeue`: interval, probability, space and times of the kernel's fault injection (-1: no end).
pub const PRESSURES: [Pressure; 3] = [
    pressure("slots", "8", Source::Slots),
    pressure("mbps", "64", Source::Bandwidth),
    pressure("requeue", "10,100,0,-1", Source::Injection),
];

/// A row of [`PRESSURES`].
const fn pressure(kind: &'static str, usual: &'static str, source: Source) -> Pressure {
    Pressure {
        kind,
        usual,
        source,
    }
}

/// The names of all sources of pressure.
/// Messages list them, so that a new row of the table needs no new text.
fn kinds() -> [&'static str; 3] {
    PRESSURES.map(|pressure| pressure.kind)
}

/// How long a request takes under `slots`. Without this a copy would end before the next
/// request is looked at, and there would never be two in flight.
const SERVICE: &str = "1ms";

/// One contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// One of [`OURS`], one of [`RIVALS`], or the name of a disk that is there.
    pub base: String,
    /// Source of pressure and value.
    pub pressure: Option<(String, String)>,
    /// The node of a disk that is there already.
    /// Its own data is overwritten: the fill comes before the first sample on this disk, too.
    pub node: Option<String>,
}

impl Contender {
    /// Is it our RAM disk, whose own counters can be asked?
    pub fn is_ours(&self) -> bool {
        self.node.is_none() && OURS.contains(&self.base.as_str())
    }

    /// The source of pressure on a disk of ours.
    pub fn pressure_of_ours(&self) -> Option<&'static Pressure> {
        let (kind, _) = self.pressure.as_ref().filter(|_| self.is_ours())?;
        PRESSURES.iter().find(|pressure| pressure.kind == kind)
    }

    /// What puts the disk under pressure: options of `ublk-ramdisk set`, or for
    /// null_blk, what its `mbps` file takes.
    pub fn options(&self) -> Vec<String> {
        let Some((kind, value)) = &self.pressure else {
            return Vec::new();
        };
        match kind.as_str() {
            _ if self.base == "null_blk" => vec![format!("{kind}={value}")],
            "slots" => vec![
                format!("--slots={value}"),
                format!("--inject=delay={SERVICE}"),
            ],
            "mbps" => vec![format!("--mbps={value}")],
            _ => vec![format!("--inject={kind}={value}")],
        }
    }

    /// Checks that the disk takes the value of the pressure.
    fn check(&self) -> Result<(), BadMatrix> {
        let Some((kind, value)) = &self.pressure else {
            return Ok(());
        };
        // Here and not in the guest: a wrong value would show only after a boot and a fill.
        let count = |text: &str| match text.parse::<u32>() {
            Ok(1..) => Ok(()),
            _ => Err("not a whole number from 1".to_owned()),
        };
        let checked = match kind.as_str() {
            "slots" | "mbps" => count(value),
            _ => match format!("requeue={value}").parse::<Injection>() {
                // `off` parses, too.
                Ok(Injection::Requeue(Some(_))) => Ok(()),
                Ok(_) => Err("that is no pressure".to_owned()),
                Err(why) => Err(why),
            },
        };
        match checked {
            Ok(()) => Ok(()),
            Err(why) => bad(format!("contender '{self}': {kind} '{value}': {why}")),
        }
    }
}

/// `batch`, `batch+slots`, `batch+slots=8`, `null_blk+mbps=64`, `fast:/dev/sdx`.
impl FromStr for Contender {
    type Err = BadMatrix;

    fn from_str(word: &str) -> Result<Self, BadMatrix> {
        if let Some((name, node)) = word.split_once(':') {
            // The name becomes a folder below `raw`: no slash, and nothing that leads out of it.
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
                "contender '{word}': none of {} {}, one of the first three with +{}, or NAME:/dev/NODE",
                OURS.join(" "),
                RIVALS.join(" "),
                kinds().join(" +"),
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

/// Reads what follows the `+` of a contender: a source, and a value or its usual one. A value
/// becomes a part of commands and of file names, so it has letters, digits and a few signs only.
fn pressure_of(word: &str, text: &str) -> Result<(String, String), BadMatrix> {
    let (kind, value) = match text.split_once('=') {
        Some((kind, value)) => (kind, Some(value)),
        None => (text, None),
    };
    let Some(known) = PRESSURES.iter().find(|known| known.kind == kind) else {
        return bad(format!(
            "contender '{word}': '{kind}' is none of {}",
            kinds().join(" ")
        ));
    };
    let value = value.unwrap_or(known.usual);
    let plain = |c: char| c.is_ascii_alphanumeric() || ",.:-_".contains(c);
    if value.is_empty() || !value.chars().all(plain) {
        return bad(format!("contender '{word}': '{value}' is no value"));
    }
    Ok((kind.to_owned(), value.to_owned()))
}

/// As it is typed; a usual value is left out.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.node, &self.pressure) {
            (Some(node), _) => write!(f, "{}:{node}", self.base),
            (None, None) => f.write_str(&self.base),
            (None, Some((kind, value))) => {
                let usual = PRESSURES
                    .iter()
                    .any(|known| known.kind == kind && known.usual == value);
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

/// Reads a list of contenders, separated by commas or spaces, into the order that the columns will
/// have. A name that is there twice is taken once.
///
/// Fails with one line on a name that is none, on a value that the disk would not take, and on an
/// empty list.
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
        contender.check()?;
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

/// True for a word that is the rest of a value with commas. No contender begins with a digit.
fn continues(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// Where the column stands: ours, ours under pressure, rivals, then the others.
fn column(contender: &Contender) -> (usize, usize, String) {
    // Compared from left to right: group, place in the group, name.
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

/// All contenders, each source of pressure on the quickest data path, and null_blk under a
/// limit of bandwidth.
/// What a run measures if no list is given. A program that is lacking makes its contender absent.
pub fn everybody() -> Vec<Contender> {
    let plain = OURS.iter().chain(&RIVALS).map(|name| (*name).to_owned());
    let pressed = kinds().map(|kind| format!("batch+{kind}"));
    let throttled = ["null_blk+mbps".to_owned()];
    let words: Vec<String> = plain.chain(pressed).chain(throttled).collect();
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
            names("brd,batch+slots=16,libublk,batch,x:/dev/sdx,buffer,batch"),
            ["buffer", "batch", "batch+slots=16", "libublk", "brd", "x"]
        );
        let mut columns = ["mine", "brd", "batch+slots", "buffer"].map(str::to_owned);
        sort_names(&mut columns);
        assert_eq!(columns, ["buffer", "batch+slots", "brd", "mine"]);
    }

    #[test]
    fn pressure_has_a_usual_value_and_options() {
        let one = |word: &str| list(word).unwrap().remove(0);
        for (word, options) in [
            ("batch", &[][..]),
            ("batch+slots", &["--slots=8", "--inject=delay=1ms"]),
            ("buffer+mbps=100", &["--mbps=100"]),
            ("null_blk+mbps=100", &["mbps=100"]),
            ("batch+requeue=2,100,0,-1", &["--inject=requeue=2,100,0,-1"]),
        ] {
            assert_eq!(one(word).options(), options, "{word}");
            assert_eq!(one(word).name(), word);
        }
        assert_eq!(one("batch+slots=8").name(), "batch+slots", "the usual");
        let known = one("batch+mbps").pressure_of_ours().unwrap();
        assert_eq!(known.source, Source::Bandwidth);
        assert!(one("null_blk+mbps").pressure_of_ours().is_none());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let all = everybody();
        let text: Vec<String> = all.iter().map(Contender::to_string).collect();
        assert_eq!(list(&text.join(" ")).unwrap(), all);
        assert!(all.len() >= 15);
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
            "batch+slots=0",
            "batch+mbps=-1",
            "null_blk+mbps=fast",
            "batch+psi",
            "batch+requeue=1,100,0,-1",
            "batch+requeue=10,100",
            "batch+requeue=off",
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
