//! The order of the code. `src/lib.rs` lists the folders from the ground floor up: a module uses its own floor and those
//! below it only. No modules use each other in a circle, each type has one name and one home, files and functions stay
//! small, and the tests share nothing that no test uses.

#[path = "floors/checks.rs"]
mod checks;
#[path = "floors/proofs.rs"]
mod proofs;
#[path = "floors/source.rs"]
mod source;

use source::{Source, sources};

/// Lines of a file, its tests left out.
const MOST_LINES: usize = 400;

/// Parameters of a function, `self` included.
const MOST_PARAMETERS: usize = 6;

/// The sources of the library; what makes programs of it stands above all floors.
fn program() -> Vec<Source> {
    let mut all = sources("src");
    all.retain(|source| !["lib.rs", "main.rs", "tproxyctl.rs"].contains(&source.file.as_str()));
    assert!(all.len() > 50, "only {} files were found", all.len());
    all
}

fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn imports_point_downward_only() {
    let text = std::fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    let floors =
        text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let floors: Vec<String> = floors.map(str::to_owned).collect();
    let program = program();
    let missing = program.iter().find(|source| !floors.contains(&source.module[0]));
    assert!(missing.is_none(), "src/lib.rs does not list {missing:?}");
    let count: usize = program.iter().map(|source| source.paths().len()).sum();
    assert!(count > 300, "only {count} imports were found");
    assert_none(checks::upward_imports(&program, &floors));
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    assert_none(checks::circles(&program()));
}

#[test]
fn a_type_is_implemented_where_it_is_defined() {
    assert_none(checks::strange_impls(&program()));
}

#[test]
fn a_public_type_has_a_name_of_its_own() {
    assert_none(checks::double_names(&program()));
}

#[test]
fn files_are_short() {
    assert_none(checks::long_files(&program(), MOST_LINES));
}

#[test]
fn functions_take_few_parameters() {
    assert_none(checks::wide_functions(&program(), MOST_PARAMETERS));
}

#[test]
fn what_the_tests_share_is_used() {
    let (lab, others): (Vec<_>, Vec<_>) = sources("tests").into_iter().partition(|it| it.file.starts_with("lab/"));
    assert!(lab.len() > 10, "only {} files were found", lab.len());
    let users: Vec<Source> = others.into_iter().chain(sources("benches")).chain(sources("src")).collect();
    assert_none(checks::unused_helpers(&lab, &users));
}
