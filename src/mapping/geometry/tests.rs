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
