//! What waking readers costs: an append while readers of the same core wait for it, the way back
//! into the list, and the hand-over to another core, for the writer alone and until the reader there
//! has been woken. Everything is in memory; the other core is a thread that sleeps in a channel.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use headwater::runtime::clock;
use headwater::store::{
    Ending, NewObject, ObjectInfo, Reader, RetentionRule, Signal, Store, StoreOptions, Visibility,
    WriteRule, Writer,
};

const READERS: [usize; 4] = [0, 1, 100, 1000];
const WRITER_CORE: usize = 0;
const OTHER_CORE: usize = 1;
const PIECE: [u8; 1024] = [0x5a; 1024];
const EXTENT_BYTES: u64 = 8 << 20;
const WINDOW_BYTES: u64 = 32 << 20;
/// Long enough for the other processor to go to sleep, as it does between the parts of a live stream.
const LIVE_PAUSE: Duration = Duration::from_millis(1);

fn open_store(signal: Box<Signal>) -> Arc<Store> {
    let keep_window =
        RetentionRule { window_bytes: Some(WINDOW_BYTES), ..RetentionRule::default() };
    let options = StoreOptions {
        data: None,
        extent_bytes: EXTENT_BYTES,
        keep_aborted: false,
        objects_max: 100,
        object_bytes_max: u64::MAX,
        open_files_max: 100,
        mappings_max: 100,
        body_cache_bytes_max: 0,
        total_bytes_max: None,
        watched_names_max: 1,
        retention: vec![keep_window],
        clock: clock::unix_ms,
        signal,
    };
    Store::open(options).expect("a store in memory opens")
}

fn begin(store: &Arc<Store>) -> Writer {
    let new = NewObject {
        name: "bench/object",
        info: ObjectInfo::default(),
        visibility: Visibility::AtOnce,
        rule: WriteRule::TakeOver,
        ending: Ending::Torn,
        core: Some(WRITER_CORE),
    };
    store.begin(new).expect("the name is free")
}

fn append(writer: &mut Writer) {
    writer.append(&[IoSlice::new(&PIECE)]).expect("memory has room");
}

fn readers_of(store: &Arc<Store>, writer: &Writer, core: usize, count: usize) -> Vec<Reader> {
    let tail = writer.object().tail();
    let reader = |_| Reader::new(store, writer.object().clone(), core, tail, u64::MAX);
    (0..count).map(reader).collect()
}

/// The reader takes what is there and waits for more.
fn wait_for_more(reader: &mut Reader, waker: &Waker) {
    reader.advance(reader.lag_bytes());
    let polled = reader.poll_news(&mut Context::from_waker(waker));
    assert_eq!(polled, Poll::Pending);
}

fn same_core(criterion: &mut Criterion) {
    let store = open_store(Box::new(|_core, list| list.fire()));
    let mut writer = begin(&store);
    let mut group = criterion.benchmark_group("wake/same core");
    for count in READERS {
        let mut readers = readers_of(&store, &writer, WRITER_CORE, count);
        group.bench_function(format!("append, {count} readers"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    for reader in &mut readers {
                        wait_for_more(reader, Waker::noop());
                    }
                    let begun = clock::now();
                    append(&mut writer);
                    spent += clock::now().duration_since(begun);
                }
                spent
            });
        });
    }
    let mut readers = readers_of(&store, &writer, WRITER_CORE, 1);
    group.bench_function("append and wait again, 1 reader", |bencher| {
        bencher.iter(|| {
            wait_for_more(&mut readers[0], Waker::noop());
            append(&mut writer);
        });
    });
}

/// Counts how often its reader was woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// From the append until a sleeping thread has fired the list; the writer's part of it alone.
fn other_core(criterion: &mut Criterion) {
    let (sender, receiver) = mpsc::channel();
    let hand_over: Box<Signal> = Box::new(move |core, list| {
        assert_eq!(core, OTHER_CORE);
        // It fails only while the benchmark ends.
        let _ = sender.send(list);
    });
    let core = std::thread::spawn(move || {
        while let Ok(list) = receiver.recv() {
            list.fire();
        }
    });
    let store = open_store(hand_over);
    let mut writer = begin(&store);
    let mut reader = readers_of(&store, &writer, OTHER_CORE, 1).remove(0);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut group = criterion.benchmark_group("wake/other core");
    // The pause is not measured, only waited for: fewer rounds.
    group.sample_size(20).measurement_time(Duration::from_millis(500));
    for (name, until_woken, pause) in [
        ("append", false, Duration::ZERO),
        ("append until woken", true, Duration::ZERO),
        ("append until woken, after a pause", true, LIVE_PAUSE),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    wait_for_more(&mut reader, &waker);
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                    }
                    let before = woken.0.load(Ordering::SeqCst);
                    let begun = clock::now();
                    append(&mut writer);
                    let handed_over = clock::now();
                    while woken.0.load(Ordering::SeqCst) == before {
                        std::thread::yield_now();
                    }
                    let end = if until_woken { clock::now() } else { handed_over };
                    spent += end.duration_since(begun);
                }
                spent
            });
        });
    }
    group.finish();
    drop((reader, writer, store));
    core.join().expect("it ends with the store that signals it");
}

criterion_group!(benches, same_core, other_core);
criterion_main!(benches);
