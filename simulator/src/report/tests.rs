//! The verdict, and whole runs as they are shown: bounds, escaping, shapes.

use super::*;

#[test]
fn vacuous_is_no_pass_and_fail_outweighs_it() {
    check_verdict(&[("I1", Status::Pass), ("I2", Status::Vacuous)], &["I1"], Status::Pass);
    check_verdict(&[("I1", Status::Pass), ("I2", Status::Vacuous)], &["I1", "I2"], Status::Vacuous);
    check_verdict(&[("I1", Status::Fail), ("I2", Status::Vacuous)], &["I2"], Status::Fail);
    check_verdict(&[("I1", Status::Fail)], &[], Status::Fail);
}

#[track_caller]
fn check_verdict(properties: &[(&'static str, Status)], require: &[&str], expected: Status) {
    let property = |(id, status): &(&'static str, Status)| Property { id, status: *status, checked: 1, witness: None };
    let report = Report {
        properties: properties.iter().map(property).collect(),
        require: require.iter().map(|id| (*id).to_owned()).collect(),
        ..empty("x", 1)
    };
    assert_eq!(report.verdict(), expected);
    let idle = Report { idle: vec!["suspend".into()], ..report };
    assert_eq!(idle.verdict(), if expected == Status::Fail { Status::Fail } else { Status::Vacuous });
}

mod shown {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use crate::case::Case;
    use crate::complete::{cannot_run, check_needs_a_tool};
    use crate::event::Event;
    use crate::plan::Plan;
    use crate::report::marks::marks;
    use crate::report::record::Recorder;
    use crate::report::shown::{Shown, Small, Source};
    use crate::report::{html, junit, lanes, perfetto, Status};
    use crate::scenario::Scenario;
    use crate::shrink::{self, Shrunk, Size};

    /// A name that would end the page's script and begin another, had it the chance.
    const EVIL: &str = "x</script><script>document.title='taken'</script><img src=x onerror=alert(1)>&\"'";

    fn small(name: &str) -> Shown {
        let text = format!(
            "schema = 1\nname = {}\nabout = \"x\"\nseed = 4\nduration = \"70m\"\nheal = \"45m\"\nrequire = [\"I1\"]\n\
            [fleet]\ndevices = 2\nhead_every = \"5m\"\n[workload]\nbegin_every = \"3m\"\nauthorize_every = \"30s\"\n\
            [[fault]]\ndo = \"link.down\"\nat = \"12m\"\nfor = \"10m\"\n\
            [[fault]]\ndo = \"power.cut\"\nat = \"8m\"\nfor = \"20s\"\nboundary = \"now\"\nwho = \"1\"\n\
            [[fault]]\ndo = \"revoke\"\nwhat = \"task\"\nat = \"14m\"\nwho = \"0\"\n\
            [[fault]]\ndo = \"broker.restart\"\nat = \"30m\"\nfor = \"1m\"\n",
            toml::Value::from(name)
        );
        let scenario = Scenario::parse(&text).unwrap();
        Shown::run((&scenario, &scenario.profile.name), &Plan::new(&scenario, 4), 4, None, |_| ())
    }

    /// The same, as if two properties had been broken.
    fn broken(name: &str) -> Shown {
        let mut shown = small(name);
        let witness = |text: &str| Some(format!("at 0d00:20:00.000: {text}"));
        for property in &mut shown.report.properties {
            if property.id == "I4" || property.id == "live" {
                property.status = Status::Fail;
                property.witness = witness(&format!("gw-1 allowed gw-1/2/7 of {name}"));
            }
        }
        shown
    }

    fn source(shown: &Shown) -> Source {
        let name = &shown.scenario.name;
        Source { about: name.clone(), text: format!("# {name}"), command: format!("hardtack-sim report {name}") }
    }

    #[test]
    fn a_run_that_is_watched_is_the_same_run() {
        let shown = small("x");
        let scenario = &shown.scenario;
        let plain = crate::run(scenario, 4, None);
        assert_eq!(plain, shown.report);
        assert_eq!(plain.verdict(), Status::Pass, "{:#?}", plain.properties);
    }

    #[test]
    fn lanes_and_answers_say_what_happened() {
        let shown = small("x");
        let (recording, answers) = (&shown.recording, &shown.report.answers);
        let decisions = recording.lanes.iter().flat_map(|lane| lane.allowed.iter().chain(&lane.denied));
        assert_eq!(decisions.map(|count| u64::from(*count)).sum::<u64>(), answers.allowed + answers.denied);
        assert_eq!(
            answers.allowed + answers.denied,
            recording.curves.allowed.iter().chain(&recording.curves.denied).sum::<u64>()
        );
        assert_eq!(recording.revocations.len(), 1);
        let minute = |number: usize| number * crate::report::record::CURVE_BINS as usize / 70;
        assert_eq!(recording.curves.current[minute(13)], 2000, "everybody holds the newest before the first");
        assert_eq!(recording.curves.current[minute(18)], 0, "nobody hears of it while the link is down");
        assert_eq!(*recording.curves.current.last().unwrap(), 2000);
        assert!(recording.curves.backlog[minute(20)] > recording.curves.backlog[minute(11)]);
        let latency = answers.revocation_latency.unwrap();
        assert_eq!(latency.count, 2);
        assert!(latency.p50_ms > 8 * 60_000 && latency.max_ms < 12 * 60_000, "{latency:?}");
        assert!(answers.exposure_ms > 0 && answers.exposure_ms < 12 * 60_000, "{answers:?}");
        assert!(
            answers.uplink_bytes > 0 && answers.flash_bytes > 0 && answers.peak_reconnects.is_some(),
            "{answers:?}"
        );
        let burned = answers.burned.unwrap();
        assert!(burned.most_uses <= burned.uses && burned.uses <= answers.allowed, "{burned:?}");
        assert!((8 * 60_000..20 * 60_000).contains(&burned.longest_alone_ms), "{burned:?}");
        // Which gateway is without power when.
        let off = |number: usize| recording.lanes[number].state.iter().filter(|(at, _)| *at > 60_000).count();
        assert!(off(1) > off(0));
    }

    #[test]
    fn nothing_from_a_scenario_or_a_trace_becomes_markup() {
        let shown = broken(EVIL);
        let page = html::page(&source(&shown), &[shown], None);
        let lower = page.to_lowercase();
        let count = |what: &str| lower.matches(what).count();
        assert_eq!((count("<script"), count("</script>"), count("<img")), (2, 2, 0));
        assert!(!lower.contains("http://") && !lower.contains("https://") && !lower.contains("//cdn"), "no network");
        assert!(!lower.contains("<link") && !lower.contains("@import") && !lower.contains("url("), "no file beside it");
        assert!(page.contains("&lt;/script&gt;"));
    }

    #[test]
    fn a_page_says_what_broke_and_what_was_never_tried() {
        let shown = broken("x");
        let page = html::page(&source(&shown), &[shown, small("x")], None);
        for due in [
            "Your fleet broke 2 promises",
            "A device allowed what it knew to be revoked.",
            "data-at=\"12000\" data-side=\"0\" data-gateway=\"1\"",
            "That is no pass.",
            "What if: two profiles, one plan",
            "At 12 min: the link is down, for 10 min — on every gateway",
        ] {
            assert!(page.contains(due), "{due}");
        }
        let json = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        let data: Value = serde_json::from_str(json).unwrap();
        assert_eq!(data["sides"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_page_tells_the_smallest_plan_that_breaks_the_same() {
        let name = toml::Value::from(EVIL);
        let text = format!(
            "schema = 1\nname = {name}\nabout = \"x\"\nseed = 4\nduration = \"70m\"\nheal = \"45m\"\nrequire = []\n\
            [[fault]]\ndo = \"link.down\"\nat = \"12m\"\nfor = \"10m\"\nwho = \"1\"\n"
        );
        let case = Case::parse(&text, None).unwrap();
        let shown = broken("x");
        let breach = shown.report.breach("I4").unwrap();
        let from = shrink::size(&case);
        let to = Size { faults: 1, requests: 2, devices: 1, duration: 4_200_000 };
        let found = Shrunk { case, breach, from, to, runs: 1234, minimal: true };
        let story = found.story();
        assert!((3..=9).contains(&story.len()), "nothing breaks in this one, so no line says how: {story:?}");
        let story = [story, vec![format!("{:>12}  at 0d00:20:00.000: gw-1 allowed {EVIL}", "I4")]].concat();
        let small = Small { found, story, command: "hardtack-sim report x.minimal.toml".into() };
        let page = html::page(&source(&shown), &[shown], Some(&small));
        for due in [
            "The smallest plan that breaks it",
            "1,234 times",
            "<b>1 fault, 2 requests, 1 gateway, 1h10m</b>",
            "Nothing more can be left out.",
            "<li class=\"end\"><span>I4</span> at 0d00:20:00.000: gw-1 allowed x&lt;/script&gt;",
            "<code>hardtack-sim report x.minimal.toml</code>",
            "[[act]]",
        ] {
            assert!(page.contains(due), "{due}");
        }
        assert_eq!(page.to_lowercase().matches("<script").count(), 2, "nothing in it becomes markup");
    }

    #[test]
    fn two_hundred_gateways_and_a_restless_week_stay_below_two_megabytes() {
        const MINUTE: u64 = 60_000;
        let text = "schema = 1\nname = \"week\"\nabout = \"x\"\nseed = 1\nduration = \"7d\"\nheal = \"6d\"\nrequire = []\n\
            [fleet]\ndevices = 200\n[workload]\nauthorize_every = \"1d\"\nbegin_every = \"1d\"\n\
            [[fault]]\ndo = \"link.down\"\nat = \"1h\"\nevery = \"10m\"\nuntil = \"5d\"\njitter = \"5m\"\nfor = \"3m\"\n\
            [[fault]]\ndo = \"clock.step\"\nat = \"1h\"\nevery = \"10m\"\nuntil = \"5d\"\nby = \"+1h\"\n";
        let scenario = Scenario::parse(text).unwrap();
        let plan = Plan::new(&scenario, 1);
        let shown = || {
            let mut recorder = Recorder::new(&scenario);
            for at in (0..scenario.duration).step_by(5 * MINUTE as usize) {
                for device in 0..200 {
                    let odd = (at / MINUTE / 5) % 2 == 1;
                    recorder.take(at, &Event::PowerOn { device });
                    recorder.take(at, &Event::AgentStarted { device, start: 1 });
                    recorder.take(
                        at + u64::from(device),
                        &Event::Mode { device, mode: if odd { "online" } else { "stale" } },
                    );
                    recorder.take(at + u64::from(device), &Event::Link { device, up: odd, down: true });
                    let (allow, reason) = if odd { (true, "allowed") } else { (false, "no_right") };
                    recorder.take(at + 99, &Event::Decided { device, allow, reason, revoked: true, era: 1, index: at });
                }
            }
            Shown {
                label: "a".into(),
                scenario: scenario.clone(),
                report: crate::report::empty("week", 1),
                recording: recorder.finish(),
                marks: marks(&scenario, &plan),
            }
        };
        let page = html::page(&Source::default(), &[shown(), shown()], None);
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        assert!(page.len() > 300_000, "{} bytes: there is something in it", page.len());
    }

    #[test]
    fn junit_is_well_formed_and_counts_what_it_holds() {
        for (shown, failures) in [(broken(EVIL), 2), (small("a\u{0}b"), 0)] {
            let xml = junit::suite(&shown.report, 1.5);
            let elements = xml_elements(&xml);
            let of = |name: &str| elements.iter().filter(|(of, _)| of == name).collect::<Vec<_>>();
            let suite = &of("testsuite")[0].1;
            assert_eq!(suite["name"], shown.scenario.name.replace('\u{0}', "\u{fffd}"));
            assert_eq!(suite["tests"], of("testcase").len().to_string());
            assert_eq!(of("testcase").len(), shown.report.properties.len() + 1);
            assert_eq!((suite["failures"].clone(), of("failure").len()), (failures.to_string(), failures));
            assert_eq!(suite["skipped"], of("skipped").len().to_string());
            assert!(of("skipped").iter().all(|(_, attributes)| attributes["message"].contains("vacuous")));
        }
        let mut untried = small("x");
        untried.report.require.push("detected".into());
        assert!(junit::suite(&untried.report, 0.0).contains("required and never tried: detected"));
    }

    /// The elements of an XML text with their attributes, in order.
    ///
    /// # Panics
    /// When it is not well-formed: tags that do not match, attributes without quotes or doubled, a bare `<` or `&`, or a
    /// character that XML 1.0 does not have.
    fn xml_elements(xml: &str) -> Vec<(String, BTreeMap<String, String>)> {
        let (mut elements, mut open) = (Vec::new(), Vec::<String>::new());
        let mut rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").expect("a declaration");
        assert!(xml.chars().all(|c| c >= ' ' || matches!(c, '\n' | '\t' | '\r')), "a control character");
        while let Some(at) = rest.find('<') {
            assert!(!open.is_empty() || rest[..at].trim().is_empty(), "text outside of the root");
            unescape(&rest[..at]);
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "the innermost element ends first");
                continue;
            }
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let mut found = BTreeMap::new();
            while !attributes.trim().is_empty() {
                let (key, value) = attributes.split_once("=\"").expect("an attribute is quoted");
                let (value, more) = value.split_once('"').expect("and its quote ends");
                assert!(found.insert(key.trim().to_owned(), unescape(value)).is_none(), "one {key} is enough");
                attributes = more;
            }
            elements.push((name.to_owned(), found));
            if !closed {
                open.push(name.to_owned());
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "everything ends");
        elements
    }

    fn unescape(text: &str) -> String {
        assert!(!text.contains('<'));
        let mut parts = text.split('&');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (entity, after) = part.split_once(';').expect("an entity ends");
            plain.push_str(match entity {
                "amp" => "&",
                "lt" => "<",
                "gt" => ">",
                "quot" => "\"",
                "#39" => "'",
                other => panic!("{other} is no entity"),
            });
            plain.push_str(after);
        }
        plain
    }

    #[test]
    fn perfetto_can_open_it() {
        let shown = small(EVIL);
        let trace: Value = serde_json::from_str(&perfetto::trace(&shown)).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let mut open: BTreeMap<u64, &str> = BTreeMap::new();
        let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
        for event in events {
            let phase = event["ph"].as_str().unwrap();
            *phases.entry(phase).or_default() += 1;
            assert!(event["name"].is_string() && event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
            let (id, name) = (event["id"].as_u64(), event["name"].as_str().unwrap());
            match phase {
                "M" => assert!(event["args"]["name"].is_string(), "{event}"),
                "X" => assert!(event["ts"].is_u64() && event["dur"].is_u64(), "{event}"),
                "i" => assert!(event["ts"].is_u64() && ["t", "g"].contains(&event["s"].as_str().unwrap()), "{event}"),
                "C" => assert!(event["args"].as_object().unwrap().values().all(Value::is_number), "{event}"),
                "b" => assert!(open.insert(id.unwrap(), name).is_none() && event["cat"].is_string(), "{event}"),
                "e" => assert_eq!(open.remove(&id.unwrap()), Some(name), "{event}"),
                other => panic!("{other} is no phase that this program writes"),
            }
        }
        assert!(open.is_empty(), "what begins ends: {open:?}");
        assert!(["M", "X", "i", "C", "b", "e"].iter().all(|phase| phases.contains_key(phase)), "{phases:?}");
        // Stretches of one thread follow each other.
        let mut ends: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for event in events.iter().filter(|event| event["ph"] == "X") {
            let of = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            let (at, lasts) = (event["ts"].as_u64().unwrap(), event["dur"].as_u64().unwrap());
            assert!(ends.insert(of, at + lasts).is_none_or(|end| end <= at), "{event}");
        }
    }

    #[test]
    fn lanes_of_characters_keep_their_width_and_show_the_outage() {
        let shown = broken("x");
        let text = lanes::text(&shown, 80);
        let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(
            text.lines().take_while(|line| !line.starts_with('━')).skip(3).all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(row("gw-1").contains('━') && row("  link").contains('#') && row("broker").contains('▒'), "{text}");
        assert!(text.contains("I4: at 0d00:20:00.000"), "{text}");
    }

    #[test]
    fn a_complete_run_fails_where_there_is_no_browser() {
        check_needs_a_tool("report::tests::shown::a_browser_draws_it");
    }

    /// Only where a Chromium is installed: the page runs, draws, and goes where a witness points.
    #[test]
    fn a_browser_draws_it() {
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
            std::process::Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
        });
        let Some(browser) = found else {
            return cannot_run("no Chromium here: `apt-get install chromium` to try the report in a browser");
        };
        let shown = broken(EVIL);
        let page = html::page(&source(&shown), &[shown, small(EVIL)], None);
        // What a person would do, and what came of it, left in the title.
        let probe = "<script>const box = document.getElementById('lanes'); document.querySelector('.jump').click(); \
            for (const key of ['+', 'n']) box.dispatchEvent(new KeyboardEvent('keydown', { key })); \
            const painted = [...document.querySelectorAll('#curves canvas, #lanes canvas')].filter((canvas) => \
            canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte > 0)).length; \
            document.body.dataset.probe = [painted, document.getElementById('range').textContent, \
            document.getElementById('said').textContent, document.title.length].join('|');</script></body>";
        let folder = std::env::temp_dir().join(format!("hardtack-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("page.html");
        std::fs::write(&file, page.replace("</body>", probe)).unwrap();
        let output = std::process::Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1800"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg("--dump-dom")
            .arg(format!("file://{}", file.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout);
        let said =
            dom.split("data-probe=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned();
        std::fs::remove_dir_all(&folder).unwrap();
        let parts: Vec<&str> = said.split('|').collect();
        assert_eq!(parts.len(), 4, "the page ran to its end: {said:?} {}", String::from_utf8_lossy(&output.stderr));
        assert!(parts[0].parse::<u32>().unwrap() >= 11, "five curves a side and the lanes: {said:?}");
        assert!(parts[1].contains(" to "), "a part of the run: {said:?}");
        assert!(parts[2].starts_with("gw-1 at 00:2"), "what happens next to the gateway of the witness: {said:?}");
        assert!(parts[3].parse::<u32>().unwrap() > 40, "nobody took the title: {said:?}");
    }
}
