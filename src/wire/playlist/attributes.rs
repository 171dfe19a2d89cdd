//! Attribute lists, quoted-strings and URI lines (rfc8216bis §4.1, §4.2). Whatever text comes in,
//! a value never ends its line or its quotes: names of publishers and event payloads land here.

use std::fmt::Write;

use crate::wire::numbers;

/// Of every duration in a playlist: 10 µs, less than half a sample of 48 kHz audio.
pub(super) const DURATION_DECIMALS: u32 = 5;

/// One tag with an attribute list. The line is ended by [`Attributes::end`].
pub(super) struct Attributes<'o> {
    out: &'o mut String,
    is_first: bool,
}

impl<'o> Attributes<'o> {
    /// `tag` is a name alone, `#EXT-X-PART`.
    pub(super) fn new(out: &'o mut String, tag: &str) -> Attributes<'o> {
        out.push_str(tag);
        out.push(':');
        Attributes { out, is_first: true }
    }

    pub(super) fn name(&mut self, name: &str) -> &mut String {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
        self.out.push_str(name);
        self.out.push('=');
        self.out
    }

    pub(super) fn integer(&mut self, name: &str, value: u64) {
        numbers::push_integer(self.name(name), value);
    }

    pub(super) fn seconds(&mut self, name: &str, value: f64) {
        numbers::push_decimal(self.name(name), value, DURATION_DECIMALS);
    }

    pub(super) fn seconds_if(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.seconds(name, value);
        }
    }

    pub(super) fn quoted(&mut self, name: &str, value: &str) {
        push_quoted(self.name(name), value);
    }

    pub(super) fn quoted_if(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.quoted(name, value);
        }
    }

    /// A quoted URI: what may not stand in quotes is percent-encoded, so that it still resolves.
    pub(super) fn uri(&mut self, value: &str) {
        let out = self.name("URI");
        out.push('"');
        push_uri(out, value);
        out.push('"');
    }

    pub(super) fn time(&mut self, name: &str, unix_ms: i64) {
        let out = self.name(name);
        out.push('"');
        numbers::push_time(out, unix_ms);
        out.push('"');
    }

    /// Written only when it holds: NO is the default of every such attribute.
    pub(super) fn yes(&mut self, name: &str, holds: bool) {
        if holds {
            self.name(name).push_str("YES");
        }
    }

    /// `n@o` in quotes. The offset is always written: what a reader has merged from two versions
    /// of a playlist then needs no memory of the part before.
    pub(super) fn byte_range(&mut self, length: u64, offset: u64) {
        let out = self.name("BYTERANGE");
        out.push('"');
        push_byte_range(out, length, offset);
        out.push('"');
    }

    pub(super) fn hexadecimal(&mut self, name: &str, bytes: &[u8]) {
        let out = self.name(name);
        out.push_str("0x");
        for byte in bytes {
            let _ = write!(out, "{byte:02X}");
        }
    }

    pub(super) fn end(self) {
        self.out.push('\n');
    }
}

pub(super) fn push_byte_range(out: &mut String, length: u64, offset: u64) {
    numbers::push_integer(out, length);
    out.push('@');
    numbers::push_integer(out, offset);
}

/// A double quote becomes a single one, a control character a blank.
pub(super) fn push_quoted(out: &mut String, value: &str) {
    out.push('"');
    push_unquoted(out, value);
    out.push('"');
}

/// The inside of a quoted-string.
pub(super) fn push_unquoted(out: &mut String, value: &str) {
    if value.bytes().all(is_plain) {
        return out.push_str(value);
    }
    out.extend(value.chars().map(|c| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    }));
}

/// For a line of its own too: a URI that began with `#` would be a comment.
pub(super) fn push_uri(out: &mut String, uri: &str) {
    if uri.bytes().all(|byte| is_plain(byte) && byte != b' ') && !uri.starts_with('#') {
        return out.push_str(uri);
    }
    for (index, c) in uri.chars().enumerate() {
        if c == '"' || c == ' ' || c.is_control() || (c == '#' && index == 0) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

/// Printable ASCII without the double quote: what the fast ways copy as it is.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b'"'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl Fn(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    #[test]
    fn values_stay_in_their_quotes() {
        assert_eq!(written(|o| push_quoted(o, "a\"b\r\nc\u{85}é")), "\"a'b  c é\"");
        assert_eq!(written(|o| push_uri(o, "#a#b\"c d\n")), "%23a#b%22c%20d%0A");
        assert_eq!(written(|o| push_uri(o, "é/7.m4s")), "é/7.m4s");
    }

    #[test]
    fn a_list_has_commas_between() {
        let text = written(|out| {
            let mut list = Attributes::new(out, "#EXT-X-PART");
            list.seconds("DURATION", 0.2);
            list.yes("GAP", false);
            list.uri("7/3.m4s");
            list.byte_range(10, 0);
            list.hexadecimal("X-A", &[0xfc, 0x01]);
            list.end();
        });
        let expected =
            "#EXT-X-PART:DURATION=0.20000,URI=\"7/3.m4s\",BYTERANGE=\"10@0\",X-A=0xFC01\n";
        assert_eq!(text, expected);
    }

    proptest! {
        #[test]
        fn no_text_breaks_out(text in any::<String>()) {
            let quoted = written(|o| push_quoted(o, &text));
            prop_assert!(!quoted[1..quoted.len() - 1].contains(['"', '\r', '\n']));
            let uri = written(|o| push_uri(o, &text));
            prop_assert!(!uri.contains(['"', '\r', '\n', ' ']) && !uri.starts_with('#'));
        }
    }
}
