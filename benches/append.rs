//! What an append costs: pieces of three sizes at the end of an open object, on disk and in memory.
//! The object keeps a window of its newest bytes, so that a long run neither fills the disk nor
//! measures the growth of one file: extents are made at the tail and dropped at the head, as those
//! of a camera are. The directory is a temporary one: set `TMPDIR` to measure another disk.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::runtime::clock;
use headwater::store::{
    Ending, NewObject, ObjectInfo, RetentionRule, Store, StoreOptions, Visibility, WriteRule,
    Writer,
};

const PIECE_BYTES: [usize; 3] = [1 << 10, 4 << 10, 64 << 10];
const EXTENT_BYTES: u64 = 8 << 20;
const WINDOW_BYTES: u64 = 32 << 20;

fn open_store(data: Option<PathBuf>) -> Arc<Store> {
    let keep_window =
        RetentionRule { window_bytes: Some(WINDOW_BYTES), ..RetentionRule::default() };
    let options = StoreOptions {
        data,
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
        signal: Box::new(|_core, list| list.fire()),
    };
    Store::open(options).expect("a store opens in an empty directory")
}

fn begin(store: &Arc<Store>, name: &str) -> Writer {
    let new = NewObject {
        name,
        info: ObjectInfo::default(),
        visibility: Visibility::AtOnce,
        rule: WriteRule::TakeOver,
        ending: Ending::Torn,
        core: Some(0),
    };
    store.begin(new).expect("the name is free")
}

fn append(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is a temporary directory");
    let places = [("disk", Some(folder.path().to_owned())), ("memory", None)];
    for (place, data) in places {
        let store = open_store(data);
        let mut group = criterion.benchmark_group(format!("append/{place}"));
        for piece_bytes in PIECE_BYTES {
            let piece = vec![0x5a; piece_bytes];
            let mut writer = begin(&store, "bench/object");
            group.throughput(Throughput::Bytes(piece_bytes as u64));
            group.bench_function(format!("{} KiB", piece_bytes >> 10), |bencher| {
                bencher.iter(|| writer.append(&[IoSlice::new(&piece)]).expect("there is room"));
            });
        }
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
