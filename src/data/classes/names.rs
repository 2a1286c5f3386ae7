//! Unifies names of classes that look the same: an accented letter can be encoded as one character or as two.

use crate::data::named::composed;

/// Replaces each of `names` that is not among `known`, but is a different encoding of exactly one of them, by that one.
pub(super) fn same_text<'a>(names: impl Iterator<Item = &'a mut String>, known: &[String]) {
    for name in names.filter(|name| !known.contains(name)) {
        let text = composed(name);
        let mut same = known.iter().filter(|known| composed(known) == text);
        if let (Some(one), None) = (same.next(), same.next()) {
            name.clone_from(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::named::unify;

    #[test]
    fn one_name_that_looks_the_same_is_meant() {
        let known = ["caf\u{e9}", "cafe", "u\u{308}", "\u{fc}"].map(String::from);
        let mut names = ["cafe\u{301}", "cafe", "tea", "u\u{308}"].map(String::from);
        same_text(names.iter_mut(), &known);
        assert_eq!(names, ["caf\u{e9}", "cafe", "tea", "u\u{308}"]);
        let mut names = ["u\u{308}", "\u{fc}", "u", "\u{fc}"].map(String::from);
        unify(names.iter_mut());
        assert_eq!(names, ["u\u{308}", "u\u{308}", "u", "u\u{308}"]);
    }
}
