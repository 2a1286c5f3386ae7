//! Reads the segments of a JPEG file: where the picture ends, and how many scans it has.

/// Properties of the picture, from the start of the file to its end marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes up to and including the end marker. Cameras write films and second pictures behind it.
    pub len: usize,
    /// Whether the decoder buffers the coefficients of the whole picture, because it is progressive or has several scans.
    pub buffered: bool,
}

const START: [u8; 2] = [0xFF, 0xD8];
const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;
/// Marker of a progressive frame.
const PROGRESSIVE: u8 = 0xC2;

pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&START)
}

/// Walks the segments of a JPEG file. Returns `None` if the file ends before the picture does. Segments are skipped by their length, so
/// the end marker of a thumbnail in one is not taken for that of the picture.
pub(super) fn extent(bytes: &[u8]) -> Option<Extent> {
    let mut at = START.len();
    let mut scans = 0;
    let mut progressive = false;
    loop {
        // Other bytes between segments are ignored, and any number of 0xFF may come before a code.
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xFF)?;
        let code = bytes[at];
        at += 1;
        match code {
            END if scans > 0 => return Some(Extent { len: at, buffered: progressive || scans > 1 }),
            // Markers without a length.
            0x00 | 0x01 | 0xD0..=0xD9 => continue,
            _ => {}
        }
        let length = bytes.get(at..at + 2)?;
        at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
        progressive |= code == PROGRESSIVE;
        if code == SCAN {
            scans += 1;
            at = end_of_scan(bytes, at)?;
        }
    }
}

/// Returns the position of the marker behind the data of a scan, which begin at `at`. In the data, 0xFF is followed by 0 or by the code
/// of a restart marker.
fn end_of_scan(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        match *bytes.get(at + 1)? {
            // Frames, tables, restart intervals, application data, comments, another scan, the end.
            0xC0..=0xCF | 0xD9..=0xEF | 0xFE => return Some(at),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a segment with this code and content.
    fn segment(code: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16 + 2).to_be_bytes();
        [&[0xFF, code], &length[..], content].concat()
    }

    /// Returns a picture whose thumbnail has its own end marker, with two scans, restarts and a stuffed 0xFF.
    fn picture() -> Vec<u8> {
        let thumbnail = [&b"Exif\0\0"[..], &[0xFF, 0xD8, 0xFF, 0xDA, 0, 2, 7, 0xFF, 0xD9]].concat();
        let scan = [0x12, 0xFF, 0x00, 0x34, 0xFF, 0xD0, 0x56, 0xFF, 0xD7, 0x78];
        [
            &START[..],
            &segment(0xE1, &thumbnail),
            &segment(PROGRESSIVE, &[8, 0, 1, 0, 1, 1]),
            &segment(SCAN, &[1, 2]),
            &scan,
            &[0xFF, 0xFF],
            &segment(0xC4, &[0xFF, 0xD9]),
            &segment(SCAN, &[1, 2]),
            &scan,
            &[0xFF, END],
        ]
        .concat()
    }

    #[test]
    fn the_picture_ends_at_its_own_marker() {
        let whole = picture();
        assert!(is_jpeg(&whole));
        let extent_of_whole = Some(Extent { len: whole.len(), buffered: true });
        assert_eq!(extent(&whole), extent_of_whole);
        for behind in [&[0xFF, 0xDA, 0, 0][..], &picture(), b"ftypmp42", &[0xFF]] {
            assert_eq!(extent(&[&whole, behind].concat()), extent_of_whole);
        }
    }

    #[test]
    fn every_shorter_file_is_cut_off() {
        let whole = picture();
        for len in 2..whole.len() {
            assert_eq!(extent(&whole[..len]), None, "{len}");
        }
    }
}
