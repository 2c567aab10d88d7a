//! What the source cites exists in `docs/design`, and what the documents link to exists, too.
//!
//! Citations have one form, which `docs/design/README.md` describes: `rule M3`, `rules M6 and M7`, `scenario T-8e`,
//! `proof T10`, and a document's path with a section's number behind it. Code is not read, only comments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where citations are looked for, and the files in which everything counts as a comment.
const CITING: &[&str] = &["src", "tests", "benches", "deploy", "Makefile"];
const PROSE: &[&str] = &["md"];
const HASH_COMMENTS: &[&str] = &["txt", "py", "sh", "yml", "yaml", "toml", "", "service", "socket"];
const SLASH_COMMENTS: &[&str] = &["rs", "mjs"];

/// Documents whose rules have the document's name before their letter: they describe what is not built.
const PLANS: &[&str] = &["cluster", "topology"];

/// What can be cited.
#[derive(Default, Debug)]
struct Design {
    /// How often each rule is defined.
    rules: BTreeMap<String, usize>,
    /// `semantics.md 8.2`, and each document without a number.
    sections: BTreeSet<String>,
    scenarios: BTreeSet<String>,
    proofs: BTreeSet<String>,
}

impl Design {
    fn read(folder: &Path) -> Self {
        let mut design = Self::default();
        for path in files(folder) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name.ends_with(".md") {
                design.add(&name, &std::fs::read_to_string(&path).expect("a document is text"));
            }
        }
        design
    }

    fn add(&mut self, name: &str, text: &str) {
        self.sections.insert(name.to_owned());
        let mut fenced = false;
        for line in text.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                let first = first_word(line);
                if first.starts_with("T-") {
                    self.scenarios.insert(first.to_owned());
                }
            } else if let Some(bold) = line.strip_prefix("**") {
                if let Some(rule) = defined_rule(bold) {
                    *self.rules.entry(rule).or_default() += 1;
                }
            } else if let Some(heading) =
                line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
            {
                let number = first_word(heading).trim_end_matches('.');
                if is_section(number) {
                    self.sections.insert(format!("{name} {number}"));
                }
            } else if let Some(cell) = line.strip_prefix("| ").map(first_word).filter(|cell| is_proof(cell)) {
                self.proofs.insert(cell.to_owned());
            }
        }
    }

    /// `T-8` also stands for `T-8a` and those behind it.
    fn has_scenario(&self, id: &str) -> bool {
        let is_part = |defined: &String| {
            defined.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.chars().all(|c| c.is_ascii_lowercase()))
        };
        self.scenarios.iter().any(is_part)
    }
}

/// `M3. A title.** …` and `cluster O6. A title.** …` define a rule.
fn defined_rule(bold: &str) -> Option<String> {
    let plan = PLANS.iter().find(|plan| bold.strip_prefix(**plan).is_some_and(|rest| rest.starts_with(' ')));
    let id = first_word(bold[plan.map_or(0, |plan| plan.len())..].trim_start());
    let id = id.trim_end_matches('*').strip_suffix('.')?;
    is_rule(id).then(|| plan.map_or_else(|| id.to_owned(), |plan| format!("{plan} {id}")))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// One or two capitals and a number: `M3`, `SC1`.
fn is_rule(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let letters = word.len() - digits.len();
    (1..=2).contains(&letters) && (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_section(word: &str) -> bool {
    !word.is_empty() && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_scenario(word: &str) -> bool {
    word.strip_prefix("T-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_proof(word: &str) -> bool {
    word.starts_with('T') && is_rule(word)
}

/// A word without what surrounds it in a sentence.
fn bare(word: &str) -> &str {
    let word = word.trim_matches(|c: char| "()[]{}`\"',.;:*".contains(c));
    word.trim_end_matches("'s")
}

/// What is wrong with the citations in `comments`, the text of all comments of a file.
fn wrong_citations(design: &Design, comments: &str) -> Vec<String> {
    let words: Vec<&str> = comments.split_whitespace().collect();
    let (mut wrong, mut cited) = (Vec::new(), BTreeSet::new());
    for (at, word) in words.iter().enumerate() {
        if let Some((_, name)) = word.split_once("docs/design/").filter(|(_, name)| name.contains(".md")) {
            let name = &name[..name.find(".md").unwrap_or_default() + ".md".len()];
            if !design.sections.contains(name) {
                wrong.push(format!("there is no docs/design/{name}"));
            }
            for number in listed(&words, at + 1, is_section) {
                if !design.sections.contains(&format!("{name} {}", bare(words[number]))) {
                    wrong.push(format!("docs/design/{name} has no section {}", bare(words[number])));
                }
            }
        }
        match bare(word).to_ascii_lowercase().as_str() {
            "rule" | "rules" => {
                let plan = words.get(at + 1).and_then(|next| PLANS.iter().find(|plan| *plan == next));
                for id in listed(&words, at + 1 + usize::from(plan.is_some()), is_rule) {
                    let rule =
                        plan.map_or_else(|| bare(words[id]).to_owned(), |plan| format!("{plan} {}", bare(words[id])));
                    if !design.rules.contains_key(&rule) {
                        wrong.push(format!("there is no rule {rule}"));
                    }
                    cited.insert(id);
                }
            }
            "scenario" | "scenarios" => {
                for id in listed(&words, at + 1, is_scenario) {
                    if !design.has_scenario(bare(words[id])) {
                        wrong.push(format!("there is no scenario {}", bare(words[id])));
                    }
                    cited.insert(id);
                }
            }
            "proof" | "proofs" => {
                for id in listed(&words, at + 1, is_proof) {
                    if !design.proofs.contains(bare(words[id])) {
                        wrong.push(format!("there is no proof {}", bare(words[id])));
                    }
                    cited.insert(id);
                }
            }
            _ => {}
        }
    }
    // The clients of transcripts are C1, C2 and so on.
    let alone = |at: &usize| !cited.contains(at) && !bare(words[*at]).starts_with('C');
    for at in (0..words.len()).filter(alone) {
        let word = bare(words[at]);
        let path = words[at].contains("docs/design/") || words[at].contains("deploy/") || words[at].contains("](");
        if design.rules.contains_key(word) {
            wrong.push(format!("{word} stands alone: write \"rule {word}\""));
        } else if is_scenario(word) || design.proofs.contains(word) {
            wrong.push(format!("{word} stands alone: write \"scenario\" or \"proof\" before it"));
        } else if !path && word != "README.md" && word != "operations.md" && design.sections.contains(word) {
            wrong.push(format!("{word} stands alone: write \"docs/design/{word}\""));
        }
    }
    wrong
}

/// The places of the words that are listed from `at` on: `M6, M7 and M8`, `M2 to M6`.
fn listed(words: &[&str], mut at: usize, is_one: fn(&str) -> bool) -> Vec<usize> {
    let mut found = Vec::new();
    while let Some(word) = words.get(at).filter(|word| is_one(bare(word))) {
        found.push(at);
        let ends = |c: char| word.ends_with(c);
        let goes_on = match words.get(at + 1) {
            Some(&("and" | "or" | "to")) if !ends('.') && !ends(')') => 2,
            Some(_) if ends(',') => 1,
            _ => break,
        };
        at += goes_on;
    }
    found
}

/// The comments of a file as one text, without what marks them.
fn comments(path: &Path, text: &str) -> String {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let comment = |line: &'_ str| -> Option<String> {
        let line = line.trim_start();
        if PROSE.contains(&end) {
            return Some(line.to_owned());
        }
        let at = if SLASH_COMMENTS.contains(&end) {
            line.find("// ").or_else(|| line.find("//!")).or_else(|| line.find("/// "))
        } else if HASH_COMMENTS.contains(&end) {
            line.starts_with('#').then_some(0)
        } else {
            None
        };
        at.map(|at| line[at..].trim_start_matches(['/', '!', '#']).to_owned())
    };
    text.lines().filter_map(comment).collect::<Vec<_>>().join("\n")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All files below `path`, or itself.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found: Vec<_> = entries.flat_map(|entry| files(&entry.expect("readable").path())).collect();
    found.sort();
    found
}

/// The relative links of a document that lead nowhere: to no file, or to no heading.
fn broken_links(path: &Path, text: &str) -> Vec<String> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut broken = Vec::new();
    for target in targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
        let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let file = if file.is_empty() { path.to_owned() } else { folder.join(file) };
        if !file.exists() {
            broken.push(format!("no such file: {target}"));
        } else if let Some(anchor) = anchor {
            let linked = std::fs::read_to_string(&file).unwrap_or_default();
            if !linked.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor) {
                broken.push(format!("no such heading: {target}"));
            }
        }
    }
    broken
}

/// A heading as GitHub makes an anchor of it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

#[test]
fn whatever_is_cited_exists() {
    let design = Design::read(&root().join("docs/design"));
    assert!(design.rules.len() > 100 && design.scenarios.len() > 30 && design.proofs.len() > 20, "{design:?}");
    let mut wrong = Vec::new();
    for path in CITING.iter().flat_map(|name| files(&root().join(name))) {
        // This file cites what does not exist, on purpose; bytes are no text.
        if path.ends_with("tests/it/citations.rs") || path.starts_with(root().join("tests/fuzz/corpus")) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let found = wrong_citations(&design, &comments(&path, &text));
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_rule_is_defined_once() {
    let design = Design::read(&root().join("docs/design"));
    let more: Vec<_> = design.rules.iter().filter(|(_, times)| **times != 1).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document is text");
        broken.extend(broken_links(&path, &text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The glossary says where each word is; a file that was renamed must not stay there under its old name.
#[test]
fn files_that_documents_name_exist() {
    let mut missing = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document is text");
        missing.extend(missing_files(&text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The documents whose links and names of files are checked here; `deploy/check_docs.py` looks at those of `deploy`.
fn documents() -> Vec<PathBuf> {
    let mut found = files(&root().join("docs"));
    found.retain(|path| path.extension().is_some_and(|end| end == "md"));
    found.extend(["README.md", "SECURITY.md", "tests/README.md"].map(|name| root().join(name)));
    found
}

/// Files of the repository that stand in backquotes and do not exist.
fn missing_files(text: &str) -> Vec<String> {
    let is_path = |name: &&str| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        plain && ["src/", "tests/", "benches/", "deploy/", "docs/"].iter().any(|folder| name.starts_with(folder))
    };
    let quoted = text.split('`').skip(1).step_by(2).filter(is_path);
    quoted.filter(|name| !root().join(name).exists()).map(str::to_owned).collect()
}

/// The checker sees each kind of mistake, and nothing else.
#[test]
fn the_checker_can_fail() {
    let mut design = Design::default();
    let text = "## 8. Transactions\n### 8.2 Rules\n**M3. Title.** x\n**M4. Title.** x\n**cluster O6. Title.** x\n```\nT-8a  x\n```\n| T10 | x |\n";
    design.add("semantics.md", text);
    for right in [
        "(rule M3) and rules M3 and M4; rules M3 to M4, rule cluster O6. This rule is English.",
        "docs/design/semantics.md 8.2, 8 and docs/design/semantics.md",
        "scenario T-8a, and scenarios T-8 and T-8a; proof T10: C1 is a client, P99 and V4 are no rules",
    ] {
        assert_eq!(wrong_citations(&design, right), Vec::<String>::new(), "{right}");
    }
    for (seeded, what) in [
        ("(rule M9)", "no rule M9"),
        ("rules M3, M4 and M5", "no rule M5"),
        ("rule cluster O7", "no rule cluster O7"),
        ("rule O6", "no rule O6"),
        ("docs/design/semantics.md 8.3", "no section 8.3"),
        ("docs/design/semantics.md 8.2, 9)", "no section 9"),
        ("docs/design/house.md", "no docs/design/house.md"),
        ("scenario T-8b", "no scenario T-8b"),
        ("proofs T10 and T11", "no proof T11"),
        ("as ever (M3).", "M3 stands alone"),
        ("T-8a: it holds", "T-8a stands alone"),
        ("T10: it holds", "T10 stands alone"),
        ("see semantics.md 8.2", "semantics.md stands alone"),
    ] {
        let wrong = wrong_citations(&design, seeded);
        assert!(wrong.len() == 1 && wrong[0].contains(what), "{seeded}: {wrong:?}");
    }
    design.add("reliability.md", "**M3. Again.** x\n");
    assert_eq!(design.rules["M3"], 2);
    assert_eq!(comments(Path::new("a.rs"), "let x = 1; // rule\n/// M3\nrule();"), " rule\n M3");
    assert_eq!(comments(Path::new("a.txt"), "# rule M3\nC1> rule"), " rule M3");
    let here = root().join("docs/design/README.md");
    assert!(broken_links(&here, "[a](semantics.md) [b](semantics.md#82-rules) [c](https://x.org/y)").is_empty());
    assert_eq!(broken_links(&here, "[a](no.md) [b](semantics.md#none)").len(), 2);
    assert_eq!(missing_files("`src/lib.rs` `src/no_such.rs` `src/*.rs` `make test`"), ["src/no_such.rs"]);
}
