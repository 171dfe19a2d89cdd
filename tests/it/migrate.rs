//! `headwater migrate`: what it prints is a configuration that the program accepts, on standard output
//! alone, and what it cannot say in one is on standard error.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::server::{Ended, HEADWATER, headwater, run};

/// Runs `migrate FROM` in a directory with this `.env`, without the environment of the test.
fn migrate(home: &Path, from: &str, env: &str, more: &[&str]) -> Ended {
    fs::write(home.join(".env"), env).unwrap();
    run(Command::new(HEADWATER).env_clear().current_dir(home).args(["migrate", from]).args(more))
}

/// What is in effect with this configuration, as `check` shows it.
fn in_effect(home: &Path, toml: &str) -> toml::Table {
    let file = home.join("headwater.toml");
    fs::write(&file, toml).unwrap();
    let ended = headwater(&["check", "--print-config", "--config", file.to_str().unwrap()]);
    assert!(ended.status.success(), "{}\nin\n{toml}", ended.stderr);
    toml::from_str(&ended.stdout).unwrap()
}

/// Goal: a whole file of each program becomes a configuration with the same meaning.
#[test]
fn migrated_files_are_configurations() {
    let home = tempfile::tempdir().unwrap();
    let server = "# streaming\nexport HTTP_PORT=8081\nBIND_ADDRESS=\"127.0.0.1\"\n\
        PLAY_WHITELIST='10.0.0.7,10.1.0.0/16' # office\nGOP_CACHE_SIZE_MB=8\n\
        CONTROL_BASE_URL=ws://10.0.0.2:8082/\nCONTROL_SECRET=\"a \\\"b\\\" #c\"\nRTMP_CHUNK_SIZE=5000\n";
    let ended = migrate(home.path(), "ws-stream-server", server, &[]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 8: RTMP_CHUNK_SIZE"), "{}", ended.stderr);
    let config = in_effect(home.path(), &ended.stdout);
    assert_eq!(config["listen"].to_string(), "[\"127.0.0.1:8081\"]");
    let channels = config["channels"].as_table().unwrap();
    assert_eq!(channels["play_from"].to_string(), "[\"10.0.0.7\", \"10.1.0.0/16\"]");
    assert_eq!(channels["cache_bytes_max"].as_integer(), Some(8 << 20));
    assert_eq!(channels["connections_per_ip_max"].as_integer(), Some(4));
    assert_eq!(channels["coordinator_url"].as_str(), Some("ws://10.0.0.2:8082"));
    assert_eq!(channels["coordinator_secret"].as_str(), Some("a \"b\" #c"));

    let coordinator = "HTTP_PORT=8082\nCONTROL_SECRET=s\nKEY_VERIFICATION_URL=http://127.0.0.1/keys\n\
        KEY_VERIFICATION_AUTH=Bearer\nKEY_VERIFICATION_AUTH_TOKEN=t\nSSL_CERT=cert.pem\n";
    let ended = migrate(home.path(), "ws-stream-coordinator", coordinator, &[]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 6: SSL_CERT"), "{}", ended.stderr);
    let config = in_effect(home.path(), &ended.stdout);
    let coordinator = config["coordinator"].as_table().unwrap();
    assert_eq!(coordinator["listen"].to_string(), "[\"[::]:8082\"]");
    let auth = &coordinator["key_verification"]["auth"];
    assert_eq!((auth["type"].as_str(), auth["token"].as_str()), (Some("bearer"), Some("t")));
}

/// Goal: wrong values end it with each line named and nothing on standard output; so does a file that is
/// not there.
#[test]
fn wrong_variables_end_a_migration() {
    let home = tempfile::tempdir().unwrap();
    let env = "HTTP_PORT=80\nMAX_IP_CONCURRENT_CONNECTIONS=four\nPLAY_WHITELIST=office\n";
    let ended = migrate(home.path(), "ws-stream-server", env, &[]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
    for line in ["line 2: MAX_IP_CONCURRENT_CONNECTIONS=four", "line 3: PLAY_WHITELIST=office"] {
        assert!(ended.stderr.contains(line), "{}", ended.stderr);
    }
    let ended = migrate(home.path(), "ws-stream-server", "A='\nB\n", &[]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
    for line in ["line 1: ", "line 2: "] {
        assert!(ended.stderr.contains(line), "{}", ended.stderr);
    }
    let ended = migrate(home.path(), "ws-stream-server", "", &["absent.env"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("absent.env"), "{}", ended.stderr);
}

/// Goal: the environment counts only when it is asked for, and then it wins.
#[test]
fn the_environment_wins_when_asked_for() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".env"), "HTTP_PORT=8081\nID_MAX_LENGTH=16\n").unwrap();
    let migrate = |more: &[&str]| {
        let mut command = Command::new(HEADWATER);
        command.env_clear().env("HTTP_PORT", "8090").env("HOME", "/root");
        run(command.current_dir(home.path()).args(["migrate", "ws-stream-server"]).args(more))
    };
    let port = |ended: &Ended| {
        assert!(ended.status.success() && ended.stderr.is_empty(), "{}", ended.stderr);
        in_effect(home.path(), &ended.stdout)["listen"].to_string()
    };
    assert_eq!(port(&migrate(&[])), "[\"[::]:8081\"]");
    let ended = migrate(&["--environment"]);
    assert_eq!(port(&ended), "[\"[::]:8090\"]");
    assert!(ended.stdout.contains("id_length_max = 16"), "{}", ended.stdout);
    assert_eq!(port(&migrate(&["--environment", "absent.env"])), "[\"[::]:8090\"]");
}

const RESTREAMER: &str = r#"{
    "": "Comments have no name.",
    "": "There may be many of them.",
    "listen": "localhost:8000",
    "timeout": 0,
    "reconnect": 20,
    "inputbuffer": 1000,
    "maxconnections": 100,
    "fullconnections": 90,
    "userlist": { "alice": { "password": "secret" } },
    "resources": [
        { "type": "stream", "api": "", "serve": "/cam.ts", "remote": "http://localhost:10000/cam.ts",
          "remotes": ["udp://239.0.0.1:5000", "file:///tmp/pipe.ts"], "cache": 0,
          "authentication": { "type": "basic", "realm": "R", "user": "alice" } },
        { "type": "api", "api": "check", "serve": "/check/cam.ts", "remote": "/cam.ts" },
        { "type": "api", "api": "health", "serve": "/health" },
        { "type": "static", "serve": "/logo.png", "remote": "file:///tmp/logo.png", "cache": 60 }
    ],
    "notifications": [ { "event": "limit_hit", "type": "url", "url": "http://localhost:9000/full" } ]
}"#;

fn migrate_restreamer(home: &Path, json: &str, more: &[&str]) -> Ended {
    fs::write(home.join("restreamer.json"), json).unwrap();
    let mut command = Command::new(HEADWATER);
    run(command.env_clear().current_dir(home).args(["migrate", "restreamer"]).args(more))
}

/// Goal: a whole file of restreamer becomes a configuration with the same meaning; so does one of 2017.
#[test]
fn files_of_restreamer_are_configurations() {
    let home = tempfile::tempdir().unwrap();
    let ended = migrate_restreamer(home.path(), RESTREAMER, &[]);
    assert!(ended.status.success(), "{}", ended.stderr);
    for key in ["restreamer.json: timeout: 0", "restreamer.json: inputbuffer: "] {
        assert!(ended.stderr.contains(key), "{}", ended.stderr);
    }
    assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    let config = in_effect(home.path(), &ended.stdout);
    assert_eq!(config["listen"].to_string(), "[\"127.0.0.1:8000\"]");
    assert_eq!(config["users"]["alice"].as_str(), Some("secret"));
    assert_eq!(config["viewers"]["max"].as_integer(), Some(100));
    let pull = &config["pull"][0];
    assert_eq!(pull["upstreams"].as_array().map(Vec::len), Some(3));
    assert_eq!(pull["content_type"].as_str(), Some("video/mpeg"));
    assert_eq!(pull["reconnect_max_s"].as_integer(), Some(20));
    assert_eq!(pull["access"]["users"].to_string(), "[\"alice\"]");
    assert_eq!(config["api"][0]["pull"].as_str(), Some("/cam.ts"));
    assert_eq!(config["static"][0]["cache_s"].as_integer(), Some(60));
    assert_eq!(config["notification"][0]["event"].as_str(), Some("limit_hit"));

    let old =
        r#"{ "listen": ":8000", "streams": [ { "serve": "/a.ts", "remote": "file:///a" } ] }"#;
    fs::write(home.path().join("server.json"), old).unwrap();
    let ended = migrate_restreamer(home.path(), "", &["server.json"]);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", ended.stderr);
    let config = in_effect(home.path(), &ended.stdout);
    assert_eq!(config["listen"].to_string(), "[\"[::]:8000\"]");
    assert_eq!(config["pull"][0]["path"].as_str(), Some("/a.ts"));
    assert_eq!(config["api"].as_array().map(Vec::len), Some(3));
}

/// Goal: what cannot be read ends it with each place named and nothing on standard output; so does what
/// the program would not accept.
#[test]
fn wrong_files_of_restreamer_end_a_migration() {
    let home = tempfile::tempdir().unwrap();
    let stream = r#"{ "type": "stream", "serve": "cam.ts", "remote": "tcp://a:1" }"#;
    for (json, words) in [
        (
            RESTREAMER.replace("udp:", "srt:"),
            &["resources[0].remotes[0]: ", "srt:// is none of"][..],
        ),
        (RESTREAMER.replace("s\": 100,", "s\": \"100\","), &["maxconnections: a whole number"]),
        ("{ \"resources\": [] }".to_owned(), &["there is no stream"]),
        (format!("{{ \"resources\": [{stream}] }}"), &["pull.path", "\"cam.ts\""]),
        ("{ \"listen\": ".to_owned(), &["restreamer.json is no JSON", "line 1"]),
    ] {
        let ended = migrate_restreamer(home.path(), &json, &[]);
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
        assert!(
            words.iter().all(|word| ended.stderr.contains(word)),
            "{words:?}: {}",
            ended.stderr
        );
    }
    let ended = migrate_restreamer(home.path(), "", &["absent.json"]);
    assert!(!ended.status.success() && ended.stderr.contains("absent.json"), "{}", ended.stderr);
}

/// Goal: MultiStreamingServer has no configuration, so there is one without a file.
#[test]
fn multistreaming_needs_no_file() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(HEADWATER);
    let ended =
        run(command.env_clear().current_dir(home.path()).args(["migrate", "multistreaming"]));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", ended.stderr);
    let text = in_effect(home.path(), &ended.stdout);
    assert_eq!(text["listen"].to_string(), "[\"0.0.0.0:80\"]");
    assert_eq!(text["cameras"]["listen"].to_string(), "[\"0.0.0.0:12345\"]");
    assert_eq!(text["cameras"]["streams_max"].as_integer(), Some(8));
    assert_eq!(text["compat"]["empty_stream"].as_bool(), Some(true));
}

/// Goal: a wrong section of what is pulled is told by `check`, with what, where and what to do.
#[test]
fn check_tells_of_wrong_upstreams() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("headwater.toml");
    let text = "[[pull]]\npath = \"/cam.ts\"\nupstreams = [\"srt://a:1\"]\n";
    fs::write(&file, text).unwrap();
    let ended = headwater(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    for words in ["pull.upstreams", "/cam.ts", "srt://a:1", "http, https, tcp, udp, rtp"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}
