//! That the checks can fail: each of them on a few made-up lines.

use super::checks::{circles, double_names, long_files, strange_impls, unused_helpers, upward_imports, wide_functions};
use super::source::Source;

fn read(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(file, text)| Source::new(file, text)).collect()
}

#[test]
fn an_import_from_a_later_floor_is_found() {
    let floors = ["ground", "roof"].map(str::to_owned);
    let files =
        [("ground/a.rs", "use crate::roof::{b::B, C};"), ("roof/b.rs", "use crate::ground::a;"), ("roof/mod.rs", "")];
    let found = upward_imports(&read(&files), &floors);
    assert_eq!(found, ["ground/a.rs uses roof of a later floor", "ground/a.rs uses roof::b of a later floor"]);
}

#[test]
fn what_is_no_import_is_not_taken_for_one() {
    let floors = ["ground", "roof"].map(str::to_owned);
    let ground = "
        // crate::roof::b
        const TEXT: &str = \"crate::roof::b \\\" crate::roof::b\";
        const RAW: &str = r#\"crate::roof::b\"#;
        #[cfg(test)]
        use crate::roof::b;
        fn quote() -> char { '\"' }
        #[cfg(test)]
        mod tests { use crate::roof::b; fn x() { let y = '}'; } }
        fn life<'a>(text: &'a str) -> &'a str { text }
    ";
    assert_eq!(upward_imports(&read(&[("ground/a.rs", ground), ("roof/b.rs", "")]), &floors), [""; 0]);
    let late = format!("{ground}\n use crate::roof::b;");
    assert_eq!(upward_imports(&read(&[("ground/a.rs", &late), ("roof/b.rs", "")]), &floors).len(), 1);
}

#[test]
fn a_circle_of_any_length_is_found() {
    let three = [("x/a.rs", "use crate::x::b::B;"), ("x/b.rs", "use super::c;"), ("x/c.rs", "use crate::{x::a::A};")];
    assert_eq!(circles(&read(&three)), ["x: a -> b -> c -> a"]);
    assert_eq!(circles(&read(&three[..2])), [""; 0]);
}

#[test]
fn a_circle_across_folders_is_found() {
    let files = [("x/a.rs", "use crate::y::b;"), ("y/b.rs", ""), ("y/c.rs", "use crate::x::d;"), ("x/d.rs", "")];
    assert_eq!(circles(&read(&files)), [": x -> y -> x"]);
}

#[test]
fn what_a_folder_passes_on_belongs_to_the_file_that_defines_it() {
    let facade = ("x/mod.rs", "mod a;\nmod b;\npub(crate) use a::A;\npub(crate) use self::b::B;");
    let files = [facade, ("x/a.rs", ""), ("x/b.rs", "use crate::x::A;")];
    assert_eq!(circles(&read(&files)), [""; 0]);
    let files = [facade, ("x/a.rs", "use super::B;"), ("x/b.rs", "use crate::x::A;")];
    assert_eq!(circles(&read(&files)), ["x: a -> b -> a"]);
    for text in ["mod a;\nuse a::A;", "mod a;\nfn x() { a::y(); }"] {
        let files = [("x/mod.rs", text), ("x/a.rs", "use super::C;")];
        assert_eq!(circles(&read(&files)), ["x: a -> mod.rs -> a"], "{text}");
    }
}

#[test]
fn an_impl_far_from_its_type_is_found() {
    let home = ("x/a.rs", "pub(crate) struct A<T>(T);\nimpl<T: Fn(u8) -> u8> A<T> {}\nfn f(x: impl Fn()) {}");
    let alien = "implements A, which is not defined there";
    for (text, is_strange) in [
        ("impl A<u8> {}", true),
        ("impl<'a, T> super::a::A<T>\nwhere T: Copy {}", true),
        ("impl fmt::Display for A<u8> {}", true),
        ("trait Local {}\nimpl Local for A<u8> {}", false),
        ("struct B;\nimpl From<A<u8>> for B {}", false),
        ("fn g(a: impl Into<A<u8>>) {}", false),
    ] {
        let found = strange_impls(&read(&[home, ("x/b.rs", text)]));
        assert_eq!(found, if is_strange { vec![format!("x/b.rs {alien}")] } else { vec![] }, "{text}");
    }
    assert_eq!(strange_impls(&read(&[("x/mod.rs", "struct A;"), ("x/b.rs", "impl A {}")])), [""; 0]);
}

#[test]
fn a_name_of_two_public_types_is_found() {
    let files = |second| [("x/a.rs", "pub(crate) struct A;"), ("y/b.rs", second)];
    assert_eq!(double_names(&read(&files("pub enum A {}"))), ["A is defined in x/a.rs and y/b.rs"]);
    for second in ["enum A {}", "pub struct Ab;", "#[cfg(test)]\npub struct A;", "// pub struct A;"] {
        assert_eq!(double_names(&read(&files(second))), [""; 0], "{second}");
    }
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let lines = "// a\n".repeat(10);
    let tests = format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    assert_eq!(long_files(&read(&[("a.rs", &lines), ("b.rs", &tests), ("c_tests.rs", &tests)]), 10), [""; 0]);
    assert_eq!(long_files(&read(&[("a.rs", &lines), ("b.rs", &tests)]), 9), ["a.rs has 10 lines", "b.rs has 10 lines"]);
}

#[test]
fn a_function_with_many_parameters_is_found() {
    let text = "fn few<F: Fn(u8, u8) -> u8>(&self, a: (u8, u8), b: Map<u8, u8>) {}\n\
                fn many<'a>(a: &'a u8, b: [u8; 2],\n c: impl Fn(u8) -> Vec<u8>, d: u8,) -> u8 {}";
    assert_eq!(wide_functions(&read(&[("a.rs", text)]), 3), ["a.rs: many takes 4 parameters"]);
}

#[test]
fn a_helper_without_a_user_is_found() {
    let lab = read(&[("lab/a.rs", "pub fn used() {}\npub fn unused() {}\npub struct Idle;\nfn private() {}")]);
    let users = read(&[("b.rs", "// unused Idle\nfn x() { lab::a::used() }")]);
    assert_eq!(unused_helpers(&lab, &users), ["lab/a.rs: unused is not used", "lab/a.rs: Idle is not used"]);
}
