//! A file far larger than the daemon's address space.

mod common;
mod stage;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use common::{Builder, Mount};
use stage::{GIB, KIB, MIB, Stage, noise, on, printed};

const TIB: u64 = 1 << 40;
const SIZE: u64 = 4 * TIB;
const PIECE: u64 = 64 * KIB;

/// Daemons that may map 2 GiB in all, program and stacks included: with the windows that ship, with the smallest and
/// with large ones.
fn small_daemons() -> [Builder; 3] {
    let small = || Mount::builder().rlimit("as", 2 * GIB);
    [
        small(),
        small().options(["--window-size", "64K"]),
        small().options(["--window-size", "256M"]),
    ]
}

/// Where the pieces of data lie: at the start, across the borders of windows of every usual size, on both sides of what
/// 32 and 40 bits can count, anywhere, and at the end.
fn places() -> Vec<u64> {
    let borders = [
        128 * KIB,
        MIB,
        16 * MIB,
        64 * MIB,
        256 * MIB,
        GIB,
        2 * GIB,
        4 * GIB,
        TIB,
        3 * TIB,
    ];
    let mut places: Vec<u64> = borders
        .iter()
        .map(|border| border - PIECE / 2 + 3)
        .collect();
    places.extend((1..40).map(|step| step * 97 * GIB + step * 12_345));
    places.extend([0, SIZE - PIECE]);
    places.sort_unstable();
    places
}

fn check(stage: &Stage, file: &File, what: &str, seed: u64) {
    for at in places() {
        let mut bytes = vec![1; PIECE as usize + 8];
        let (lead, tail) = (at.min(4), (SIZE - at - PIECE).min(4));
        let range = &mut bytes[..(lead + PIECE + tail) as usize];
        file.read_exact_at(range, at - lead).unwrap();
        let mut expected = vec![0; lead as usize];
        expected.extend(noise(PIECE, at + seed));
        expected.resize(range.len(), 0);
        stage::assert_same_bytes(
            &format!("{what} at {at} (daemon {})", stage.pid()),
            &expected,
            range,
        );
    }
}

fn write(file: &File, seed: u64) {
    for at in places() {
        file.write_all_at(&noise(PIECE, at + seed), at).unwrap();
    }
}

/// "A sparse file of 4 TiB, with data at the start, across window borders and at the end, is read and written correctly
/// by a daemon with RLIMIT_AS of 2 GiB": what the source has is read, what is written is in the source, and nothing
/// beside it; it is done twice so that windows given up are mapped again.
/// (proves: S15)
#[test]
fn four_tebibytes_in_two_gibibytes_of_address_space() {
    for builder in small_daemons() {
        on(builder, |stage| {
            let there = File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(stage.source("giant"))
                .unwrap();
            there.set_len(SIZE).unwrap();
            write(&there, 1);
            let file = File::options()
                .read(true)
                .write(true)
                .open(stage.mount("giant"))
                .unwrap();
            check(stage, &file, "read", 1);
            write(&file, 2);
            check(stage, &there, "written", 2);
            write(&there, 3);
            drop(file);
            let file = File::options()
                .read(true)
                .write(true)
                .open(stage.mount("giant"))
                .unwrap();
            check(stage, &file, "read after a change behind the mount", 3);
            file.sync_all().unwrap();
            assert_eq!(file.metadata().unwrap().size(), SIZE);
            let used = there.metadata().unwrap().blocks() * 512;
            assert!(
                used < 2 * places().len() as u64 * (PIECE + 8 * KIB),
                "{used} bytes on disk: holes were filled"
            );
        });
    }
}

/// Many large files open and mapped at once share the same address space.
/// (proves: S15)
#[test]
fn forty_files_of_a_gibibyte_in_two_gibibytes_of_address_space() {
    for builder in small_daemons() {
        on(builder, |stage| {
            let mut files = Vec::new();
            for number in 0..40 {
                let name = format!("file-{number}");
                let there = File::create(stage.source(&name)).unwrap();
                there.set_len(GIB).unwrap();
                there
                    .write_all_at(&noise(PIECE, number), GIB - PIECE)
                    .unwrap();
                files.push(
                    File::options()
                        .read(true)
                        .write(true)
                        .open(stage.mount(&name))
                        .unwrap(),
                );
            }
            for round in 0..2 {
                for (number, file) in files.iter().enumerate() {
                    for at in [0, GIB / 2, GIB - 2 * PIECE] {
                        file.write_all_at(&noise(100, at + round), at).unwrap();
                    }
                    let mut bytes = vec![0; PIECE as usize];
                    file.read_exact_at(&mut bytes, GIB - PIECE).unwrap();
                    stage::assert_same_bytes(
                        &format!("file {number}"),
                        &noise(PIECE, number as u64),
                        &bytes,
                    );
                    file.read_exact_at(&mut bytes[..100], GIB / 2).unwrap();
                    stage::assert_same_bytes(
                        &format!("file {number}"),
                        &noise(100, GIB / 2 + round),
                        &bytes[..100],
                    );
                }
            }
        });
    }
}

/// A program of its own maps a gibibyte of the giant file and sees the source's bytes.
#[test]
fn a_client_maps_more_than_the_daemon_may() {
    on(Mount::builder().rlimit("as", GIB), |stage| {
        let there = File::create(stage.source("large")).unwrap();
        there.set_len(3 * GIB).unwrap();
        there.write_all_at(b"stored before", 2 * GIB + 5).unwrap();
        let mut store = Command::new(stage.program("store"));
        printed(store.arg("shared").arg(stage.mount("large")).args([
            &(3 * GIB - 50).to_string(),
            "33",
            "50",
        ]));
        let mut end = [0; 50];
        File::open(stage.source("large"))
            .unwrap()
            .read_exact_at(&mut end, 3 * GIB - 50)
            .unwrap();
        assert_eq!(end, [b'!'; 50]);
        let mut middle = [0; 13];
        File::open(stage.mount("large"))
            .unwrap()
            .read_exact_at(&mut middle, 2 * GIB + 5)
            .unwrap();
        assert_eq!(&middle, b"stored before");
    });
}
