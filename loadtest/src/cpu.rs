//! What things cost: processor time and memory of the server as its /proc files tell them, and
//! the share of a core that this client used. It only reads; what an operation is, the scenarios
//! know.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::sys;

/// /proc/PID/stat counts in clock ticks; USER_HZ is 100 on every Linux architecture that matters.
const NANOS_PER_TICK: u64 = 10_000_000;

/// The processes named on the command line; several, for servers that fork workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pids: Vec<u32>,
}

/// Processor time of the server at one moment.
#[derive(Debug)]
pub(crate) struct ServerCpu {
    /// By thread, in nanoseconds: exact to the last scheduler tick.
    threads: HashMap<u32, u64>,
    /// By process, from the coarse counter that also holds threads that have ended.
    total_ns: u64,
}

/// Memory of the server that is its own and not page cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerMemory {
    pub(crate) rss_anon_bytes: u64,
    pub(crate) pss_anon_bytes: u64,
}

/// What a server holds on to, to be compared before and after.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Footprint {
    /// With the pages of files that are mapped.
    pub(crate) rss_bytes: u64,
    pub(crate) rss_anon_bytes: u64,
    pub(crate) descriptors: u64,
}

impl Server {
    pub(crate) fn new(pids: Vec<u32>) -> Server {
        Server { pids }
    }

    /// `None` when no process was named.
    pub(crate) fn cpu(&self) -> Result<Option<ServerCpu>> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let mut cpu = ServerCpu { threads: HashMap::new(), total_ns: 0 };
        for pid in &self.pids {
            cpu.total_ns += process_ns(*pid)?;
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("server process {pid} cannot be read"))?;
            for task in tasks {
                let name = task?.file_name();
                let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between the listing and the reading.
                if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"))
                {
                    cpu.threads.insert(thread, first_number(&text).unwrap_or(0));
                }
            }
        }
        Ok(Some(cpu))
    }

    /// `None` when no process was named.
    pub(crate) fn memory(&self) -> Result<Option<ServerMemory>> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let mut memory = ServerMemory { rss_anon_bytes: 0, pss_anon_bytes: 0 };
        for pid in &self.pids {
            let read = |file: &str| {
                fs::read_to_string(format!("/proc/{pid}/{file}"))
                    .with_context(|| format!("/proc/{pid}/{file} cannot be read"))
            };
            memory.rss_anon_bytes += kib_line(&read("status")?, "RssAnon:")?;
            memory.pss_anon_bytes += kib_line(&read("smaps_rollup")?, "Pss_Anon:")?;
        }
        Ok(Some(memory))
    }

    /// `None` when no process was named.
    pub(crate) fn footprint(&self) -> Result<Option<Footprint>> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let mut all = Footprint { rss_bytes: 0, rss_anon_bytes: 0, descriptors: 0 };
        for pid in &self.pids {
            let unreadable = || format!("server process {pid} cannot be read");
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.with_context(unreadable)?;
            all.rss_bytes += kib_line(&status, "VmRSS:")?;
            all.rss_anon_bytes += kib_line(&status, "RssAnon:")?;
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).with_context(unreadable)?;
            all.descriptors += descriptors.count() as u64;
        }
        Ok(Some(all))
    }
}

impl ServerCpu {
    /// Nanoseconds used since `before`.
    pub(crate) fn since(&self, before: &ServerCpu) -> u64 {
        let used = |(thread, ns): (&u32, &u64)| {
            ns.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))
        };
        let exact = self.threads.iter().map(used).sum();
        let ended = before.threads.keys().any(|thread| !self.threads.contains_key(thread));
        if ended || self.threads.is_empty() {
            // The time of an ended thread is only in the coarse counter.
            u64::max(exact, self.total_ns.saturating_sub(before.total_ns))
        } else {
            exact
        }
    }
}

/// How much processor time the calling thread, which runs the whole client, used of a stretch
/// of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientClock {
    wall_ns: u64,
    cpu_ns: u64,
}

impl ClientClock {
    pub(crate) fn start() -> ClientClock {
        ClientClock { wall_ns: sys::monotonic_ns(), cpu_ns: sys::thread_cpu_ns() }
    }

    /// Seconds gone by, and the busy share from 0 to 1.
    pub(crate) fn stop(self) -> (f64, f64) {
        let wall_ns = (sys::monotonic_ns() - self.wall_ns).max(1);
        let cpu_ns = sys::thread_cpu_ns() - self.cpu_ns;
        (wall_ns as f64 / 1e9, cpu_ns as f64 / wall_ns as f64)
    }
}

/// Pins the calling thread to a core.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    sys::pin_thread(cpu).with_context(|| format!("cannot pin to core {cpu}: does it exist?"))
}

/// User and system time of a process, its ended threads included.
fn process_ns(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("server process {pid} does not exist or cannot be read"))?;
    // The second field is the command in parentheses and may hold spaces and parentheses itself.
    let after_command = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let mut fields = after_command.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let (user, system) = (ticks(), ticks());
    let sum = user.zip(system).map(|(user, system)| user + system);
    Ok(sum.ok_or_else(|| anyhow!("/proc/{pid}/stat is malformed"))? * NANOS_PER_TICK)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The value of a `Name:   123 kB` line, in bytes.
fn kib_line(text: &str, name: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = value.and_then(first_number);
    Ok(kib.ok_or_else(|| anyhow!("the kernel does not tell {name}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_process() {
        let server = Server::new(vec![std::process::id()]);
        let before = server.cpu().unwrap().unwrap();
        let start = sys::thread_cpu_ns();
        while sys::thread_cpu_ns() - start < 50_000_000 {}
        let used = server.cpu().unwrap().unwrap().since(&before);
        assert!(used >= 40_000_000, "{used}");
        assert!(server.memory().unwrap().unwrap().rss_anon_bytes > 4096);
    }

    #[test]
    fn a_descriptor_and_memory_are_seen() {
        let server = Server::new(vec![std::process::id()]);
        // Other tests of this process open and close files and memory meanwhile, but not so many.
        let (files, bytes) = (50, 64 << 20);
        let before = server.footprint().unwrap().unwrap();
        let held: Vec<_> = (0..files).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let memory = std::hint::black_box(vec![1_u8; bytes]);
        let after = server.footprint().unwrap().unwrap();
        assert!(after.descriptors > before.descriptors + held.len() as u64 / 2);
        assert!(after.rss_anon_bytes > before.rss_anon_bytes + memory.len() as u64 / 2);
        assert!(after.rss_bytes >= after.rss_anon_bytes);
    }

    #[test]
    fn no_process_is_no_number_and_a_missing_one_is_an_error() {
        assert!(Server::default().cpu().unwrap().is_none());
        assert!(Server::new(vec![u32::MAX]).cpu().is_err());
    }

    #[test]
    fn an_ended_thread_makes_the_coarse_counter_count() {
        let cpu = |threads: &[(u32, u64)], total_ns| ServerCpu {
            threads: threads.iter().copied().collect(),
            total_ns,
        };
        assert_eq!(cpu(&[(1, 7), (3, 2)], 0).since(&cpu(&[(1, 5)], 0)), 4);
        assert_eq!(cpu(&[(1, 7)], 90).since(&cpu(&[(1, 5), (2, 9)], 10)), 80);
    }
}
