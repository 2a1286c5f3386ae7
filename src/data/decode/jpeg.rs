//! The segments of a JPEG file: where the picture ends, and how many scans it has.

/// What the segments say, from the start of the file to the marker of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes up to and with the marker of the end. Cameras write films and second pictures behind it.
    pub len: usize,
    /// Whether the decoder keeps the coefficients of the whole picture: it is progressive, or has several scans.
    pub buffered: bool,
}

const START: [u8; 2] = [0xFF, 0xD8];
const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;
/// Start of a progressive frame.
const PROGRESSIVE: u8 = 0xC2;

pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&START)
}

/// Walks the segments of a file for which [`is_jpeg`] holds. `None` where the file ends before the picture does. Segments are passed by
/// their length, so the end of a thumbnail within one is not taken for that of the picture.
pub(super) fn extent(bytes: &[u8]) -> Option<Extent> {
    let mut at = START.len();
    let mut scans = 0;
    let mut progressive = false;
    loop {
        // Bytes between segments belong to nothing, and any number of 0xFF may come before a code.
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

/// The marker behind the data of a scan that begin at `at`. Within them 0xFF is followed by 0, or by the code of a restart.
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

    /// A segment of these bytes.
    fn segment(code: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16 + 2).to_be_bytes();
        [&[0xFF, code], &length[..], content].concat()
    }

    /// A picture whose thumbnail has an end of its own, with two scans, restarts and a stuffed 0xFF.
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
