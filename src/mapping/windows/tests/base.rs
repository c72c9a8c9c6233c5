//! Contents that begin within their file, compared with pread(2).

use super::*;

fn new_set_at(space: &Arc<AddressSpace>, base: u64) -> Arc<WindowSet> {
    let base = BaseOffset::new(base).unwrap();
    WindowSet::new(space, guard::install().unwrap(), base)
}

/// Zero, a page, less than a window, more than a window.
const BASES: [u64; 4] = [0, PAGE, 3 * PAGE, W + 5 * PAGE];

/// The bytes that pread(2) reads at `offset` of a content that begins at `base`.
fn pread(file: &File, base: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, base + offset).unwrap();
    bytes
}

/// Offsets at, before and behind each edge, with lengths up to the longest, within `len`.
fn ranges(len: u64) -> impl Iterator<Item = (u64, u64)> {
    let edges = [0, PAGE, O, W, FULL, 2 * W, len].into_iter();
    let offsets = edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]);
    offsets
        .filter(move |&offset| offset < len)
        .flat_map(move |offset| [1, PAGE, O].map(|size| (offset, size.min(len - offset))))
}

fn assert_as_pread(set: &WindowSet, file: &File, base: u64, len: u64) {
    for (offset, size) in ranges(len) {
        let loan = set
            .borrow(file.as_fd(), offset, size as usize, len)
            .unwrap();
        let expected = pread(file, base, offset, size);
        let mut got = vec![0; size as usize];
        loan.read(&mut got).unwrap();
        assert!(got == expected, "{base} {len}: {offset}+{size}");
        // The test loads the bytes itself: nobody truncates this file.
        assert!(loan.with_bytes(|bytes| bytes == expected));
    }
}

#[test]
fn a_content_that_begins_within_its_file_is_read_from_there() {
    const LEN: u64 = 2 * W + 5;
    for base in BASES {
        let file = patterned(base + LEN);
        let space = space(64);
        let set = new_set_at(&space, base);
        assert_as_pread(&set, &file, base, LEN);
        assert_eq!(set.window_count(), 3);
        // The base changes the size of no window.
        assert_eq!(space.used(), FULL + (W + PAGE) + PAGE);
        let loan = set.borrow(file.as_fd(), W, 1, LEN).unwrap();
        loan.will_need(0..LEN).unwrap();
    }
}

#[test]
fn a_content_that_begins_within_its_file_is_written_there() {
    const LEN: u64 = W + O + 9;
    for base in BASES {
        let file = patterned(base + LEN + PAGE);
        let mut expected = pread(&file, 0, 0, base + LEN + PAGE);
        let set = new_set_at(&space(64), base);
        for (round, (offset, size)) in ranges(LEN).enumerate() {
            let bytes = vec![round as u8; size as usize];
            let loan = set
                .borrow(file.as_fd(), offset, size as usize, LEN)
                .unwrap();
            loan.write(&bytes).unwrap();
            expected[(base + offset) as usize..][..size as usize].copy_from_slice(&bytes);
        }
        assert!(pread(&file, 0, 0, base + LEN + PAGE) == expected, "{base}");
        assert_as_pread(&set, &file, base, LEN);
    }
}

#[test]
fn a_content_that_begins_within_its_file_grows_and_shrinks() {
    for base in BASES {
        let (file, space) = (patterned(base + 3 * W), space(64));
        let (set, from_zero) = (new_set_at(&space, base), new_set(&space));
        let plain = sparse(3 * W);
        for len in [
            3 * W,
            W + 1,
            W,
            5,
            FULL,
            2 * W + 7,
            2 * W + PAGE,
            0,
            1,
            3 * W,
        ] {
            file.set_len(base + len).unwrap();
            plain.set_len(len).unwrap();
            set.resize(len);
            from_zero.resize(len);
            assert_as_pread(&set, &file, base, len);
            assert_as_pread(&from_zero, &plain, 0, len);
            assert_eq!(set.mapped_bytes(), from_zero.mapped_bytes());
        }
    }
}

#[test]
fn a_content_may_end_before_its_file() {
    let (file, set) = (patterned(4 * W), new_set_at(&space(64), PAGE));
    assert_as_pread(&set, &file, PAGE, W - 3);
    assert_eq!(
        errno(set.borrow(file.as_fd(), W - 4, 2, W - 3)),
        Errno::INVAL
    );
    assert_eq!(set.mapped_bytes(), W);
}

#[test]
fn a_base_beyond_all_offsets_is_refused() {
    let space = space(4);
    let set = new_set_at(&space, u64::MAX - PAGE + 1);
    let file = sparse(2 * W);
    assert_eq!(errno(set.borrow(file.as_fd(), W, 1, 2 * W)), Errno::INVAL);
    assert_eq!((space.used(), set.window_count()), (0, 0));
}
