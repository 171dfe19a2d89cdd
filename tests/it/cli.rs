//! The command line: help, version, configuration errors that name the place, the short flags of
//! go-chunked-streaming-server.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::client::{Noise, ask, get, put, put_with};
use crate::server::{Ended, HEADWATER, Server, Setup, headwater};

/// Runs `serve` with a configuration that must be refused.
fn refused(toml: &str) -> Ended {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bad.toml");
    fs::write(&file, toml).unwrap();
    let data = home.path().join("data").display().to_string();
    let file = file.display().to_string();
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let ended = headwater(&[&["serve", "--config", &file, "--data", &data][..], &listen].concat());
    assert!(!ended.status.success(), "accepted: {toml}");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

/// Goal: help texts name every command and option, on standard output, with exit 0.
#[test]
fn help_names_commands_and_options() {
    let help = headwater(&["--help"]);
    assert!(help.status.success());
    for command in ["serve", "publish", "demo"] {
        assert!(help.stdout.contains(command), "{}", help.stdout);
    }
    let serve = headwater(&["serve", "--help"]);
    assert!(serve.status.success());
    for option in ["--config", "--listen", "--admin", "--data", "--cores", "--set"] {
        assert!(serve.stdout.contains(option), "{option}: {}", serve.stdout);
    }
    for default in ["127.0.0.1:9094", "127.0.0.1:9095", "./content"] {
        assert!(serve.stdout.contains(default), "{default}: {}", serve.stdout);
    }
    let publish = headwater(&["publish", "--help"]);
    assert!(publish.status.success());
    for option in ["--loop", "--rate"] {
        assert!(publish.stdout.contains(option), "{}", publish.stdout);
    }
}

/// Goal: the version, and exit 2 with a usage line for what is unknown.
#[test]
fn version_and_unknown_words() {
    let version = headwater(&["--version"]);
    assert!(version.status.success());
    assert!(version.stdout.starts_with("headwater "), "{}", version.stdout);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")));
    for words in [&["sevre"][..], &["serve", "--lisen", "x"], &["serve", "--cores", "many"]] {
        let ended = headwater(words);
        assert_eq!(ended.status.code(), Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.lines().count() < 20 && !ended.stderr.is_empty());
    }
}

/// Goal: an unknown key names file, key and line. Method: at the top, in a table, in a list.
#[test]
fn an_unknown_key_names_its_line() {
    for (toml, key, line) in [
        ("ram_only = true\n\nlissten = [\"127.0.0.1:1\"]\n", "lissten", 3),
        ("[limits]\nhead_timeout_s = 3\nhead_timeot_s = 4\n", "head_timeot_s", 3),
        ("[[retention]]\nprefix = \"/a\"\nmax_age = 4\n", "max_age", 3),
        ("[stoer]\nextent_bytes = 3\n", "stoer", 1),
    ] {
        let ended = refused(toml);
        for part in [key, "bad.toml", &format!("line {line}")] {
            assert!(
                ended.stderr.contains(part) || ended.stderr.contains(&format!("bad.toml:{line}")),
                "{part:?} is not in {:?}",
                ended.stderr
            );
        }
        assert!(ended.stderr.contains(key), "{key} is not in {:?}", ended.stderr);
    }
}

/// Goal: wrong values, broken TOML and missing files are errors, not defaults.
#[test]
fn wrong_values_are_errors() {
    for toml in [
        "cores = \"many\"\n",
        "cores = -1\n",
        "durability = \"maybe\"\n",
        "on_abort = \"forget\"\n",
        "listen = [\"nowhere\"]\n",
        "[limits]\nhead_timeout_s = \"soon\"\n",
        "[store\nextent_bytes = 1\n",
        "= 3\n",
    ] {
        let ended = refused(toml);
        assert!(ended.stderr.contains("bad.toml"), "{toml}: {}", ended.stderr);
    }
    let missing = headwater(&["serve", "--config", "/nonexistent/headwater.toml"]);
    assert!(!missing.status.success());
    assert!(missing.stderr.contains("/nonexistent/headwater.toml"), "{}", missing.stderr);
    let set = headwater(&["serve", "--set", "limits.unheard_of=3"]);
    assert!(!set.status.success());
    assert!(set.stderr.contains("unheard_of"), "{}", set.stderr);
}

/// Goal: `check` tells the limits, and its sample, with every line uncommented, is a good file.
#[test]
fn check_prints_limits_and_a_good_sample() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("sample.toml");
    let sample = headwater(&["check", "--print-sample"]);
    assert!(sample.status.success(), "{}", sample.stderr);
    let lines = sample.stdout.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with([' ', '#']) && !rest.contains("(none)") => rest,
        _ => line,
    });
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let good = headwater(&["check", "--config", file.to_str().unwrap()]);
    assert!(good.status.success(), "{}", good.stderr);
    for limit in ["limits.connections_max", "limits.lag_bytes_max", "store.object_bytes_max"] {
        assert!(good.stdout.contains(limit), "{limit}: {}", good.stdout);
    }
    fs::write(&file, "[limits]\nhead_timeot_s = 1\n").unwrap();
    let bad = headwater(&["check", "--config", file.to_str().unwrap()]);
    assert!(!bad.status.success() && bad.stderr.contains("head_timeot_s"), "{}", bad.stderr);
}

/// Goal: `log_format = "json"` is one JSON object a line. Method: start, upload, stop; parse all.
#[test]
fn the_json_log_is_json() {
    let mut server = Setup::new().key("log_format", "\"json\"").start();
    put(server.address, "/x", b"x");
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    let log = server.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{line}");
    }
}

/// Goal: addresses that cannot be used are said in a line. Method: nonsense, and a port in use,
/// for the data and the admin address.
#[test]
fn unusable_addresses_are_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data").display().to_string();
    let free = "127.0.0.1:0";
    for (listen, admin, culprit) in [
        ("nonsense", free, "nonsense"),
        ("127.0.0.1:99999", free, "99999"),
        (address.as_str(), free, address.as_str()),
        (free, address.as_str(), address.as_str()),
    ] {
        let words = ["serve", "--data", &data, "--listen", listen, "--admin", admin];
        let ended = headwater(&words);
        assert!(!ended.status.success(), "{listen} {admin}");
        assert!(ended.stderr.contains(culprit), "{culprit} is not in {:?}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// Goal: another headwater on the same address is "in use" too, although each core listens with
/// SO_REUSEPORT: requests must not be dealt out to two servers. Method: the address of a running one.
#[test]
fn the_address_of_another_headwater_is_in_use() {
    let server = Server::start();
    put(server.address, "/x", b"x");
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data").display().to_string();
    let address = server.address.to_string();
    let words = ["serve", "--data", &data, "--listen", &address, "--admin", "127.0.0.1:0"];
    let ended = headwater(&words);
    assert!(!ended.status.success());
    assert!(ended.stderr.contains(&address), "{address} is not in {:?}", ended.stderr);
    get(server.address, "/x").assert_body(200, b"x");
}

/// Goal: a second server cannot use the data directory of the first, or does no harm to it.
#[test]
fn two_servers_do_not_share_a_directory() {
    let server = Server::start();
    put(server.address, "/x", b"x");
    let data = server.data().display().to_string();
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let ended = headwater(&[&["serve", "--data", &data][..], &listen].concat());
    assert!(!ended.status.success());
    assert!(ended.stderr.contains(&data), "the directory is not in {:?}", ended.stderr);
    put(server.address, "/y", b"y");
    get(server.address, "/x").assert_body(200, b"x");
}

/// Starts a server by go-chunked's flags alone, in a directory of its own.
fn go_chunked(setup: &Setup, port: u16, flags: &[&str]) -> Server {
    let mut command = Command::new(HEADWATER);
    command.arg("serve").arg("-i").arg(port.to_string()).args(flags);
    command.args(["--admin", "127.0.0.1:0"]).current_dir(setup.home());
    Server::launch(setup.clone(), command)
}

/// A port that was free a moment ago, below those that the kernel hands to clients.
fn free_port() -> u16 {
    let mut random = Noise::new(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    loop {
        let port = 10_000 + random.below(20_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Goal: `-i -p -o -r -d -w` do what they did in go-chunked. Method: each, as its users wrote it.
#[test]
fn the_short_flags_of_go_chunked_work() {
    let setup = Setup::new();
    let cors = setup.home().join("cors.json");
    fs::write(
        &cors,
        r#"{"AllowedMethods": ["GET", "PUT"], "AllowedOrigins": ["https://a.example"],
            "AllowedHeaders": ["Joc-Seq-Id", "Expires"]}"#,
    )
    .unwrap();
    let port = free_port();
    let cors = cors.display().to_string();
    let server = go_chunked(&setup, port, &["-p", "./media", "-o", &cors, "-d", "-w"]);
    assert_eq!(server.address.port(), port);
    put(server.address, "/a/b.ts", b"ts");
    assert_eq!(fs::read(setup.home().join("media/a/b.ts")).unwrap(), b"ts");
    let answer = ask(server.address, "OPTIONS", "/a/b.ts", "");
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://a.example"));
    let methods = answer.needed("access-control-allow-methods");
    assert!(methods.contains("GET") && methods.contains("PUT") && !methods.contains("DELETE"));
    let allowed = answer.needed("access-control-allow-headers").to_ascii_lowercase();
    assert!(allowed.contains("joc-seq-id") && allowed.contains("expires"), "{allowed}");
    let absent = ask(server.address, "GET", "/never", "Expires: in=1\r\n");
    assert!(absent.field("waited-for-data-ms").is_some(), "-w: {absent:?}");
    put_with(server.address, "/short.ts", "Cache-Control: max-age=1\r\n", b"x");
    crate::server::wait_until("-d deletes it", || {
        ask(server.address, "HEAD", "/short.ts", "").status == 404
    });
    drop(server);
    let server = go_chunked(&setup, free_port(), &["-r"]);
    put(server.address, "/ram.ts", b"ram");
    get(server.address, "/ram.ts").assert_body(200, b"ram");
    assert!(!setup.home().join("content/ram.ts").exists());
}

/// Goal: go-chunked's default directory is `./content`, and a bad CORS file ends the start.
#[test]
fn defaults_and_errors_of_the_short_flags() {
    let setup = Setup::new();
    let server = go_chunked(&setup, free_port(), &[]);
    put(server.address, "/d.ts", b"d");
    assert_eq!(fs::read(setup.home().join("content/d.ts")).unwrap(), b"d");
    let bad = setup.home().join("bad.json");
    fs::write(&bad, "{\"AllowedMethods\": 3").unwrap();
    for file in [bad.display().to_string(), "/nonexistent/cors.json".to_owned()] {
        let ended = headwater(&["serve", "-i", "0", "--admin", "127.0.0.1:0", "-o", &file]);
        assert!(!ended.status.success());
        assert!(ended.stderr.contains(&file), "{file} is not in {:?}", ended.stderr);
    }
}

/// Goal: several addresses in the file, and one of them IPv6. Method: listen on both, ask both.
#[test]
fn it_listens_on_several_addresses() {
    let port = free_port();
    let setup = Setup::new();
    let file = setup.home().join("two.toml");
    let listen = format!("listen = [\"127.0.0.1:0\", \"[::1]:{port}\"]\nadmin = \"127.0.0.1:0\"\n");
    fs::write(&file, listen).unwrap();
    let mut command = Command::new(HEADWATER);
    command.args(["serve", "--config"]).arg(&file).arg("--data").arg(setup.data());
    let server = Server::launch(setup, command);
    put(server.address, "/x", b"x");
    get(server.address, "/x").assert_body(200, b"x");
    let second = format!("[::1]:{port}").parse().unwrap();
    get(second, "/x").assert_body(200, b"x");
}

/// Goal: who reads only the beginning of what `check` says gets that, and no failure of the program.
#[test]
fn check_may_be_cut_short() {
    for option in ["--print-sample", "--print-config", "--set=cores=1"] {
        let mut command = Command::new(HEADWATER);
        command.args(["check", option]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && errors.is_empty(), "{option}: {errors}");
    }
}
