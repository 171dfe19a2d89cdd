//! The house rules as tests: which layer may name which, where `unsafe` and the clock may stand, how
//! files open and limits are called. Each test reads the tree as text and reports every place with
//! file, line and what to do; a rule may be changed here, in the same commit as docs/DECISIONS.md.
//! The last module tests the checker itself with planted mistakes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

const LEAVES: [&str; 3] = ["store", "wire", "runtime"];

/// Who may name whom at the top level of the crate, beside itself: the picture in `lib.rs`. What is
/// not drawn is refused; so nobody but `server`, `commands` and `operations` sees the configuration.
const ARROWS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["commands"]),
    ("commands", &["server", "coordinator", "client", "operations", "store", "wire", "runtime"]),
    ("origin", &["server", "operations"]),
    (
        "server",
        &[
            "connection",
            "ingest",
            "egress",
            "coordinator",
            "packager",
            "fetch",
            "channels",
            "cameras",
            "pulls",
            "operations",
            "store",
            "wire",
            "runtime",
        ],
    ),
    (
        "connection",
        &["ingest", "egress", "channels", "cameras", "pulls", "fetch", "store", "wire", "runtime"],
    ),
    ("ingest", &["packager", "channels", "cameras", "store", "wire", "runtime"]),
    ("egress", &["packager", "channels", "cameras", "pulls", "store", "wire", "runtime"]),
    ("packager", &["store", "wire"]),
    ("channels", &["store", "wire"]),
    ("cameras", &["store", "wire"]),
    ("pulls", &["fetch", "packager", "store", "wire"]),
    ("fetch", &["store", "wire", "runtime"]),
    ("coordinator", &["channels", "wire", "runtime"]),
    ("client", &[]),
    ("operations", &["store", "wire", "runtime"]),
    ("store", &[]),
    ("wire", &[]),
    ("runtime", &[]),
];

/// A file of `ingest` or `egress` with such a name is a door: `<protocol>_<verb>`.
const DOOR_PROTOCOLS: [&str; 7] = ["http", "websocket", "tcp", "upstream", "mjpeg", "h264", "ts"];

const UNSAFE_ADDRESSES: [&str; 5] = [
    "src/store/mapping.rs",
    "src/runtime/buffers.rs",
    "src/runtime/ring.rs",
    "src/runtime/socket.rs",
    "loadtest/src/sys.rs",
];

/// The only file of the server that asks the machine for the time.
const CLOCK: &str = "src/runtime/clock.rs";

/// What only a draft has. In pieces, so that this file does not find itself.
const DRAFT_WORDS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const DRAFT_CODE: [&str; 3] =
    [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];

const RUST_FOLDERS: [&str; 4] = ["src", "loadtest/src", "benches", "tests"];
const SCRIPT_FOLDERS: [&str; 2] = ["scripts", ".ci"];

// The rules.

#[test]
fn layers_name_only_what_lies_below() {
    report(rust_files(&["src"]).iter().flat_map(wrong_arrows));
}

#[test]
fn only_runtime_names_the_rings() {
    report(rust_files(&["src"]).iter().flat_map(ring_names));
}

#[test]
fn every_file_says_what_it_is_for() {
    report(rust_files(&RUST_FOLDERS).iter().filter_map(missing_sentence));
}

#[test]
fn unsafe_has_an_address_and_a_reason() {
    let sources = rust_files(&RUST_FOLDERS);
    let unused = sources.iter().filter_map(unused_address);
    report(sources.iter().flat_map(wrong_unsafe).chain(unused));
}

#[test]
fn nothing_is_left_for_later() {
    let folders: Vec<&str> = RUST_FOLDERS.into_iter().chain(SCRIPT_FOLDERS).collect();
    report(files(&folders).iter().flat_map(drafts));
}

#[test]
fn limits_are_named_with_max_last() {
    report(rust_files(&RUST_FOLDERS).iter().flat_map(max_first));
}

#[test]
fn time_comes_from_one_file() {
    report(rust_files(&["src"]).iter().flat_map(clock_readings));
}

#[test]
fn file_names_are_unique() {
    report(repeated_names(&rust_files(&["src"])));
}

#[test]
fn every_dependency_has_its_reason() {
    let (cargo, decisions) = ("Cargo.toml", "docs/DECISIONS.md");
    let decided = std::fs::read_to_string(root().join(decisions)).unwrap_or_default();
    report(undecided(&Source::read(cargo), &decided));
}

// The tree as text.

struct Source {
    /// From the top of the repository.
    path: String,
    text: String,
    tokens: Vec<Token>,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let is_rust = path.ends_with(".rs");
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens: if is_rust { tokens(&code_of(text)) } else { Vec::new() },
        }
    }

    fn read(path: &str) -> Source {
        let text = std::fs::read_to_string(root().join(path));
        Source::new(path, &text.expect("the file is there and is text"))
    }

    fn finding(&self, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, text: text.into() }
    }

    /// Folders and file below `src`, without the ending: the path of the module.
    fn module(&self) -> Vec<&str> {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts: Vec<&str> = below.trim_end_matches(".rs").split('/').collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        parts
    }
}

struct Finding {
    path: String,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

fn report(findings: impl IntoIterator<Item = Finding>) {
    let lines: Vec<String> = findings.into_iter().map(|found| found.to_string()).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folders: &[&str]) -> Vec<Source> {
    let all = files(folders).into_iter();
    let found: Vec<Source> = all.filter(|source| source.path.ends_with(".rs")).collect();
    assert!(!found.is_empty(), "no Rust file in {folders:?}: the check checks nothing");
    found
}

/// Every text file below the folders; one that is no text (the sample film) is passed over.
fn files(folders: &[&str]) -> Vec<Source> {
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // What npm fetched is not ours.
            if path.ends_with("node_modules") {
                continue;
            }
            if path.is_dir() {
                left.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let below = path.strip_prefix(root()).expect("it was found below the root");
                found.push(Source::new(&below.to_string_lossy(), &text));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The code alone: comments and what stands in quotes become blanks, lines stay where they are.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = match &chars[at..] {
            ['/', '/', ..] => line_length(&chars[at..]),
            ['/', '*', ..] => block_comment_length(&chars[at..]),
            ['r', '"' | '#', ..] if !follows_word(&chars, at) => raw_string_length(&chars[at..]),
            ['b' | 'c', 'r', '"' | '#', ..] if !follows_word(&chars, at) => {
                1 + raw_string_length(&chars[at + 1..])
            }
            ['"', ..] => quoted_length(&chars[at..], '"'),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted_length(&chars[at..], '\''),
            _ => 0,
        };
        if length == 0 {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(chars.len());
        let blank = |&c: &char| if c == '\n' { '\n' } else { ' ' };
        code.extend(chars[at..end].iter().map(blank));
        at = end;
    }
    code
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && is_word(chars[at - 1])
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_length(chars: &[char]) -> usize {
    let end = chars.iter().position(|&c| c == '\n');
    end.unwrap_or(chars.len())
}

fn block_comment_length(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < chars.len() {
        match &chars[at..] {
            ['/', '*', ..] => depth += 1,
            ['*', '/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier.
fn raw_string_length(chars: &[char]) -> usize {
    let hashes = chars[1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['"'];
    end.resize(1 + hashes, '#');
    let body = 2 + hashes;
    let length = chars[body..].windows(end.len()).position(|w| w == end);
    length.map_or(chars.len(), |length| body + length + end.len())
}

fn quoted_length(chars: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

struct Token {
    line: usize,
    /// A word, `::`, or one other character.
    text: String,
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                ':' if rest.starts_with("::") => 2,
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            };
            let (text, behind) = rest.split_at(length);
            found.push(Token { line: index + 1, text: text.to_owned() });
            rest = behind.trim_start();
        }
    }
    found
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// A path that begins with `crate`, `headwater` or `super`, groups taken apart.
struct NamedPath {
    line: usize,
    parts: Vec<String>,
}

fn named_paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let is_root = matches!(text_at(tokens, at), "crate" | "headwater" | "super");
        let is_first = at == 0 || text_at(tokens, at - 1) != "::";
        if is_root && is_first && text_at(tokens, at + 1) == "::" {
            take_path(tokens, at, Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path or `use` tree from `at`; returns where it ends.
fn take_path(
    tokens: &[Token],
    mut at: usize,
    mut parts: Vec<String>,
    found: &mut Vec<NamedPath>,
) -> usize {
    loop {
        if text_at(tokens, at) == "{" {
            at += 1;
            while at < tokens.len() && text_at(tokens, at) != "}" {
                at = take_path(tokens, at, parts.clone(), found);
                while at < tokens.len() && !matches!(text_at(tokens, at), "," | "}") {
                    at += 1;
                }
                at += usize::from(text_at(tokens, at) == ",");
            }
            return at + 1;
        }
        let line = tokens.get(at).map_or(0, |token| token.line);
        parts.push(text_at(tokens, at).to_owned());
        if text_at(tokens, at + 1) != "::" {
            found.push(NamedPath { line, parts });
            return at + 1;
        }
        at += 2;
    }
}

// The checks.

fn wrong_arrows(source: &Source) -> Vec<Finding> {
    let module = source.module();
    let from = module[0];
    let Some((_, allowed)) = ARROWS.iter().find(|(unit, _)| *unit == from) else {
        let advice = "no row of ARROWS in tests/tidy.rs: draw its arrows first";
        return vec![source.finding(1, format!("`{from}` has {advice}"))];
    };
    let mut findings = Vec::new();
    for path in named_paths(&source.tokens) {
        let Some(target) = absolute(&path.parts, &module) else {
            continue;
        };
        let to = target[0];
        if to != from && !allowed.contains(&to) {
            let advice = match (LEAVES.contains(&from), allowed.join(", ")) {
                (true, _) => "a leaf knows no other layer".to_owned(),
                (false, list) => format!("`{from}` may name {list}"),
            };
            let advice = format!("arrow {from} → {to} is not drawn: {advice}");
            findings.push(source.finding(path.line, advice));
        }
        if let (true, [own, door]) = (is_door(&module), module.as_slice())
            && target.len() > 1
            && target[0] == *own
            && target[1] != *door
            && is_door(&target[..2])
        {
            let advice = "a door never names a door: what both need belongs below them";
            let found = format!("{door} → {}: {advice}", target[1]);
            findings.push(source.finding(path.line, found));
        }
    }
    findings
}

/// The path from the top of the crate; `None` if it stays inside the file.
fn absolute<'p>(parts: &'p [String], module: &[&'p str]) -> Option<Vec<&'p str>> {
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    if names[0] != "super" {
        let is_inside = names.get(1).is_none_or(|first| *first == "self");
        return (!is_inside).then(|| names[1..].to_vec());
    }
    let climbs = names.iter().take_while(|name| **name == "super").count();
    let below = &names[climbs..];
    // In a `mod tests` the first `super` is the file itself; a name of another layer or of a
    // neighbour is none of its items.
    let base = module.len().saturating_sub(climbs);
    let target: Vec<&str> = module[..base].iter().chain(below).copied().collect();
    let is_layer = ARROWS.iter().any(|(unit, _)| target.first() == Some(unit));
    is_layer.then_some(target)
}

fn is_door(module: &[&str]) -> bool {
    let [layer, file] = module else { return false };
    let protocol = file.split_once('_').map(|(protocol, _)| protocol);
    ["ingest", "egress"].contains(layer)
        && protocol.is_some_and(|protocol| DOOR_PROTOCOLS.contains(&protocol))
}

fn ring_names(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/runtime/") {
        return Vec::new();
    }
    let rings = source.tokens.iter().filter(|token| {
        let name = token.text.as_str();
        name == "monoio" || name == "io_uring"
    });
    rings
        .map(|token| {
            let advice = "only src/runtime names it: add what is missing there";
            source.finding(token.line, format!("`{}`: {advice}", token.text))
        })
        .collect()
}

fn missing_sentence(source: &Source) -> Option<Finding> {
    let advice = "open with `//!` and a sentence: what this file is for, what not, who calls it";
    let first = source.text.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//! ").is_some_and(|sentence| !sentence.is_empty());
    (!says).then(|| source.finding(1, advice))
}

fn wrong_unsafe(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if token.text != "unsafe" {
            continue;
        }
        if !UNSAFE_ADDRESSES.contains(&source.path.as_str()) {
            let advice = "`unsafe` has no address here: use a safe function of the named files";
            let list = UNSAFE_ADDRESSES.join(", ");
            findings.push(source.finding(token.line, format!("{advice} ({list})")));
        } else if matches!(text_at(&source.tokens, at + 1), "{" | "impl")
            && !has_reason(&lines, token.line)
        {
            let advice =
                "`unsafe` without `// SAFETY:` above it: name the invariant and its keeper";
            findings.push(source.finding(token.line, advice));
        }
    }
    findings
}

fn unused_address(source: &Source) -> Option<Finding> {
    let is_address = UNSAFE_ADDRESSES.contains(&source.path.as_str());
    let is_unused = source.tokens.iter().all(|token| token.text != "unsafe");
    let advice = "no `unsafe` is left here: take the file off UNSAFE_ADDRESSES";
    (is_address && is_unused).then(|| source.finding(1, advice))
}

/// The comment directly above the statement that `line` belongs to says `SAFETY:`.
fn has_reason(lines: &[&str], line: usize) -> bool {
    let mut above = lines[..line - 1].iter().rev().map(|line| line.trim()).peekable();
    // What does not end a statement is its beginning: `let result =`.
    let is_beginning = |line: &&str| {
        !line.is_empty() && !line.starts_with("//") && !line.ends_with([';', '{', '}', ','])
    };
    while above.next_if(is_beginning).is_some() {}
    above.take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY: "))
}

fn drafts(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let words = DRAFT_WORDS.iter().filter(|word| has_word(line, word));
        let code = DRAFT_CODE.iter().filter(|code| line.contains(**code));
        for found in words.chain(code) {
            let advice = "finish it, or say in docs/DECISIONS.md why not";
            findings.push(source.finding(index + 1, format!("`{found}`: {advice}")));
        }
    }
    findings
}

/// `word` with neither a letter, a digit, `_` nor `-` beside it.
fn has_word(text: &str, word: &str) -> bool {
    let belongs = |c: char| is_word(c) || c == '-';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + word.len()..].chars().next();
        !before.is_some_and(belongs) && !behind.is_some_and(belongs)
    })
}

fn max_first(source: &Source) -> Vec<Finding> {
    let declared = source.tokens.iter().enumerate().filter_map(|(at, token)| {
        let is_declaration = matches!(token.text.as_str(), "const" | "static");
        let name_at = at + 1 + usize::from(text_at(&source.tokens, at + 1) == "mut");
        is_declaration.then(|| (token.line, text_at(&source.tokens, name_at)))
    });
    declared
        .filter(|(_, name)| *name == "MAX" || name.starts_with("MAX_"))
        .map(|(line, name)| {
            let advice = "a limit says what it limits, then the unit, then MAX: HEAD_BYTES_MAX";
            source.finding(line, format!("`{name}`: {advice}"))
        })
        .collect()
}

fn clock_readings(source: &Source) -> Vec<Finding> {
    if source.path == CLOCK {
        return Vec::new();
    }
    let all = source.tokens.windows(3);
    let readings = all.filter(|window| {
        let texts = [&window[0], &window[1], &window[2]].map(|token| token.text.as_str());
        matches!(texts, ["Instant" | "SystemTime", "::", "now"])
    });
    readings
        .map(|window| {
            let advice = format!("take the time as an argument, or from {CLOCK}");
            source.finding(window[0].line, format!("`{}::now`: {advice}", window[0].text))
        })
        .collect()
}

fn repeated_names(sources: &[Source]) -> Vec<Finding> {
    let mut first_of: BTreeMap<&str, &Source> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in sources {
        let name = source.path.rsplit('/').next().unwrap_or(&source.path);
        if name == "mod.rs" {
            continue;
        }
        if let Some(first) = first_of.insert(name, source) {
            let advice = "name it by its noun, so that a few letters find it";
            findings.push(source.finding(1, format!("{} has this name too: {advice}", first.path)));
        }
    }
    findings
}

/// Dependencies that the decisions do not mention.
fn undecided(cargo: &Source, decisions: &str) -> Vec<Finding> {
    let table: toml::Table = cargo.text.parse().expect("Cargo.toml is TOML");
    let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
    let names = dependencies.expect("it has dependencies").keys();
    names
        .filter(|name| !decisions.contains(&format!("`{name}`")))
        .map(|name| {
            let is_its = |line: &str| line.split(['=', ' ', '.']).next() == Some(name);
            let line = cargo.text.lines().position(is_its).map_or(1, |index| index + 1);
            let advice = "docs/DECISIONS.md does not say why it is here; say it, or do without";
            cargo.finding(line, format!("`{name}`: {advice}"))
        })
        .collect()
}

mod planted {
    use super::*;

    /// The lines of `text` that `check` reports.
    fn lines<C>(check: C, path: &str, text: &str) -> Vec<usize>
    where
        C: Fn(&Source) -> Vec<Finding>,
    {
        let findings = check(&Source::new(path, text));
        findings.iter().map(|found| found.line).collect()
    }

    #[test]
    fn a_wrong_arrow_is_reported_with_file_and_line() {
        let source = Source::new("src/store/extent.rs", "//! x\nuse crate::wire::fmp4;\n");
        let found: Vec<String> = wrong_arrows(&source).iter().map(Finding::to_string).collect();
        let wanted = "src/store/extent.rs:2: arrow store → wire is not drawn: \
                      a leaf knows no other layer";
        assert_eq!(found, [wanted]);
    }

    #[test]
    fn arrows_are_found_however_they_are_written() {
        let cases: &[(&str, &str, &[usize])] = &[
            ("src/packager/marks.rs", "use crate::{store::Writer,\n runtime::clock};", &[2]),
            ("src/packager/marks.rs", "use crate::{wire::{fmp4, mpegts}, store};", &[]),
            ("src/wire/http1/range.rs", "use super::super::super::store::Store;", &[1]),
            ("src/wire/http1/range.rs", "use super::super::fmp4;", &[]),
            ("src/server.rs", "use super::commands::serve;", &[1]),
            ("src/egress/http_get.rs", "fn f() { crate::connection::reply::x() }", &[1]),
            ("src/egress/http_get.rs", "use crate::operations::config::Config;", &[1]),
            ("src/ingest/http_put.rs", "use crate::egress::Egress;", &[1]),
            ("src/commands/serve.rs", "use headwater::connection::Core;", &[1]),
            ("src/main.rs", "use headwater::commands::run;", &[]),
            ("src/main.rs", "use headwater::server::Server;", &[1]),
            ("src/store/a.rs", "pub(crate) fn f(x: crate::store::Life) {}", &[]),
            ("src/newlayer/a.rs", "", &[1]),
        ];
        for (path, text, wanted) in cases {
            assert_eq!(lines(wrong_arrows, path, text), *wanted, "{path}: {text}");
        }
    }

    #[test]
    fn doors_do_not_name_doors() {
        let cases: &[(&str, &str, &[usize])] = &[
            ("src/egress/ts_follow.rs", "use super::http_get::Ask;", &[1]),
            ("src/egress/ts_follow.rs", "use crate::egress::{Egress, http_get};", &[1]),
            ("src/egress/ts_follow.rs", "use super::{Egress, Options};", &[]),
            ("src/egress/ts_follow.rs", "mod tests { use super::*; }", &[]),
            ("src/egress/mod.rs", "use crate::egress::http_get::Ask;", &[]),
        ];
        for (path, text, wanted) in cases {
            assert_eq!(lines(wrong_arrows, path, text), *wanted, "{path}: {text}");
        }
    }

    #[test]
    fn comments_and_quotes_are_no_code() {
        let text = r####"//! [`crate::wire`]
/* use crate::wire; /* nested */ use crate::wire; */
const A: &str = "use crate::wire; \" use crate::wire;";
const B: &str = r#"use crate::wire; " "#;
const C: [char; 3] = ['"', '\'', '\\'];
fn f<'a>(x: &'a str) -> &'a str { x } // use crate::wire
use crate::wire;
"####;
        assert_eq!(lines(wrong_arrows, "src/store/a.rs", text), [7]);
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        let good = "// SAFETY: the caller\n// keeps it.\nlet x =\n    unsafe { f() };";
        let bad = "// SAFETY: of this\nlet a = unsafe { f() };\nlet b = unsafe { g() };";
        assert_eq!(lines(wrong_unsafe, "src/store/mapping.rs", good), []);
        assert_eq!(lines(wrong_unsafe, "src/store/mapping.rs", bad), [3]);
        assert_eq!(lines(wrong_unsafe, "src/store/reader.rs", good), [4]);
        let denied = "#[allow(unsafe_code)] mod a;";
        assert_eq!(lines(wrong_unsafe, "src/lib.rs", denied), []);
        assert!(unused_address(&Source::new("src/store/mapping.rs", denied)).is_some());
        assert!(unused_address(&Source::new("src/store/mapping.rs", good)).is_none());
    }

    #[test]
    fn the_smaller_rules_bite() {
        let ring = "use monoio::net;\n// monoio\nlet s = \"io_uring\";";
        assert_eq!(lines(ring_names, "src/server.rs", ring), [1]);
        assert_eq!(lines(ring_names, "src/runtime/worker.rs", ring), []);
        let limits = "const BYTES_MAX: u8 = 1;\nconst MAX_BYTES: u8 = 1;\nstatic MAX: u8 = 1;";
        assert_eq!(lines(max_first, "src/a.rs", limits), [2, 3]);
        let time = "std::time::Instant::now();\nclock::now();\nSystemTime::now();";
        assert_eq!(lines(clock_readings, "src/a.rs", time), [1, 3]);
        assert_eq!(lines(clock_readings, CLOCK, time), []);
        let draft = format!("// {}: later\n// XXXXXX is for mktemp\n", DRAFT_WORDS[0]);
        assert_eq!(lines(drafts, "src/a.rs", &draft), [1]);
        assert!(missing_sentence(&Source::new("src/a.rs", "use std::io;")).is_some());
        assert!(missing_sentence(&Source::new("src/a.rs", "//! A noun.")).is_none());
    }

    #[test]
    fn names_and_dependencies_are_compared() {
        let same = ["src/a/range.rs", "src/b/mod.rs", "src/b/range.rs", "src/c/mod.rs"];
        let found = repeated_names(&same.map(|path| Source::new(path, "")));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "src/b/range.rs");
        let cargo = "[dependencies]\nslab = \"1\"\nbytes = \"1\"\n[dev-dependencies]\nx = \"1\"\n";
        let found = undecided(
            &Source::new("Cargo.toml", cargo),
            "`bytes-utils` keeps bytes, `slab` keeps lists",
        );
        assert_eq!((found.len(), found[0].line), (1, 3));
    }
}
