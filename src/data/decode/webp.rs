//! Checks the chunks of a WebP file.

/// Returns whether these are the first bytes of a WebP file.
pub(crate) fn is_webp(bytes: &[u8]) -> bool {
    bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP"
}

/// Returns whether a chunk claims to reach beyond the end of the file: the decoder would allocate as much memory as it claims.
pub(crate) fn is_cut_off(bytes: &[u8]) -> bool {
    let mut at = 12;
    while let Some(header) = bytes.get(at..at + 8) {
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if size > bytes.len() - at - 8 {
            return true;
        }
        // Chunks begin at even positions.
        at += 8 + size + size % 2;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_beyond_the_end_is_seen() {
        let file = |size: u32, data: &[u8]| {
            [&b"RIFF\0\0\0\0WEBPVP8X"[..], &1u32.to_le_bytes(), b"a\0EXIF", &size.to_le_bytes(), data].concat()
        };
        assert!(is_webp(&file(3, b"abc")));
        assert!(!is_cut_off(&file(3, b"abc")) && !is_cut_off(&file(2, b"abc")));
        assert!(is_cut_off(&file(4, b"abc")) && is_cut_off(&file(u32::MAX, b"abc")));
    }
}
