//! The system calls that neither the standard library nor tokio-uring offers: clocks, pinning,
//! limits, a paced timer, discarding reads, resets. The only file with `unsafe`; it decides nothing, its
//! callers say what the numbers mean.

use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds: the clock of every time stamp and every pace.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Processor time of the calling thread, user and system, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live, writable timespec for the length of the call.
    let result = unsafe { libc::clock_gettime(clock, &mut now) };
    assert_eq!(result, 0, "both clocks exist on every Linux");
    now.tv_sec as u64 * NANOS_PER_SECOND + now.tv_nsec as u64
}

/// Sleeps the calling thread until a point of `monotonic_ns`; returns at once if it has passed.
pub(crate) fn sleep_until(deadline_ns: u64) {
    let deadline = timespec(deadline_ns);
    loop {
        // SAFETY: `deadline` outlives the call; with an absolute time the kernel writes no
        // remainder, so the null pointer is never followed.
        let result = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &deadline,
                std::ptr::null_mut(),
            )
        };
        if result != libc::EINTR {
            return;
        }
    }
}

/// Pins the calling thread; threads it starts later inherit the pin.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a cpu_set_t is a plain bit array, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `cpu` was checked to lie within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is initialised and its true size is passed; 0 names the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open files to the hard limit and returns it.
pub(crate) fn raise_open_files_max() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is initialised and only read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// A timer that fires at `start_ns` of the monotonic clock and every `period_ns` from then on.
/// Reading it yields the number of periods gone by since the last read, so a late caller knows
/// how late it is. It is left in blocking mode: io_uring then waits for it instead of failing.
pub(crate) fn periodic_timer(start_ns: u64, period_ns: u64) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let raw = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned `raw` as a new descriptor that nobody else knows.
    let timer = unsafe { OwnedFd::from_raw_fd(raw) };
    let spec = libc::itimerspec { it_interval: timespec(period_ns), it_value: timespec(start_ns) };
    // SAFETY: `raw` is open, `spec` is initialised, and the old value is not asked for.
    let result =
        unsafe { libc::timerfd_settime(raw, libc::TFD_TIMER_ABSTIME, &spec, std::ptr::null_mut()) };
    if result == 0 { Ok(timer) } else { Err(io::Error::last_os_error()) }
}

/// Throws away up to `bytes_max` received bytes without copying them and returns how many;
/// never waits. On TCP, MSG_TRUNC makes the kernel advance past the data and write nothing.
pub(crate) fn discard(socket: RawFd, bytes_max: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC the kernel does not write to the buffer of a TCP socket; should it
    // ever try, the null pointer makes it fail with EFAULT instead of touching our memory.
    let result = unsafe {
        libc::recv(socket, std::ptr::null_mut(), bytes_max, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Makes the close of a TCP socket a reset, which also throws away what is still to be sent.
pub(crate) fn reset_on_close(socket: RawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = mem::size_of_val(&linger) as libc::socklen_t;
    // SAFETY: `linger` is initialised, outlives the call, and its true size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a TCP socket acknowledge what it gets as soon as it is read, although it has sent something.
pub(crate) fn acknowledge_at_once(socket: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: `on` is initialised, outlives the call, and its true size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / NANOS_PER_SECOND) as libc::time_t,
        tv_nsec: (ns % NANOS_PER_SECOND) as libc::c_long,
    }
}
