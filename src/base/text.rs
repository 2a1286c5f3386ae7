//! Makes untrusted text, such as file names, safe to show; and helpers for messages.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Shows a name in one line of a message.
pub(crate) trait Shown {
    /// Returns the name with control characters escaped: a terminal executes some of them, and a line break would end the line.
    fn shown(&self) -> ShownName<'_>;
}

impl Shown for Path {
    fn shown(&self) -> ShownName<'_> {
        ShownName(self.to_string_lossy())
    }
}

impl Shown for str {
    fn shown(&self) -> ShownName<'_> {
        ShownName(Cow::Borrowed(self))
    }
}

/// A name with control characters escaped; see [`Shown`].
pub(crate) struct ShownName<'a>(Cow<'a, str>);

impl fmt::Display for ShownName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape(&self.0, is_control))
    }
}

/// Escapes characters that a terminal would execute, but keeps line breaks: for whole messages.
pub(crate) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && is_control(c))
}

/// Writes `1 image` or `2 images`: the count, then the words that go with it.
pub(crate) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Returns the verb that goes with a count: is or are.
pub fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// Number of items of a list that a message names.
const NAMED: usize = 5;

/// Writes the first items of a list, as in `a, b, c and 7 more`, safe to show.
pub fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|i| i.to_string().shown().to_string()).collect();
    let shown = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Number of characters of a value that a message shows.
const LONGEST: usize = 200;

/// Shortens a value that is too long for a message, such as a list of a thousand numbers.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Returns whether it is a control character (C0, C1, DEL), changes the direction in which a line is shown, or is not allowed in XML.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

fn escape(text: &str, escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if escaped(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_long_values_read_well() {
        assert_eq!(plural(1, "image", "images"), "1 image");
        assert_eq!(plural(0, "image", "images"), "0 images");
        assert_eq!(shortened("é, 2"), "é, 2");
        let short = shortened(&"é".repeat(1000)).into_owned();
        assert!(short.ends_with('…') && short.chars().count() == LONGEST + 1, "{short}");
    }

    #[test]
    fn control_characters_are_escaped_and_other_letters_stay() {
        assert_eq!(Path::new("a/ж 猫.jpg").shown().to_string(), "a/ж 猫.jpg");
        assert_eq!("a\u{1b}[2J\r\nb\u{9b}\u{202e}".shown().to_string(), "a\\u{1b}[2J\\r\\nb\\u{9b}\\u{202e}");
        assert_eq!(escape_lines("one\ntwo\u{7}\t"), "one\ntwo\\u{7}\\t");
        assert!(matches!(escape_lines("one\ntwo"), Cow::Borrowed(_)));
        assert_eq!(format!("{:>4}|", "ab".shown()), "  ab|");
    }
}
