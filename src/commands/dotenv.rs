//! Files of environment variables, `.env`, in the syntax that godotenv and its relatives read: `export`,
//! comments, quotes, references to variables above. `migrate` calls it; what a variable means is its.

use std::collections::BTreeMap;

/// A variable and the line that set it; of several the last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) value: String,
    pub(super) line: usize,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("line {0}: NAME=VALUE is needed")]
    NoPair(usize),
    #[error("line {0}: {1:?} is no name of a variable")]
    BadName(usize, String),
    #[error("line {0}: the quote does not end on this line")]
    OpenQuote(usize),
    #[error("line {0}: there is something behind the closing quote")]
    BehindQuote(usize),
}

/// All variables of `text`, or every line that is wrong.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Variable>, Vec<LineError>> {
    let mut variables = BTreeMap::new();
    let mut errors = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        match parse_line(line, index + 1, &variables) {
            Ok(Some((name, variable))) => drop(variables.insert(name, variable)),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(variables) } else { Err(errors) }
}

fn parse_line(
    text: &str,
    line: usize,
    above: &BTreeMap<String, Variable>,
) -> Result<Option<(String, Variable)>, LineError> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let pair = match text.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => text,
    };
    let (name, value) = pair.split_once('=').ok_or(LineError::NoPair(line))?;
    let name = name.trim_end();
    if !is_name(name) {
        return Err(LineError::BadName(line, name.to_owned()));
    }
    let value = parse_value(value.trim_start(), line, above)?;
    Ok(Some((name.to_owned(), Variable { value, line })))
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_part)
}

fn parse_value(
    text: &str,
    line: usize,
    above: &BTreeMap<String, Variable>,
) -> Result<String, LineError> {
    let is_comment =
        |rest: &str| rest.trim_start().is_empty() || rest.trim_start().starts_with('#');
    if let Some(quoted) = text.strip_prefix('\'') {
        let (inside, rest) = quoted.split_once('\'').ok_or(LineError::OpenQuote(line))?;
        return is_comment(rest).then(|| inside.to_owned()).ok_or(LineError::BehindQuote(line));
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let end = closing_quote(quoted).ok_or(LineError::OpenQuote(line))?;
        let value = expand(&quoted[..end], true, above);
        return is_comment(&quoted[end + 1..]).then_some(value).ok_or(LineError::BehindQuote(line));
    }
    // Without quotes a comment begins at a number sign behind a blank.
    let ends = text.match_indices('#').map(|(at, _)| at);
    let is_behind_blank = |at: &usize| *at == 0 || text[..*at].ends_with([' ', '\t']);
    let end = ends.into_iter().find(is_behind_blank).unwrap_or(text.len());
    Ok(expand(text[..end].trim_end(), false, above))
}

/// Where the double quote is that no backslash stands before.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end.then_some(at)
    })
}

/// Put variables from above in the place of `$NAME` and `${NAME}`, and nothing for those that are not
/// there; in quotes a backslash takes the meaning from the next letter, or makes a line end of `n`.
fn expand(text: &str, is_quoted: bool, above: &BTreeMap<String, Variable>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let behind = &rest[first.len_utf8()..];
        let escaped = behind.chars().next().filter(|c| is_quoted || *c == '$');
        rest = match (first, escaped) {
            ('\\', Some(escaped)) => {
                out.push(match escaped {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                });
                &behind[escaped.len_utf8()..]
            }
            ('$', _) => match reference(behind) {
                Some((name, after)) => {
                    out += above.get(name).map_or("", |variable| &variable.value);
                    after
                }
                None => {
                    out.push('$');
                    behind
                }
            },
            _ => {
                out.push(first);
                behind
            }
        };
    }
    out
}

/// The name behind a dollar sign, and what comes after it.
fn reference(text: &str) -> Option<(&str, &str)> {
    if let Some((name, after)) = text.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
        return is_name(name).then_some((name, after));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    is_name(&text[..end]).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(line: &str) -> String {
        let variables = parse(&format!("BASE=b.example\n{line}\n")).unwrap();
        variables["A"].value.clone()
    }

    #[test]
    fn the_usual_ways_to_write_a_value() {
        for (line, value) in [
            ("A=1", "1"),
            ("  export A = 1  ", "1"),
            ("export\tA=1", "1"),
            ("A=", ""),
            ("A= # nothing", ""),
            ("A=a b # c", "a b"),
            ("A=a#b", "a#b"),
            ("A='a # \\n $BASE' # c", "a # \\n $BASE"),
            ("A=\"a # \\\"q\\\" \\\\ \\$BASE\\n\"# c", "a # \"q\" \\ $BASE\n"),
            ("A=http://$BASE/x", "http://b.example/x"),
            ("A=\"${BASE}x\"", "b.examplex"),
            ("A=${NONE}x$", "x$"),
            ("A=a=b", "a=b"),
            ("A=1\r", "1"),
            ("A=\"ä\\ö\"", "äö"),
        ] {
            assert_eq!(value_of(line), value, "{line}");
        }
    }

    #[test]
    fn the_last_of_several_counts_with_its_line() {
        let variables = parse("\u{feff}# c\nA=1\n\nA=2\nexported=3\n").unwrap();
        assert_eq!(variables["A"], Variable { value: "2".into(), line: 4 });
        assert_eq!(variables["exported"].value, "3");
    }

    #[test]
    fn every_wrong_line_is_told() {
        let text = "A\nB='x\nC=\"x\\\"\nD=\"x\"y\n1E=x\nF-G=x\nH='x'y\nI=good\n=x\n";
        let errors = parse(text).unwrap_err();
        let wanted = [
            LineError::NoPair(1),
            LineError::OpenQuote(2),
            LineError::OpenQuote(3),
            LineError::BehindQuote(4),
            LineError::BadName(5, "1E".into()),
            LineError::BadName(6, "F-G".into()),
            LineError::BehindQuote(7),
            LineError::BadName(9, String::new()),
        ];
        assert_eq!(errors, wanted);
    }
}
