// SPDX-License-Identifier: MIT OR Apache-2.0
//! K3: a trace as a page, in a browser: lanes and marks are there, and a click tells a request's story.

#[path = "common/browser.rs"]
mod browser;

use bench::study::sim;
use browser::{browser, open, skip, Scratch};
use std::fs;

/// Clicks a request that was refused, and says in the outer page's title what there is then.
const LOOK: &str = "<script>
const request = page.requests.find(one => one.busy > 0);
const lane = page.lanes.find(one => one.name.startsWith('requests'));
const canvas = document.getElementById('lanes'), box = canvas.getBoundingClientRect();
canvas.dispatchEvent(new MouseEvent('click', {
  clientX: box.left + (page.x(request.first) + page.x(request.last)) / 2,
  clientY: box.top + lane.top + request.row * page.rowHigh + 1, bubbles: true }));
const seen = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
const colors = new Set();
for (let at = 0; at < seen.length; at += 4) colors.add(seen.slice(at, at + 3).join());
const style = getComputedStyle(document.documentElement);
const drawn = ['listed', 'parked', 'flight', 'rescue', 'memory'].filter(name => {
  const hex = style.getPropertyValue('--' + name).trim();
  return colors.has([1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)).join());
});
parent.document.title = 'PAGE ' + [page.requests.length, drawn.join('+'),
  page.lanes.map(one => one.name).join(', '),
  document.documentElement.scrollWidth > innerWidth ? 'TOO-WIDE' : 'fits',
  document.getElementById('of').textContent,
  [...document.querySelectorAll('#story li')].map(one => one.textContent).join('; ')].join(' | ') + ' END';
</script>";

#[test]
fn k03_a_page_of_a_trace_shows_lanes_and_tells_a_story() {
    let Some(browser) = browser() else {
        let why = "no chromium here; scripts/test setup installs it";
        return skip("a trace in a browser", why);
    };
    let scratch = Scratch::new("trace");
    let at = |name: &str| scratch.0.join(name);
    let file = at("trace.html");
    let words = "--rw randrw --discard 10 --queues 4 --jobs 4 --iodepth 4 --ops 60 --slots 2 --service-time 1ms \
                 --at '0:fail-worker-creation on' --at '40ms:fail-worker-creation off' --html";
    sim::run(&format!("{words} {}", file.display())).expect("a page");
    let page = fs::read_to_string(&file)
        .expect("a page")
        .replace("</html>", &format!("{LOOK}</html>"));
    fs::write(at("desk.html"), &page).expect("written");
    // A window is at least 500 px wide, a frame may be as narrow as a phone.
    let quoted = page.replace('&', "&amp;").replace('"', "&quot;");
    let phone =
        format!("<iframe style='width: 390px; height: 800px' srcdoc=\"{quoted}\"></iframe>");
    fs::write(at("phone.html"), phone).expect("written");
    for name in ["desk", "phone"] {
        let words = ["--dump-dom".to_owned(), "--window-size=1280,900".to_owned()];
        let (dom, log) = open(
            &browser,
            &at(&format!("{name}.html")),
            &at("profile"),
            &words,
        );
        assert!(!log.contains("CONSOLE"), "{name}: {log}");
        let said = dom
            .split("PAGE ")
            .nth(1)
            .and_then(|rest| rest.split(" END").next());
        let parts: Vec<_> = said.expect("the script's words").split(" | ").collect();
        let [requests, drawn, lanes, fits, title, story] = parts[..] else {
            panic!("{name}: {parts:?}");
        };
        assert_eq!(
            (requests, drawn, fits),
            ("240", "listed+parked+flight+rescue+memory", "fits"),
            "{name}"
        );
        for lane in [
            "software queue",
            "dispatch list",
            "with the driver",
            "memory: at most",
            "(rescuer)",
        ] {
            assert!(lanes.contains(lane), "{name}: {lanes}");
        }
        assert!(
            title.starts_with("Request ") && title.contains("hctx 0"),
            "{name}: {title}"
        );
        let told = [
            "arrives: ",
            "BUSY: ",
            "waits on the dispatch list",
            "next try",
            "to the kernel",
        ];
        let places = told.map(|words| {
            story
                .find(words)
                .unwrap_or_else(|| panic!("{name}: {words} {story}"))
        });
        assert!(places.is_sorted(), "{name}: {story}");
    }
}
