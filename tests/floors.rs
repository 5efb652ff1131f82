//! The code is a house: what `src/lib.rs` lists first is the ground floor, and a module uses its own floor and those
//! below it only. Within a folder no two modules use each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src").flatten() {
        match entry.path() {
            path if path.is_dir() => sources(&path, found),
            path if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            _ => {}
        }
    }
}

/// The paths after `crate::` in a file, as far as two steps, tests left out.
fn used(path: &Path) -> BTreeSet<Vec<String>> {
    let text = fs::read_to_string(path).expect("source");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let paths = code.split("crate::").skip(1);
    paths
        .map(|rest| {
            rest.split("::").map(|step| step.split(|c| !plain(c)).next().unwrap_or("").to_owned()).take(2).collect()
        })
        .collect()
}

fn floors() -> Vec<String> {
    let text = fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    let names = text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

fn all() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let own = |path: &Path| -> Vec<String> {
        let inside = path.strip_prefix("src").expect("inside").with_extension("");
        inside.iter().map(|step| step.to_string_lossy().into_owned()).collect()
    };
    files.iter().map(|path| (own(path), used(path))).filter(|(own, _)| own != &["lib"] && own != &["main"]).collect()
}

#[test]
fn imports_point_downward_only() {
    let floors = floors();
    let floor = |name: &str| floors.iter().position(|other| other == name).unwrap_or_else(|| panic!("no floor {name}"));
    let mut checked = 0;
    for (own, used) in all() {
        for path in used.iter().filter(|path| floors.contains(&path[0])) {
            assert!(floor(&path[0]) <= floor(&own[0]), "{} uses {} above it", own.join("/"), path.join("::"));
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} imports were found");
}

#[test]
fn no_modules_of_a_folder_use_each_other() {
    let all = all();
    for (own, used) in &all {
        for path in used.iter().filter(|path| path.len() == 2 && own.len() == 2 && path[0] == own[0] && *path != own) {
            let back = all.get(path).is_some_and(|theirs| theirs.contains(own));
            assert!(!back, "{} and {} use each other", own.join("/"), path.join("/"));
        }
    }
}
