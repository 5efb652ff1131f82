//! wrk(1) in the place of our own clients, as a check that the results do not depend on them.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::{Counts, Probe, WARM_UP};

/// Fetches an object over and over. wrk counts from its start to its end, so the time that counts is cut out of its run:
/// its rate is the rate of the whole run, and the probe's figures are those of the window.
pub fn run(
    size: usize,
    count: usize,
    to: SocketAddr,
    window: Duration,
    probe: &mut dyn Probe,
) -> Result<Counts, String> {
    let whole = (WARM_UP + window + WARM_UP).as_secs_f64().ceil();
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{count}"), &format!("-d{whole}s"), "--latency"]);
    command.arg(format!("http://{to}/object/{size}")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| format!("wrk: {error}"))?;
    std::thread::sleep(WARM_UP);
    probe.begin()?;
    let start = Instant::now();
    std::thread::sleep(window);
    let seconds = start.elapsed().as_secs_f64();
    probe.end()?;
    counts(child, seconds)
}

fn counts(child: Child, seconds: f64) -> Result<Counts, String> {
    let done = child.wait_with_output().map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let rate = value("Requests/sec:").and_then(|rate| rate.parse::<f64>().ok());
    let rate = rate.filter(|_| done.status.success()).ok_or_else(|| format!("wrk said: {text}"))?;
    let quantile = |name| value(name).and_then(microseconds).unwrap_or(0);
    let mut counts = Counts { seconds, answers: (rate * seconds) as u64, ..Counts::default() };
    // Enough to find the two quantiles again that wrk tells.
    counts.response_times = [vec![quantile("50%"); 98], vec![quantile("99%"); 2]].concat();
    // The line is missing when nothing failed.
    if let Some(errors) = value("Socket errors:").or_else(|| value("Non-2xx or 3xx responses:")) {
        counts.failures = 1;
        counts.first_failure = Some(errors.to_owned());
    }
    Ok(counts)
}

/// Parses `812.00us`, `1.50ms` or `2.00s`.
fn microseconds(text: &str) -> Option<u32> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some((number.parse::<f64>().ok()? * factor) as u32)
}
