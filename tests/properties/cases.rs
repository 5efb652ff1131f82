//! How many cases a property is tried with, and from which seed.

use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngSeed};

/// `usual` cases, or as many as PROPTEST_CASES says, from a seed that is new each time, or PROPTEST_RNG_SEED.
pub fn cases(usual: u32) -> Config {
    let config = Config::default();
    let count = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_nanos() as u64,
    };
    // The harness shows this when the test fails, and then the same cases can be tried again.
    println!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={count}");
    Config { cases: count, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..config }
}
