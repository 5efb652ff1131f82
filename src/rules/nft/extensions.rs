//! Match modules that take several options together: rates, and times of the day.

use crate::rules::address::Family;
use crate::rules::groups::number;
use crate::rules::nft::addresses::header;
use crate::rules::nft::conditions::Comparison;

/// `-m limit`, with iptables' defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub rate: String,
    pub burst: String,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { rate: "3/hour".into(), burst: "5".into() }
    }
}

impl Limit {
    pub(crate) fn text(&self) -> Option<String> {
        Some(format!("limit rate {} burst {} packets", rate(&self.rate)?, burst(&self.burst)?))
    }
}

/// `10/sec` as nft writes it. Any beginning of a unit's name will do.
fn rate(text: &str) -> Option<String> {
    let (number, unit) = text.split_once('/').unwrap_or((text, "second"));
    let number: u32 = number.parse().ok().filter(|number| *number > 0)?;
    let units = ["second", "minute", "hour", "day"];
    let unit = units.iter().find(|whole| !unit.is_empty() && whole.starts_with(&unit.to_ascii_lowercase()))?;
    Some(format!("{number}/{unit}"))
}

fn burst(text: &str) -> Option<u32> {
    number(text).filter(|burst| *burst > 0)
}

/// `-m hashlimit`: a limit for each source, destination or pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HashLimit {
    pub rate: Option<String>,
    /// More than the rate matches, not less.
    pub above: bool,
    pub burst: Option<String>,
    pub mode: Option<String>,
    pub name: Option<String>,
    pub expire: Option<String>,
}

/// A set of nft that a rule keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptSet {
    pub name: String,
    /// What it is declared with, between its braces.
    pub declaration: String,
}

impl HashLimit {
    /// The statement, and the set that it needs.
    pub(crate) fn statement(&self, family: Family, protocol: &str) -> Option<(String, KeptSet)> {
        let field = |name: &str| {
            Some(match name {
                "srcip" => format!("{} saddr", header(family)),
                "dstip" => format!("{} daddr", header(family)),
                "srcport" => format!("{protocol} sport"),
                "dstport" => format!("{protocol} dport"),
                _ => return None,
            })
        };
        let key = self.mode.as_deref()?.split(',').map(field).collect::<Option<Vec<_>>>()?.join(" . ");
        let name = self.name.as_deref().filter(|name| is_name(name))?;
        let burst = burst(self.burst.as_deref().unwrap_or("5"))?;
        let seconds = match &self.expire {
            None => 10,
            Some(expire) => expire.parse::<u64>().ok()?.div_ceil(1000).max(1),
        };
        let over = if self.above { "over " } else { "" };
        let rate = rate(self.rate.as_deref()?)?;
        let short = header(family);
        let set = KeptSet {
            name: format!("rates.{short}.{protocol}.{name}"),
            declaration: format!("typeof {key}; size 65535; flags dynamic,timeout; timeout {seconds}s;"),
        };
        Some((format!("update @{} {{ {key} limit rate {over}{rate} burst {burst} packets }}", set.name), set))
    }
}

/// Whether nft takes this as a part of a name.
fn is_name(text: &str) -> bool {
    text.len() <= 64 && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter))
}

/// `-m time`, in UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub start: Option<String>,
    pub stop: Option<String>,
    pub weekdays: Option<(bool, String)>,
    pub first: Option<String>,
    pub last: Option<String>,
}

const DAY: u32 = 24 * 60 * 60;

impl Time {
    pub(crate) fn comparisons(&self) -> Option<Vec<Comparison>> {
        let mut all = Vec::new();
        if self.start.is_some() || self.stop.is_some() {
            let start = self.start.as_deref().map_or(Some(0), second_of_day)?;
            let stop = self.stop.as_deref().map_or(Some(DAY - 1), second_of_day)?;
            all.extend(hours(start, stop));
        }
        if let Some((negated, list)) = &self.weekdays {
            let days: Vec<String> = list.split(',').map(weekday).collect::<Option<_>>()?;
            all.push(Comparison::new("meta day", *negated, days));
        }
        if self.first.is_some() || self.last.is_some() {
            let first = self.first.as_deref().map_or_else(|| Some("1970-01-01 00:00:00".into()), date)?;
            let last = self.last.as_deref().map_or_else(|| Some("2038-01-19 04:17:07".into()), date)?;
            all.push(Comparison::new("meta time", false, vec![format!("\"{first}\"-\"{last}\"")]));
        }
        Some(all)
    }
}

/// The hours from `start` to `stop`, both included, perhaps over midnight.
fn hours(start: u32, stop: u32) -> Option<Comparison> {
    let clock = |second: u32| format!("\"{:02}:{:02}:{:02}\"", second / 3600, second / 60 % 60, second % 60);
    let range = |first, last| if first == last { clock(first) } else { format!("{}-{}", clock(first), clock(last)) };
    // From a time to the same one is all day (`time_mt`, net/netfilter/xt_time.c).
    if start < stop {
        return Some(Comparison::new("meta hour", false, vec![range(start, stop)]));
    }
    // What lies between them is left out, if anything does.
    let (first, last) = (stop + 1, start.checked_sub(1)?);
    (first <= last).then(|| Comparison::new("meta hour", true, vec![range(first, last)]))
}

fn second_of_day(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours, minutes] => (*hours, *minutes, 0),
        [hours, minutes, seconds] => (*hours, *minutes, *seconds),
        _ => return None,
    };
    (hours < 24 && minutes < 60 && seconds < 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

/// A day by its number from Monday, or by its name, of which two letters are enough.
fn weekday(text: &str) -> Option<String> {
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let by_number = text.parse::<usize>().ok().and_then(|number| days.get(number.checked_sub(1)?));
    let lower = text.to_ascii_lowercase();
    let by_name = || days.iter().find(|day| lower.len() >= 2 && day.to_ascii_lowercase().starts_with(&lower));
    by_number.or_else(by_name).map(|day| format!("\"{day}\""))
}

/// `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]` as nft writes it.
fn date(text: &str) -> Option<String> {
    let (day, clock) = text.split_once('T').unwrap_or((text, "0"));
    let numbers = |text: &str, at: char| text.split(at).map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let (day, clock) = (numbers(day, '-')?, numbers(clock, ':')?);
    let of = |list: &[u32], at: usize, least| list.get(at).copied().unwrap_or(least);
    let (year, month, date) = (of(&day, 0, 0), of(&day, 1, 1), of(&day, 2, 1));
    let (hour, minute, second) = (of(&clock, 0, 0), of(&clock, 1, 0), of(&clock, 2, 0));
    let fits = (1970..=2038).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&date);
    (fits && day.len() <= 3 && clock.len() <= 3 && hour < 24 && minute < 60 && second < 60)
        .then(|| format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}"))
}
