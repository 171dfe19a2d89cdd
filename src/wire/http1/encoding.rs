//! Accept-Encoding (RFC 9110 §12.5.3), as far as it is used here: may the answer be in gzip?

/// True if the client takes gzip: named or covered by `*`, and not with a weight of 0.
pub fn accepts_gzip(accept_encoding: Option<&str>) -> bool {
    let mut by_asterisk = false;
    for item in accept_encoding.unwrap_or_default().split(',') {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let is_wanted = parts.all(|parameter| !is_zero_weight(parameter));
        // RFC 9110 §8.4.1.3: x-gzip is the same. What is named itself counts before `*`.
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return is_wanted;
        }
        by_asterisk |= coding == "*" && is_wanted;
    }
    by_asterisk
}

/// `q=0`, `q=0.0`, `q=0.00` or `q=0.000` (RFC 9110 §12.4.2). A weight that is none counts as one.
fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let digits = value.trim().strip_prefix('0');
    name.trim().eq_ignore_ascii_case("q")
        && digits.is_some_and(|rest| rest.bytes().all(|byte| matches!(byte, b'.' | b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_unless_it_is_refused() {
        for value in [
            "gzip",
            "GZip",
            "x-gzip",
            "deflate, gzip, br",
            "br;q=1.0, gzip;q=0.001",
            "gzip; q=0.8, *;q=0",
            "*",
            "identity;q=0, *;q=0.5",
            "gzip;level=9",
        ] {
            assert!(accepts_gzip(Some(value)), "{value}");
        }
        for value in [
            "",
            "identity",
            "br, deflate",
            "gzip;q=0",
            "gzip ; Q=0.000, *",
            "*;q=0",
            "*;q=0.0, br",
            "gzipped",
        ] {
            assert!(!accepts_gzip(Some(value)), "{value}");
        }
        assert!(!accepts_gzip(None));
    }
}
