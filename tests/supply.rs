//! What tproxy is built from: few crates, each from the one registry, of one version, under a licence that binds nobody,
//! and with a reason. deny.toml says the same to cargo-deny, which not everybody has.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Crates in the program, our own and what is needed to build them among them. More is a decision, to be made here.
const MOST: usize = 23;

const LICENCES: [&str; 2] = ["MIT", "Apache-2.0"];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Packages of this repository: the program, what its tests share, and the benchmark.
const OWN: [&str; 3] = [env!("CARGO_PKG_NAME"), "lab", "contest"];

/// The value of a `key = "value"` line.
fn value<'a>(package: &'a str, key: &str) -> Option<&'a str> {
    let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
    line.filter(|value| !value.is_empty())
}

/// The packages of Cargo.lock, as text.
fn locked() -> Vec<String> {
    let packages: Vec<_> = read("Cargo.lock").split("[[package]]\n").skip(1).map(str::to_owned).collect();
    assert!(packages.len() > 10, "Cargo.lock holds {} packages only", packages.len());
    packages
}

/// What `cargo tree` says of each crate in use, once.
fn tree(edges: &str, format: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--offline", "--prefix", "none", "--edges", edges, "--format", format]);
    let output = cargo.output().expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Whether an SPDX expression leaves us a choice of ours. `/` is how some wrote `OR`, and what is in brackets we judge as
/// if it were not: stricter than need be.
fn is_free(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

#[test]
fn every_crate_comes_from_the_registry_with_its_checksum() {
    for package in locked() {
        let name = value(&package, "name").expect("a name");
        if !OWN.contains(&name) {
            let source = value(&package, "source");
            assert_eq!(source, Some("registry+https://github.com/rust-lang/crates.io-index"), "{name}");
            assert!(value(&package, "checksum").is_some_and(|sum| sum.len() == 64), "{name} has no checksum");
        }
    }
}

#[test]
fn no_crate_is_there_in_two_versions() {
    let mut seen = BTreeSet::new();
    for package in locked() {
        let name = value(&package, "name").expect("a name").to_owned();
        assert!(seen.insert(name.clone()), "{name} is there twice: cargo tree --duplicates");
    }
}

#[test]
fn licences_bind_nobody() {
    assert!(is_free("MIT/Apache-2.0") && is_free("(MIT OR GPL-3.0) AND Apache-2.0"));
    assert!(!is_free("GPL-3.0") && !is_free("MIT AND GPL-2.0") && !is_free(""));
    let all = tree("normal,build,dev", "{p}\t{l}");
    for line in &all {
        let (name, licence) = line.split_once('\t').expect("two fields");
        assert!(is_free(licence), "{name} is under '{licence}'");
    }
}

#[test]
fn the_program_stands_on_few_crates() {
    let all = tree("normal,build", "{p}");
    assert!(all.len() <= MOST, "{} crates, {MOST} were agreed on: {all:#?}", all.len());
}

#[test]
fn every_dependency_has_its_reason_and_no_features_by_default() {
    let reasons = read("docs/DEPENDENCIES.md");
    let mut count = 0;
    let tables = [
        ("Cargo.toml", "[dependencies]"),
        ("Cargo.toml", "[dev-dependencies]"),
        ("tests/lab/Cargo.toml", "[dependencies]"),
        ("benches/contest/Cargo.toml", "[dependencies]"),
    ];
    for (manifest, table) in tables {
        let manifest = read(manifest);
        let (_, rest) = manifest.split_once(&format!("\n{table}\n")).expect(table);
        for line in rest.lines().take_while(|line| !line.starts_with('[')).filter(|line| line.contains(" = ")) {
            let (name, rest) = line.split_once(" = ").expect("what was filtered for");
            let has_reason = OWN.contains(&name) || reasons.contains(&format!("\n| {name} | "));
            assert!(has_reason, "{name} has no reason in docs/DEPENDENCIES.md");
            assert!(rest.contains("default-features = false"), "{name}: {rest}");
            count += 1;
        }
    }
    assert!(count > 10, "only {count} dependencies were found");
}
