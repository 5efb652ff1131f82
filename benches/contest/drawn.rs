//! Sizes and numbers of connections that nobody chose: drawn from a seed, so that a run can be repeated.

/// The bounds of the sizes.
const SIZES: (f64, f64) = (300.0, 8.0 * 1024.0 * 1024.0);

/// The bounds of the numbers of connections.
const CONNECTIONS: (f64, f64) = (8.0, 64.0);

/// Draws pairs of a size and a number of connections, both log-uniform.
pub fn draw(seed: u64, count: usize) -> Vec<(usize, usize)> {
    let mut state = seed;
    let mut between = |(least, most): (f64, f64)| {
        let fraction = (next(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
        (least.ln() + fraction * (most / least).ln()).exp() as usize
    };
    (0..count).map(|_| (between(SIZES), between(CONNECTIONS))).collect()
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
