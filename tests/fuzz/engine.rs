//! The loop: mutate, run, keep what behaves as nothing did before.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use fastrand::Rng;
use kit::Progress;

use crate::MEMORY;
use crate::mutate::{mutate, shrink};

/// Inputs that the corpus keeps; further ones replace any but the first.
const CORPUS: usize = 4096;
/// Of so many executions one is also weighed.
const WEIGHED: u64 = 16;
/// What the code under test may hold for any input, in bytes; only what is above counts by the byte of input.
const FLAT: usize = 512;

/// What is fuzzed.
pub(crate) trait Target {
    fn name(&self) -> &'static str;
    /// The inputs that the search begins with.
    fn corpus(&self) -> Vec<Vec<u8>>;
    /// Words that mutations put in.
    fn words(&self) -> &'static [&'static [u8]];
    /// Runs the code and every oracle. The number stands for how it behaved; the error says what is wrong.
    fn run(&mut self, input: &[u8]) -> Result<u64, String>;
    /// Runs the code alone, for its memory to be measured.
    fn weigh(&mut self, input: &[u8]);
}

/// One line of JSON.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) target: String,
    pub(crate) executions: u64,
    pub(crate) seconds: f64,
    pub(crate) corpus: usize,
    pub(crate) crashes: u64,
    pub(crate) differences: u64,
    pub(crate) bytes_per_byte: f64,
    pub(crate) findings: Vec<String>,
}

impl Report {
    pub(crate) fn json(&self, seed: u64) -> String {
        format!(
            "{{\"fuzz\":\"{}\",\"seed\":{seed},\"executions\":{},\"seconds\":{:.1},\"per_second\":{:.0},\"corpus\":{},\
             \"crashes\":{},\"differences\":{},\"max_bytes_allocated_per_input_byte\":{:.2}}}",
            self.target,
            self.executions,
            self.seconds,
            self.executions as f64 / self.seconds.max(0.001),
            self.corpus,
            self.crashes,
            self.differences,
            self.bytes_per_byte
        )
    }
}

/// How something behaved, in one number.
pub(crate) fn behaviour(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

enum Outcome {
    Fine(u64),
    Different(String),
    Crashed,
}

fn execute(target: &mut dyn Target, input: &[u8]) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| target.run(input))) {
        Ok(Ok(behaviour)) => Outcome::Fine(behaviour),
        Ok(Err(what)) => Outcome::Different(what),
        Err(_) => Outcome::Crashed,
    }
}

/// Runs `executions` inputs; the same seed gives the same inputs.
pub(crate) fn run(target: &mut dyn Target, seed: u64, executions: u64) -> Report {
    let mut rng = Rng::with_seed(seed ^ behaviour(target.name()));
    let mut corpus = target.corpus();
    let (given, words) = (corpus.len(), target.words());
    let mut known = HashSet::new();
    let mut report = Report { target: target.name().to_owned(), executions, ..Report::default() };
    let began = Instant::now();
    let progress = Progress::new(&format!("fuzz {}: inputs", target.name())).of(executions);
    for round in 0..executions {
        let input = match corpus.get(round as usize) {
            Some(input) if (round as usize) < given => input.clone(),
            _ => mutate(&mut rng, &corpus, words),
        };
        match execute(target, &input) {
            Outcome::Fine(behaviour) => {
                if known.insert(behaviour) && round >= given as u64 {
                    if corpus.len() < CORPUS {
                        corpus.push(input.clone());
                    } else {
                        corpus[rng.usize(given..CORPUS)].clone_from(&input);
                    }
                }
            }
            wrong => note(target, &mut report, input.clone(), &wrong),
        }
        if round % WEIGHED == 0 {
            progress.reach(round);
            report.bytes_per_byte = report.bytes_per_byte.max(weigh(target, &input));
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    report.corpus = corpus.len();
    report
}

fn note(target: &mut dyn Target, report: &mut Report, input: Vec<u8>, outcome: &Outcome) {
    let crashed = matches!(outcome, Outcome::Crashed);
    if crashed {
        report.crashes += 1
    } else {
        report.differences += 1
    }
    if report.findings.len() >= 5 {
        return;
    }
    let small = shrink(input, |input| match execute(target, input) {
        Outcome::Fine(_) => false,
        Outcome::Different(_) => !crashed,
        Outcome::Crashed => crashed,
    });
    let what = match execute(target, &small) {
        Outcome::Different(what) => what,
        _ => "a panic".to_owned(),
    };
    let replay = format!("FUZZ_TARGET={} FUZZ_INPUT='{}'", target.name(), small.escape_ascii());
    report.findings.push(format!("{}: {what}\n  {replay}", target.name()));
}

/// The most memory that the code held at once, by the byte of input.
fn weigh(target: &mut dyn Target, input: &[u8]) -> f64 {
    if input.is_empty() {
        return 0.0;
    }
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    target.weigh(input);
    let held = MEMORY.peak_usage().saturating_sub(before);
    held.saturating_sub(FLAT) as f64 / input.len() as f64
}

/// Runs one input, with the panic's message if there is one.
pub(crate) fn replay(target: &mut dyn Target, input: &[u8]) -> Option<String> {
    target.run(input).err()
}
