//! The alert rules and the dashboard in scripts/monitoring/, judged by promtool and by a Prometheus that scrapes a tproxy
//! at work.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::daemon::{LoopbackRelay, free_port};
use lab::servers::Server;
use lab::tempdir::TempDir;
use lab::{clients, wait};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/monitoring");

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let must = std::env::var("TPROXY_MUST_NETNS").is_ok_and(|value| value == "1");
    assert!(found || !must, "{program} is not installed");
    if !found {
        lab::report(&format!("SKIPPED: {program} is not installed"));
    }
    found
}

/// Runs a command, gives what it printed, and panics with all it said if it fails.
fn must(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn alert_rules_do_what_their_tests_say() {
    if is_installed("promtool") {
        must("promtool", &["check", "rules", &format!("{FOLDER}/tproxy-alerts.yml")]);
        must("promtool", &["test", "rules", &format!("{FOLDER}/tproxy-alerts-test.yml")]);
    }
}

/// The expressions of the dashboard and of the alerts, with values in place of the dashboard's variables.
fn expressions() -> Vec<String> {
    let dashboard = fs::read_to_string(format!("{FOLDER}/tproxy-dashboard.json")).expect("dashboard");
    let of_dashboard = dashboard.lines().filter_map(|line| line.trim().strip_prefix("\"expr\": \""));
    let of_dashboard = of_dashboard.map(|rest| {
        let text = rest.trim_end_matches(',').trim_end_matches('"').replace("\\\"", "\"");
        text.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
    });
    let rules = must("promtool", &["check", "rules", &format!("{FOLDER}/tproxy-alerts.yml")]);
    assert!(rules.contains("SUCCESS"), "{rules}");
    let alerts = fs::read_to_string(format!("{FOLDER}/tproxy-alerts.yml")).expect("alerts");
    let of_alerts = alerts.split("expr: ").skip(1).map(|rest| {
        let end = rest.find("\n        for:").or(rest.find("\n        labels:")).expect("what follows");
        let end = end.min(rest.find("\n        labels:").unwrap_or(end));
        rest[..end].trim_start_matches('|').split_whitespace().collect::<Vec<_>>().join(" ")
    });
    of_dashboard.chain(of_alerts).collect()
}

/// The metrics of tproxy that a text names.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("tproxy_"));
    words.map(str::to_owned).collect()
}

/// A Prometheus that ends with its test.
struct Prometheus {
    child: Child,
    address: String,
    _directory: TempDir,
}

impl Prometheus {
    fn scraping(target: &str) -> Prometheus {
        let directory = TempDir::new();
        let config = directory.write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: ['{FOLDER}/tproxy-alerts.yml']\n\
                 scrape_configs: [{{job_name: tproxy, static_configs: [{{targets: ['{target}']}}]}}]\n"
            ),
        );
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!("--storage.tsdb.path={}", directory.file("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus");
        Prometheus { child, address, _directory: directory }
    }

    /// The answer to a query, as JSON; `None` while there is none.
    fn query(&self, expression: &str) -> Option<String> {
        let url = format!("http://{}/api/v1/query", self.address);
        let words = ["-s", "--get", "--noproxy", "*", "--data-urlencode", &format!("query={expression}"), &url];
        let output = Command::new("curl").args(words).output().expect("curl");
        Some(String::from_utf8(output.stdout).expect("text")).filter(|text| !text.is_empty())
    }

    /// The only number that is the answer.
    fn number(&self, expression: &str) -> Option<f64> {
        let answer = self.query(expression)?;
        let (_, rest) = answer.split_once("\"value\":[")?;
        rest.split('"').nth(1)?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_what_the_dashboard_and_the_alerts_ask_for() {
    if !is_installed("prometheus") {
        return;
    }
    let upstream = Server::page("127.0.0.1:0", "page");
    let target = format!("127.0.0.1:{}", free_port());
    let relay = LoopbackRelay::start(&format!("--metrics {target} --check-interval 1"), upstream.address);
    let prometheus = Prometheus::scraping(&target);
    wait::until_within(Duration::from_secs(60), "a scrape", || {
        (prometheus.number("up{job=\"tproxy\"}") == Some(1.0)).then_some(())
    });
    for _ in 0..20 {
        clients::fetch(relay.address).expect("a page");
    }
    wait::until_within(Duration::from_secs(30), "the connections in Prometheus", || {
        let finished = prometheus.number("tproxy_connections_total{redirection=\"1\",reason=\"finished\"}");
        (finished == Some(20.0) && prometheus.number("tproxy_healthy") == Some(1.0)).then_some(())
    });

    let all = expressions();
    assert!(all.len() > 25, "only {} expressions were found", all.len());
    for expression in &all {
        let answer = prometheus.query(expression).expect("an answer");
        assert!(answer.contains("\"status\":\"success\""), "{expression}: {answer}");
    }
    // Each metric is one that tproxy has: in the scrape, or (without rules and for reasons that did not occur) by its type.
    let scrape = must("curl", &["-s", "--noproxy", "*", &format!("http://{target}/metrics")]);
    let known = metrics(&scrape);
    let unknown: Vec<String> = metrics(&all.join(" ")).into_iter().filter(|name| !known.contains(name)).collect();
    assert_eq!(unknown, [""; 0], "{scrape}");
    // No alert is pending or firing while all is well.
    let alerts = prometheus.query("ALERTS").expect("an answer");
    assert!(alerts.contains("\"result\":[]"), "{alerts}");

    // Prometheus has asked for OpenMetrics, which it prefers, and promtool reads the older format.
    let script = format!("curl -s --noproxy '*' http://{target}/metrics | promtool check metrics");
    must("bash", &["-o", "pipefail", "-c", &script]);
}
