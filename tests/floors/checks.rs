//! What must hold of the sources. Each check names what breaks it, one sentence for each.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, closing, name, split};

/// Modules by the file that each of them uses, with everything between them that is only passed on left out.
fn uses(sources: &[Source]) -> Vec<(&Source, BTreeSet<Vec<String>>)> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    let passed: BTreeMap<Vec<String>, Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            let own = &source.module;
            source.passed_on().into_iter().map(move |(name, from)| ([&own[..], &[name]].concat(), from))
        })
        .collect();
    let module_of = |path: &[String]| {
        let mut path = path;
        let mut steps = 0;
        while let Some(from) = (1..=path.len()).find_map(|end| passed.get(&path[..end])) {
            (path, steps) = (from, steps + 1);
            assert!(steps < 20, "{path:?} is passed on in a circle");
        }
        let end = (1..=path.len()).rev().find(|end| modules.contains(&path[..*end]))?;
        Some(path[..end].to_vec())
    };
    let of_one = |source: &Source| {
        let passed: BTreeSet<Vec<String>> = source.passed_on().into_iter().map(|(_, from)| from).collect();
        let children = modules.iter().filter(|module| module.len() == source.module.len() + 1);
        let children = children.filter(|module| module.starts_with(&source.module));
        let named = children.filter(|module| source.begins_a_path(&module[source.module.len()]));
        let own = named.map(|module| module.to_vec());
        let paths = source.paths().into_iter().chain(own).filter(|path| !passed.contains(path));
        paths.filter_map(|path| module_of(&path)).filter(|module| *module != source.module).collect()
    };
    sources.iter().map(|source| (source, of_one(source))).collect()
}

/// A module uses its own floor and those above it in the list only.
pub fn upward_imports(sources: &[Source], floors: &[String]) -> Vec<String> {
    let floor = |name: &String| floors.iter().position(|other| other == name);
    let mut found = Vec::new();
    for (source, used) in uses(sources) {
        let own = floor(&source.module[0]);
        for path in used.iter().filter(|path| own.is_some() && floor(&path[0]) > own) {
            found.push(format!("{} uses {} of a later floor", source.file, path.join("::")));
        }
    }
    found
}

/// No modules of a folder use each other in a circle, however long. A folder in it counts as one module, with all that
/// it holds.
pub fn circles(sources: &[Source]) -> Vec<String> {
    let mut folders: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (source, used) in uses(sources) {
        for path in used {
            let same = source.module.iter().zip(&path).take_while(|(own, other)| own == other).count();
            let step = |module: &[String]| module.get(same).cloned().unwrap_or_else(|| "mod.rs".to_owned());
            let folder = folders.entry(path[..same].to_vec()).or_default();
            folder.entry(step(&source.module)).or_default().insert(step(&path));
        }
    }
    let mut found = Vec::new();
    for (folder, graph) in folders {
        let mut seen = BTreeSet::new();
        for start in graph.keys() {
            let Some(circle) = circle_from(start, &graph).filter(|_| !seen.contains(start)) else { continue };
            seen.extend(circle.iter().cloned());
            found.push(format!("{}: {} -> {start}", folder.join("/"), circle.join(" -> ")));
        }
    }
    found
}

/// The shortest way from a module back to itself.
fn circle_from(start: &String, graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let (mut ways, mut seen) = (vec![vec![start.clone()]], BTreeSet::new());
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in graph.get(way.last()?).into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The types that a file defines, with what stands before `struct` and so on.
fn types(source: &Source) -> Vec<(&str, bool)> {
    let kinds = ["struct", "enum", "union", "trait", "type"];
    let places = kinds.into_iter().flat_map(|kind| source.places(kind).map(move |at| (kind, at)));
    let mut found = Vec::new();
    for (kind, at) in places {
        let before = source.code[..at].rsplit(['\n', ';', '}', '{']).next().unwrap_or_default();
        let defined = name(source.code[at + kind.len()..].trim_start());
        let is_type = defined.starts_with(|c: char| c.is_ascii_uppercase());
        // An associated type belongs to its trait.
        let is_top = kind != "type" || at == 0 || !before.starts_with(' ');
        if is_type && is_top {
            found.push((defined, before.trim_start().starts_with("pub")));
        }
    }
    found
}

/// No name of a public type is defined twice.
pub fn double_names(sources: &[Source]) -> Vec<String> {
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in sources {
        for (defined, _) in types(source).into_iter().filter(|(_, public)| *public) {
            homes.entry(defined).or_default().push(&source.file);
        }
    }
    let twice = homes.into_iter().filter(|(_, homes)| homes.len() > 1);
    twice.map(|(defined, homes)| format!("{defined} is defined in {}", homes.join(" and "))).collect()
}

/// What an `impl` is of: a trait, if any, and a type.
fn implemented(head: &str) -> (Option<&str>, &str) {
    let head = match head.trim_start().strip_prefix('<') {
        Some(generic) => &generic[closing_angle(generic) + 1..],
        None => head,
    };
    let head = head.split(" where ").next().unwrap_or(head);
    // `for<'a>` is no part of a trait's name.
    let (of, on) = match head.replace('\n', " ").find(" for ").filter(|at| !head[at + 4..].starts_with('<')) {
        Some(at) => (Some(&head[..at]), &head[at + 5..]),
        None => (None, head),
    };
    (of.map(last_name), last_name(on))
}

fn closing_angle(text: &str) -> usize {
    let (mut depth, mut before) = (1, ' ');
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '<') - i32::from(c == '>' && before != '-');
        if depth == 0 {
            return at;
        }
        before = c;
    }
    text.len() - 1
}

/// The last step of a path, without parameters.
fn last_name(text: &str) -> &str {
    let path = text.trim().trim_start_matches(['&', '!']).trim_start_matches("mut ");
    let path = path.split('<').next().unwrap_or(path).trim();
    name(path.rsplit("::").next().unwrap_or(path))
}

/// A type is implemented where it is defined, or in the folder of that module; a trait of ours also where that is.
pub fn strange_impls(sources: &[Source]) -> Vec<String> {
    let mut homes: BTreeMap<&str, Vec<&[String]>> = BTreeMap::new();
    for source in sources {
        for (defined, _) in types(source) {
            homes.entry(defined).or_default().push(&source.module);
        }
    }
    let mut found = Vec::new();
    for source in sources {
        let is_home = |defined: &str| {
            homes.get(defined).is_some_and(|all| all.iter().any(|home| source.module.starts_with(home)))
        };
        for at in source.places("impl") {
            let before = source.code[..at].trim_end();
            // Not the type of an argument or of a result.
            if !before.is_empty() && !before.ends_with(['}', ';', ']', '{']) && !before.ends_with("unsafe") {
                continue;
            }
            let Some((head, _)) = source.code[at + 4..].split_once('{') else { continue };
            let (of, on) = implemented(head);
            if homes.contains_key(on) && !is_home(on) && !of.is_some_and(is_home) {
                found.push(format!("{} implements {on}, which is not defined there", source.file));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// No file is longer than this without its tests.
pub fn long_files(sources: &[Source], most: usize) -> Vec<String> {
    let is_test = |source: &Source| source.module.last().is_some_and(|name| name.ends_with("tests"));
    let long = sources.iter().filter(|source| !is_test(source) && source.lines > most);
    long.map(|source| format!("{} has {} lines", source.file, source.lines)).collect()
}

/// No function takes more than this, `self` included.
pub fn wide_functions(sources: &[Source], most: usize) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for at in source.places("fn") {
            let rest = source.code[at + 2..].trim_start();
            let called = name(rest);
            let behind = &rest[called.len()..];
            let behind = match behind.strip_prefix('<') {
                Some(generic) => &generic[closing_angle(generic) + 1..],
                None => behind,
            };
            let Some(arguments) = behind.strip_prefix('(').filter(|_| !called.is_empty()) else { continue };
            let count = closing(arguments, '(', ')').map_or(0, |end| split(&arguments[..end]).len());
            if count > most {
                found.push(format!("{}: {called} takes {count} parameters", source.file));
            }
        }
    }
    found
}

/// What is public in `shared` and has no other mention, there or in `users`.
pub fn unused_helpers(shared: &[Source], users: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in shared {
        for kind in ["fn", "struct", "enum", "const", "static", "trait"] {
            for at in source.places(kind) {
                let is_public = source.code[..at].trim_end().ends_with("pub");
                let defined = name(source.code[at + kind.len()..].trim_start());
                let mentions: usize = shared.iter().chain(users).map(|other| other.places(defined).count()).sum();
                if is_public && mentions < 2 {
                    found.push(format!("{}: {defined} is not used", source.file));
                }
            }
        }
    }
    found
}
