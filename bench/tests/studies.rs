// SPDX-License-Identifier: MIT OR Apache-2.0
//! The studies in virtual time repeat to the last byte, and their report is what a browser shows.
//!
//! `scripts/test report` names the folder of a run that also has what is measured (`STUDY_RUN`), which is shown instead,
//! and where to leave the screenshots (`STUDY_SHOTS`).

#[path = "common/browser.rs"]
mod browser;

use bench::page;
use bench::study::device::raw::Raw;
use bench::study::device::Bed;
use bench::study::outcome::Kind;
use bench::study::{Study, ALL};
use browser::{browser, open, skip, Scratch};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn study(id: &str) -> &'static Study {
    ALL.iter().find(|study| study.id == id).unwrap()
}

fn study_command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_study"));
    command.args(arguments).arg(folder);
    command
}

fn results(folder: &Path) -> Vec<(String, String)> {
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let files = files.filter(|f| f.extension().is_some_and(|e| e == "json" || e == "csv"));
    let mut all: Vec<_> = files
        .map(|f| {
            (
                f.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read_to_string(&f).unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn studies_in_virtual_time_repeat_byte_for_byte_and_show_in_a_browser() {
    // These have no part in process.
    let elsewhere = ALL.iter().filter(|study| ["i", "k"].contains(&study.id));
    let pictures = ALL.len() - elsewhere.count();
    if let Some(run) = std::env::var_os("STUDY_RUN").map(PathBuf::from) {
        return shown_in_a_browser(&run.join("report.html"), pictures);
    }
    let (first, second) = (Scratch::new("first"), Scratch::new("second"));
    // Both at once: neither sees the time.
    let running = [&first, &second].map(|folder| {
        let mut command = study_command(&["--deterministic", "--quick"], &folder.0);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for child in running {
        let ran = child.wait_with_output().unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    let (one, other) = (results(&first.0), results(&second.0));
    assert!(one.iter().any(|(name, _)| name == "study-f.json"));
    let names =
        |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (a, b) in one.iter().zip(&other) {
        if a.1 != b.1 {
            let at =
                a.1.bytes()
                    .zip(b.1.bytes())
                    .take_while(|(x, y)| x == y)
                    .count();
            let near =
                |text: &str| text[at.saturating_sub(80)..(at + 40).min(text.len())].to_owned();
            panic!("{} differs:\n{}\n{}", a.0, near(&a.1), near(&b.1));
        }
    }
    let page = first.0.join("report.html");
    assert_eq!(
        fs::read_to_string(&page).unwrap(),
        fs::read_to_string(second.0.join("report.html")).unwrap()
    );
    shown_in_a_browser(&page, pictures);
}

#[test]
fn an_unknown_study_is_an_error_that_names_the_known_ones() {
    let scratch = Scratch::new("unknown");
    let ran = study_command(&["--only", "f,zz"], &scratch.0)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        !ran.status.success() && text.contains("zz") && text.contains("there is: "),
        "{text}"
    );
    assert!(results(&scratch.0).is_empty());
}

/// Says in the page's title how high the page is, where its findings end, and how large each figure came out.
const LOOK: &str = "<script>
const high = document.documentElement.scrollHeight;
const findings = document.querySelector('.findings');
const bottom = Math.round(findings.getBoundingClientRect().bottom);
document.querySelectorAll('details').forEach(d => d.open = true);
const sizes = [...document.querySelectorAll('figure')].map(f => {
  const seen = [...f.querySelectorAll('svg')].filter(s => s.getClientRects().length > 0);
  const box = seen.length === 1 ? seen[0].getBBox() : {width: 0, height: 0};
  const shapes = seen.length === 1 ? seen[0].querySelectorAll('polyline,rect,circle,polygon').length : 0;
  const wide = document.documentElement.scrollWidth > window.innerWidth ? 'TOO-WIDE' : 'fits';
  const label = seen.length === 1 ? seen[0].closest('[role=img]').getAttribute('aria-label') : '';
  return [f.id, Math.round(box.width), Math.round(box.height), shapes, label.length > 20 ? 'named' : 'NAMELESS', wide,
    f.querySelectorAll('tbody tr').length].join(' ');
});
const shown = findings.querySelectorAll('svg').length;
document.title = 'PAGE ' + [high, bottom, shown].join(' ') + ' FIGURES ' + sizes.join('; ') + ' END';
</script>";

fn shown_in_a_browser(report: &Path, findings: usize) {
    let Some(browser) = browser() else {
        return skip(
            "the report in a browser",
            "no chromium here; scripts/test setup installs it",
        );
    };
    let scratch = Scratch::new("browser");
    let at = |name: &str| scratch.0.join(name);
    let html = fs::read_to_string(report).unwrap();
    let expected: Vec<&str> = html
        .split("<figure id=\"")
        .skip(1)
        .map(|t| t.split('"').next().unwrap())
        .collect();
    assert!(expected.len() >= 4, "{expected:?}");
    fs::write(
        at("looking.html"),
        html.replace("</main>", &format!("</main>{LOOK}")),
    )
    .unwrap();
    fs::write(
        at("bad.html"),
        "<script>console.error('as expected')</script>",
    )
    .unwrap();
    // What a browser says of a page that is in order must mean something.
    let (_, log) = open(
        &browser,
        &at("bad.html"),
        &at("profile"),
        &["--dump-dom".into()],
    );
    assert!(
        log.contains("CONSOLE") && log.contains("as expected"),
        "{log}"
    );
    let shots = std::env::var_os("STUDY_SHOTS").map_or_else(|| at("shots"), PathBuf::from);
    fs::create_dir_all(&shots).unwrap();
    for (name, size) in [("desk", "1280,900"), ("phone", "500,4000")] {
        let size = format!("--window-size={size}");
        let (dom, log) = open(
            &browser,
            &at("looking.html"),
            &at("profile"),
            &["--dump-dom".into(), size.clone()],
        );
        assert!(!log.contains("CONSOLE"), "{log}");
        let title = dom
            .split("FIGURES ")
            .nth(1)
            .and_then(|t| t.split(" END").next())
            .unwrap();
        let page = dom.split("PAGE ").nth(1).unwrap();
        let page: Vec<u32> = page
            .split(' ')
            .take(3)
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!(page[2], findings as u32, "a picture for each finding");
        if name == "desk" {
            assert!(page[0] < 10_000, "the page is {} px high", page[0]);
            assert!(page[1] < 900, "the findings end at {} px", page[1]);
        }
        let seen: Vec<Vec<&str>> = title.split("; ").map(|f| f.split(' ').collect()).collect();
        assert_eq!(seen.iter().map(|f| f[0]).collect::<Vec<_>>(), expected);
        for figure in &seen {
            let number = |n: usize| figure[n].parse::<u32>().unwrap();
            assert!(
                number(1) > 200 && number(2) > 60 && number(3) > 2,
                "{name}: {figure:?}"
            );
            assert_eq!(
                (figure[4], figure[5]),
                ("named", "fits"),
                "{name}: {figure:?}"
            );
            assert!(number(6) >= 1, "{name}: no table: {figure:?}");
        }
        let shot = shots.join(format!("report-{name}.png"));
        open(
            &browser,
            report,
            &at("profile"),
            &[format!("--screenshot={}", shot.display()), size],
        );
        assert!(fs::metadata(&shot).unwrap().len() > 20_000);
    }
}

/// What a guest left of a study, without what is not read.
fn left(study: &str, kept: &str) -> Scratch {
    let scratch = Scratch::new(&format!("guest-{study}"));
    let kept: BTreeMap<String, serde_json::Value> = serde_json::from_str(kept).unwrap();
    for (name, experiment) in &kept {
        let path = scratch.0.join(format!("{name}.json"));
        fs::write(path, experiment.to_string()).unwrap();
    }
    scratch
}

/// It becomes figures that can be drawn and measures that decide all predictions about the device.
#[test]
fn what_a_guest_left_decides_what_was_predicted_of_it() {
    for (id, kept) in [
        ("a", include_str!("device/a.json")),
        ("b", include_str!("device/b.json")),
        ("d", include_str!("device/d.json")),
        ("e", include_str!("device/e.json")),
        ("g", include_str!("device/g.json")),
        ("h", include_str!("device/h.json")),
    ] {
        let scratch = left(id, kept);
        let raw = Raw(scratch.0.clone());
        let part = study(id).read(&raw, Bed::Icount).unwrap();
        let predictions = study(id).plan().unwrap().predictions;
        let of_device = predictions
            .iter()
            .filter(|p| p.measure.starts_with("device: "));
        for prediction in of_device {
            let found = part.measures.iter().find(|m| m.name == prediction.measure);
            let found = found.unwrap_or_else(|| panic!("{id}: {}", prediction.measure));
            assert!(found.value.is_finite(), "{id}: {}", found.name);
        }
        assert!(!part.finding.contains('–'), "{}", part.finding);
        for figure in &part.figures {
            let picture = page::draw(&figure.plot, page::NARROW);
            assert!(!picture.contains("NaN"), "{id}: {}", figure.id);
            assert!(!figure.table.rows.is_empty(), "{id}: {}", figure.id);
        }
    }
}

/// Some values of a, and where an experiment is missing that is said.
#[test]
fn what_a_guest_left_becomes_a_part_with_its_bed() {
    let scratch = left("a-alone", include_str!("device/a.json"));
    let raw = Raw(scratch.0.clone());
    let part = study("a").read(&raw, Bed::Icount).unwrap();
    assert_eq!(part.kind, Kind::Counted);
    let value = |name: &str| {
        let found = part
            .measures
            .iter()
            .find(|m| m.name == format!("device: {name}"));
        found.unwrap_or_else(|| panic!("{name}")).value
    };
    assert!((0.9..=1.0).contains(&value("throughput, of what the slots allow, 1 of 32 slots")));
    assert!((0.95..=1.05).contains(&value("ours over null_blk, rate, 4k")));
    assert!((0.92..=0.96).contains(&value("null_blk, rate of the limit, 64k")));
    assert!(value("CPU per I/O, 90 % refused") > 2.0 * value("CPU per I/O, 0 % refused"));
    assert_eq!(part.figures.len(), 4);
    for figure in &part.figures {
        let picture = page::draw(&figure.plot, page::NARROW);
        assert!(picture.contains("<polyline"), "{}", figure.id);
        assert!(!figure.table.rows.is_empty(), "{}", figure.id);
    }
    fs::remove_file(scratch.0.join("slots-4.json")).unwrap();
    let missing = study("a").read(&raw, Bed::Icount);
    assert!(missing
        .unwrap_err()
        .to_string()
        .contains("slots-4 was not made"));
}
