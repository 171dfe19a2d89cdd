//! Cross-origin rules as response lines (Fetch standard §3.2), from `[cors]` or go-chunked's JSON file.

use std::path::Path;

use serde::Deserialize;

use super::config::{ConfigError, CorsSection};

/// The file of `-o`. Absent keys keep the defaults.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CorsFile {
    allowed_origins: Option<Vec<String>>,
    allowed_methods: Option<Vec<String>>,
    allowed_headers: Option<Vec<String>>,
}

/// Replace what the file gives.
pub fn read_file(path: &Path, section: &CorsSection) -> Result<CorsSection, ConfigError> {
    let wrong = |why: String| ConfigError::Value {
        key: "cors_file",
        why: format!("{}: {why}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let file: CorsFile = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let listed = |list: Option<Vec<String>>, default: &[String]| {
        let list = list.unwrap_or_else(|| default.to_vec());
        list.into_iter().filter(|item| !item.is_empty()).collect::<Vec<_>>()
    };
    let mut headers = listed(file.allowed_headers, &section.headers);
    for always in ["Content-Type", "Cache-Control"] {
        if !headers.iter().any(|header| header.eq_ignore_ascii_case(always)) {
            headers.push(always.to_owned());
        }
    }
    let cors = CorsSection {
        origins: listed(file.allowed_origins, &section.origins),
        methods: listed(file.allowed_methods, &section.methods),
        headers,
    };
    let all = cors.origins.iter().chain(&cors.methods).chain(&cors.headers);
    if all.into_iter().any(|value| value.contains(|c: char| c.is_control() || !c.is_ascii())) {
        return Err(wrong("values are printable ASCII".to_owned()));
    }
    Ok(cors)
}

/// What players send about themselves (CTA-5004); always allowed.
const CMCD_HEADERS: [&str; 4] = ["CMCD-Request", "CMCD-Object", "CMCD-Status", "CMCD-Session"];

/// Lines of every answer. With several origins the one that applies depends on the request. Scripts
/// may read all response fields: credentials are never allowed here, so `*` means just that.
pub fn common_lines(cors: &CorsSection) -> Vec<u8> {
    let mut lines = String::new();
    match cors.origins.as_slice() {
        [] => return Vec::new(),
        [only] => {
            lines += &format!("Access-Control-Allow-Origin: {only}\r\n");
            // Resource Timing: scripts may see how long the answer took.
            lines += &format!("Timing-Allow-Origin: {only}\r\n");
        }
        _ => lines += "Vary: Origin\r\n",
    }
    lines += "Access-Control-Expose-Headers: *\r\n";
    lines.into_bytes()
}

/// The origins to look the request's Origin up in; empty if there is nothing to look up.
pub fn listed_origins(cors: &CorsSection) -> Vec<String> {
    if cors.origins.len() > 1 { cors.origins.clone() } else { Vec::new() }
}

/// Further lines of the answer to OPTIONS.
pub fn preflight_lines(cors: &CorsSection) -> Vec<u8> {
    if cors.origins.is_empty() {
        return Vec::new();
    }
    let is_listed =
        |name: &&str| cors.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
    let reports = CMCD_HEADERS.into_iter().filter(|name| !is_listed(name));
    let headers: Vec<&str> = cors.headers.iter().map(String::as_str).chain(reports).collect();
    let (methods, headers) = (cors.methods.join(", "), headers.join(", "));
    format!(
        "Access-Control-Allow-Methods: {methods}\r\nAccess-Control-Allow-Headers: {headers}\r\n\
         Access-Control-Max-Age: 86400\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_may_report_and_measure() {
        let text = |lines: Vec<u8>| String::from_utf8(lines).unwrap();
        let cors = CorsSection::default();
        assert!(text(common_lines(&cors)).contains("Timing-Allow-Origin: *\r\n"));
        assert!(text(preflight_lines(&cors)).contains("Expires, CMCD-Request, CMCD-Object"));
        let several = CorsSection { origins: vec!["a".into(), "b".into()], ..cors.clone() };
        assert!(!text(common_lines(&several)).contains("Timing"), "it depends on the request");
        let own = CorsSection { headers: vec!["cmcd-request".into()], ..cors };
        let lines = text(preflight_lines(&own));
        assert!(lines.contains("cmcd-request, CMCD-Object") && !lines.contains("CMCD-Request"));
    }

    #[test]
    fn the_file_of_go_chunked_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cors.json");
        std::fs::write(
            &path,
            r#"{"AllowedOrigins":["https://a.example"],"AllowedHeaders":["", "Joc-Seq-Id"]}"#,
        )
        .unwrap();
        let cors = read_file(&path, &CorsSection::default()).unwrap();
        assert_eq!(cors.origins, ["https://a.example"]);
        assert_eq!(cors.headers, ["Joc-Seq-Id", "Content-Type", "Cache-Control"]);
        assert_eq!(cors.methods, CorsSection::default().methods);
        std::fs::write(&path, "{").unwrap();
        assert!(read_file(&path, &CorsSection::default()).is_err());
    }
}
