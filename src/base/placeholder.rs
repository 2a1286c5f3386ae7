//! Recognises files that a download left instead of the wanted one.

/// Number of bytes that suffice to recognise a placeholder.
const START: usize = 256;

/// Returns what `bytes` are instead of the wanted file, and the way out; `None` if they are no pointer of Git LFS and no web page.
pub(crate) fn placeholder(bytes: &[u8]) -> Option<&'static str> {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(START)]);
    let start = start.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if start.starts_with("version https://git-lfs.github.com/") {
        return Some("it is a pointer of Git LFS to the file, not the file itself: run git lfs pull");
    }
    let tags = ["<!doctype html", "<html", "<head", "<body", "<?xml", "<script"];
    tags.iter().any(|tag| start.starts_with(tag)).then_some(
        "it is a web page: the download got a page instead of the file, as happens with a link that needs a login or a \
         confirmation; download the file itself",
    )
}
