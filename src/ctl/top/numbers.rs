//! Numbers in few characters.

/// Five characters at most, with a factor of 1000.
pub(super) fn amount(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 || unit == "T" {
            return match unit {
                "" => format!("{value:.0}"),
                _ if value < 9.95 => format!("{value:.2}{unit}"),
                _ if value < 99.5 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    String::new()
}

/// The same, with a fraction if it is small.
pub(super) fn rate(value: f64) -> String {
    if value > 0.0 && value < 9.95 { format!("{value:.1}") } else { amount(value) }
}

/// A time of more than a second: two units at most.
pub(super) fn seconds(value: f64) -> String {
    // Times are not negative, and a float that is too large becomes the largest number.
    let all = value as u64;
    let (days, hours, minutes, seconds) = (all / 86400, all / 3600 % 24, all / 60 % 60, all % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A time that is usually less than a second.
pub(super) fn short_time(value: f64) -> String {
    match value * 1000.0 {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// The characters of a graph, the lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN_BARS: [char; 8] = ['_', '.', '-', '=', '+', 'o', '*', '#'];

/// A graph of one line, whose highest character is the largest value.
pub(super) fn graph(values: &[f64], unicode: bool) -> String {
    let bars = if unicode { &BARS } else { &PLAIN_BARS };
    let largest = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let step = if largest > 0.0 { (value / largest * 7.0).round() as usize } else { 0 };
        bars.get(step).copied().unwrap_or(' ')
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, wanted) in
            [(0.0, "0"), (999.0, "999"), (1234.0, "1.23k"), (45_600.0, "45.6k"), (9_999_999.0, "10.0M")]
        {
            assert_eq!(amount(value), wanted);
        }
        assert_eq!((rate(0.25), rate(0.0), rate(1500.0)), ("0.2".into(), "0".into(), "1.50k".into()));
        assert!([0.0, 9.994, 99.94, 999.4, 9994.0, 99_940.0, 999_400.0, 1e18].iter().all(|it| amount(*it).len() <= 8));
    }

    #[test]
    fn times_are_short() {
        for (value, wanted) in [(0.4, "0s"), (75.0, "1m15s"), (3700.0, "1h01m"), (200_000.0, "2d07h")] {
            assert_eq!(seconds(value), wanted);
        }
        assert_eq!(
            (short_time(0.0004), short_time(0.25), short_time(3.0)),
            ("0.4 ms".into(), "250 ms".into(), "3.0 s".into())
        );
    }

    #[test]
    fn a_graph_has_its_largest_value_at_the_top() {
        assert_eq!(graph(&[0.0, 1.0, 2.0], true), "▁▅█");
        assert_eq!(graph(&[0.0, 0.0], false), "__");
    }
}
