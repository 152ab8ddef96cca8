//! The score of a run: reading it from what the tool prints, writing it down, comparing it with an older one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and every assertion held.
    Pass,
    /// An assertion did not hold.
    Fail,
    /// It found that the target has not got what it tests.
    Skip,
    /// It began and never ended: the tool crashed or hung.
    Unfinished,
}

impl Outcome {
    const ALL: [(Self, &str); 4] =
        [(Self::Pass, "pass"), (Self::Fail, "FAIL"), (Self::Skip, "skip"), (Self::Unfinished, "UNFINISHED")];

    /// Of the same test on two units: what is worst, and passed rather than skipped.
    fn and(self, other: Self) -> Self {
        let rank = |outcome| match outcome {
            Self::Skip => 0,
            Self::Pass => 1,
            Self::Fail => 2,
            Self::Unfinished => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, word)| word)
    }
}

/// Reads the outcomes, in order, from what the tool printed about one suite.
///
/// A test begins at `Test: NAME ...`. The next thing that begins a line, or follows on that one, and is `passed` or
/// `FAILED` is its outcome; what the test says before that ends with its line, what cleaning up says may follow.
pub(crate) fn parse_run(text: &str) -> Vec<(String, Outcome)> {
    let mut tests: Vec<(String, Outcome)> = Vec::new();
    let mut skipped = false;
    for line in text.lines() {
        let mut said = line.trim();
        if let Some((name, rest)) = said.strip_prefix("Test: ").and_then(|rest| rest.split_once(" ...")) {
            tests.push((name.to_string(), Outcome::Unfinished));
            skipped = false;
            said = rest.trim();
        } else if line.starts_with("Run Summary") {
            break;
        }
        let Some((_, outcome)) = tests.last_mut().filter(|(_, outcome)| *outcome == Outcome::Unfinished)
        else {
            continue;
        };
        skipped |= said.contains("[SKIPPED]");
        if said.starts_with("FAILED") {
            *outcome = Outcome::Fail;
        } else if said.starts_with("passed") {
            *outcome = if skipped { Outcome::Skip } else { Outcome::Pass };
        }
    }
    tests
}

/// The outcomes of all suites, in the tool's order.
#[derive(Debug, Default)]
pub(crate) struct Score(Vec<(String, Vec<(String, Outcome)>)>);

impl Score {
    /// Takes up the outcomes of one suite on one more unit.
    pub(crate) fn add(&mut self, suite: &str, tests: &[(String, Outcome)]) {
        let place = self.0.iter().position(|(known, _)| known == suite).unwrap_or_else(|| {
            self.0.push((suite.to_string(), Vec::new()));
            self.0.len() - 1
        });
        let known = &mut self.0[place].1;
        for (test, outcome) in tests {
            match known.iter_mut().find(|(name, _)| name == test) {
                Some((_, before)) => *before = before.and(*outcome),
                None => known.push((test.clone(), *outcome)),
            }
        }
    }

    /// How many ended so, in all suites.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.count_in(|_| true, outcome)
    }

    /// How many ended so, in some suites.
    pub(crate) fn count_in(&self, is_one: impl Fn(&str) -> bool, outcome: Outcome) -> usize {
        let suites = self.0.iter().filter(|(suite, _)| is_one(suite));
        suites.map(|(_, tests)| count(tests, outcome)).sum()
    }

    /// The totals on a line.
    pub(crate) fn summary(&self) -> String {
        let [pass, fail, skip, unfinished] = Outcome::ALL.map(|(outcome, _)| self.count(outcome));
        format!("pass {pass}  fail {fail}  skip {skip}  unfinished {unfinished}")
    }

    /// The score as it is kept: the totals in a comment, then a line a test.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# The image on q35 before iscsi-test-cu; made by CORBEL_SCORE=update, compared with by every run of the tests.\n\
             # {}\n",
            self.summary()
        );
        for (suite, tests) in &self.0 {
            for (test, outcome) in tests {
                let _ = writeln!(text, "{suite}.{test} {}", outcome.word());
            }
        }
        text
    }

    /// Reads a score that was kept.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut score = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let parsed = line.split_once(' ').and_then(|(name, word)| {
                let (outcome, _) = Outcome::ALL.iter().find(|(_, known)| *known == word)?;
                Some((name.split_once('.')?, *outcome))
            });
            let ((suite, test), outcome) = parsed.ok_or_else(|| format!("not a line of a score: {line}"))?;
            score.add(suite, &[(test.to_string(), outcome)]);
        }
        Ok(score)
    }

    fn by_name(&self) -> BTreeMap<String, Outcome> {
        let tests = self.0.iter().flat_map(|(suite, tests)| {
            tests.iter().map(move |(test, outcome)| (format!("{suite}.{test}"), *outcome))
        });
        tests.collect()
    }

    /// A line for each test that ends otherwise than in `before`, the bad news first, and one that says what to do.
    pub(crate) fn against(&self, before: &Self) -> Vec<String> {
        let (old, new) = (before.by_name(), self.by_name());
        let (mut worse, mut better) = (Vec::new(), Vec::new());
        for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
            let (was, is) = (old.get(name).copied(), new.get(name).copied());
            if was == is {
                continue;
            }
            let word = |outcome: Option<Outcome>| outcome.map_or("not there", Outcome::word);
            let line = format!("{name}: {} -> {}", word(was), word(is));
            let (word, list) = if fell(was, is) { ("WORSE", &mut worse) } else { ("better", &mut better) };
            list.push(format!("{word} {line}"));
        }
        if worse.is_empty() && !better.is_empty() {
            better.push(
                "The score rose: keep it with CORBEL_SCORE=update cargo test --test interop suite".into(),
            );
        }
        worse.extend(better);
        worse
    }

    /// Whether no test that passed or was skipped ends worse now, and no fewer pass.
    pub(crate) fn is_no_worse_than(&self, before: &Self) -> bool {
        let (old, new) = (before.by_name(), self.by_name());
        let names = old.keys().chain(new.keys());
        self.count(Outcome::Pass) >= before.count(Outcome::Pass)
            && names.into_iter().all(|name| !fell(old.get(name).copied(), new.get(name).copied()))
    }
}

/// Whether a test that was `was` and now is `is` got worse: a new failure, or a pass lost.
fn fell(was: Option<Outcome>, is: Option<Outcome>) -> bool {
    let bad = |outcome| matches!(outcome, Some(Outcome::Fail | Outcome::Unfinished));
    (bad(is) && !bad(was)) || (was == Some(Outcome::Pass) && is != Some(Outcome::Pass))
}

fn count(tests: &[(String, Outcome)], outcome: Outcome) -> usize {
    tests.iter().filter(|(_, is)| *is == outcome).count()
}

#[test]
fn a_skip_is_not_a_pass_and_a_crash_is_seen() {
    let text = "\nSuite: CompareAndWrite\n\
        \x20 Test: Simple ...    [SKIPPED] COMPAREANDWRITE is not implemented.\n\
        \x20   [SKIPPED] COMPAREANDWRITE is not implemented.\n\
        passed\n\
        \x20 Test: Standard ...passed\n\
        \x20 Test: BeyondEol ...    [FAILED] GET_LBA_STATUS successful but should have failed\n\
        FAILED\n\
        \x20   1. test_get_lba_status_beyond_eol.c:38  - CU_ASSERT_EQUAL(_r,0)\n\
        \x20 Test: Half ...    [SKIPPED] one of two\nFAILED\n\
        \x20 Test: LUNReset ...passed    [FAILED] PRIN command: failed with sense.\n\
        \x20 Test: Hang ...";
    let names = ["Simple", "Standard", "BeyondEol", "Half", "LUNReset", "Hang"];
    let outcomes =
        [Outcome::Skip, Outcome::Pass, Outcome::Fail, Outcome::Fail, Outcome::Pass, Outcome::Unfinished];
    let expected: Vec<_> = names.iter().map(|name| (*name).to_string()).zip(outcomes).collect();
    assert_eq!(parse_run(text), expected);
}

#[test]
fn the_summary_of_the_tool_is_not_taken_for_a_test() {
    let text = "  Test: A ...passed\n\nRun Summary:    Type  Total    Ran Passed Failed Inactive\n tests 1 1 1 0 0\n";
    assert_eq!(parse_run(text), [("A".to_string(), Outcome::Pass)]);
}

#[test]
fn a_kept_score_is_read_back_and_a_lost_pass_is_worse() {
    let mut score = Score::default();
    score.add("Read10", &[("Simple".into(), Outcome::Pass), ("DpoFua".into(), Outcome::Fail)]);
    score.add("Unmap", &[("VPD".into(), Outcome::Skip)]);
    let kept = Score::parse(&score.text()).unwrap();
    assert_eq!(kept.text(), score.text());
    assert!(score.is_no_worse_than(&kept) && score.against(&kept).is_empty());
    let mut lost = Score::default();
    lost.add("Read10", &[("Simple".into(), Outcome::Skip), ("DpoFua".into(), Outcome::Pass)]);
    lost.add("Unmap", &[("VPD".into(), Outcome::Skip)]);
    assert!(!lost.is_no_worse_than(&kept));
    assert!(lost.against(&kept)[0].starts_with("WORSE Read10.Simple: pass -> skip"));
}

#[test]
fn a_test_passes_where_it_passes_on_one_unit_and_fails_on_none() {
    use Outcome::{Fail, Pass, Skip, Unfinished};
    let table = [
        (Skip, Pass, Pass),
        (Pass, Skip, Pass),
        (Pass, Fail, Fail),
        (Fail, Skip, Fail),
        (Pass, Unfinished, Unfinished),
    ];
    for (first, second, expected) in table {
        let mut score = Score::default();
        score.add("Read10", &[("Simple".into(), first)]);
        score.add("Read10", &[("Simple".into(), second)]);
        assert_eq!((score.0[0].1[0].1, score.count(expected)), (expected, 1));
    }
}
