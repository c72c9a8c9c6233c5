use super::*;

const W: u64 = 64 << 10;
const O: u64 = 16 << 10;
const FULL: u64 = W + O;
const PAGE: u64 = 4096;

#[test]
fn geometry_follows_budget_and_end_of_file() {
    let geometry = |window, budget| Geometry::new(window, 1 << 20, budget).window;
    assert_eq!(geometry(64 << 20, 1 << 40), 64 << 20);
    assert_eq!(geometry(64 << 20, 100 << 20), 8 << 20);
    assert_eq!(geometry(64 << 20, 0), 64 << 10);
    assert_eq!(geometry(3 * W, 1 << 40), 3 * W);
    let geometry = Geometry {
        window: W,
        overlap: O,
    };
    for (index, file_len, extent) in [
        (0, 0, 0),
        (0, 1, PAGE),
        (0, PAGE, PAGE),
        (0, PAGE + 1, 2 * PAGE),
        (0, FULL - 1, FULL),
        (0, FULL + 1, FULL),
        (1, W, 0),
        (1, W + 1, PAGE),
        (2, W, 0),
    ] {
        assert_eq!(
            geometry.extent(index, file_len),
            extent,
            "{index} {file_len}"
        );
    }
}

#[test]
fn a_base_is_a_multiple_of_the_page() {
    assert_eq!(BaseOffset::new(0).unwrap(), BaseOffset::ZERO);
    for base in [PAGE, 3 * PAGE, 1 << 40] {
        assert_eq!(BaseOffset::new(base).unwrap().in_file(5).unwrap(), base + 5);
    }
    for base in [1, PAGE - 1, PAGE + 1, 512, u64::MAX] {
        let refused = BaseOffset::new(base).unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::INVAL), "{base}");
    }
    let last = BaseOffset::new(u64::MAX - PAGE + 1).unwrap();
    assert!(last.in_file(PAGE - 1).is_ok() && last.in_file(PAGE).is_err());
}
