//! Pieces of HTML pages that need nothing but themselves: no scripts, no other files, no network.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::base::report::Table;
use crate::base::text::Shown;
use crate::data::{Interpolation, Rgb};

/// Quality of pictures, of 100.
const QUALITY: u8 = 85;

/// The style of all pages.
const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d1d1f}\
h1,h2,nav,summary{overflow-wrap:anywhere}h1{font-size:1.4rem}h2{font-size:1.2rem;margin:2rem 0 .4rem}h3{font-size:1.05rem;margin:1.6rem 0 .4rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15rem .8rem .15rem 0;text-align:right;vertical-align:top}\
td:first-child,th:first-child{text-align:left}td,th{max-width:20rem;overflow-wrap:anywhere}th{border-bottom:1px solid #ccc}.wide{overflow-x:auto}\
.problem{color:#b00020}.warning{color:#8a5a00}.note{color:#48505a}\
.cases{display:flex;flex-wrap:wrap;gap:.6rem}figure{margin:0;max-width:15rem;font-size:.75rem;overflow-wrap:anywhere}\
figure img{margin-right:.2rem;border:1px solid #ccc}svg{max-width:100%;height:auto}summary{cursor:pointer;margin:.6rem 0}\
nav a{margin-right:1rem}";

/// Returns a page with this title and these contents, with a style `more` for what only this page has.
pub(crate) fn document(title: &str, more: &str, body: &str) -> String {
    let title = escaped(&title.shown().to_string());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}{more}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// Escapes the characters that HTML would interpret.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Returns a table, which scrolls where it is wider than the page.
pub(crate) fn table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = table.rows().iter().map(|cells| row(cells, "td")).collect();
    format!("<div class=\"wide\"><table>\n{}{rows}</table></div>\n", row(table.header(), "th"))
}

/// Returns the address of a picture that is inside the page: a JPEG in base 64.
pub(crate) fn picture(image: &RgbImage) -> String {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    image.write_with_encoder(encoder).expect("a picture of at most thousands of pixels, in memory");
    format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes.into_inner()))
}

/// Returns an image scaled down so that its longer side has at most `side` pixels.
pub(crate) fn small(image: &Rgb, side: usize) -> RgbImage {
    let scale = (side as f64 / image.width.max(image.height) as f64).min(1.0);
    let [height, width] = [image.height, image.width].map(|len| ((len as f64 * scale).round() as usize).max(1));
    let pixels = image.resize([height, width], Interpolation::Bilinear).pixels;
    RgbImage::from_raw(width as u32, height as u32, pixels).expect("resized to these sides")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_html() {
        let mut cells = Table::new(["a<b>", "\"x\""]);
        cells.row(["<script>", "&"]);
        let page = document("<run>", "", &table(&cells));
        for part in ["<title>&lt;run&gt;</title>", "<th>a&lt;b&gt;</th>", "<td>&lt;script&gt;</td><td>&amp;</td>"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script") && !page.contains("\"x\"<"));
    }

    #[test]
    fn pictures_keep_their_shape() {
        let image = Rgb { width: 300, height: 2, pixels: vec![90; 300 * 2 * 3] };
        let little = small(&image, 96);
        assert_eq!((little.width(), little.height()), (96, 1));
        assert_eq!(small(&little_rgb(), 96).dimensions(), (3, 4));
        assert!(picture(&little).starts_with("data:image/jpeg;base64,/9j/"));
    }

    fn little_rgb() -> Rgb {
        Rgb { width: 3, height: 4, pixels: vec![1; 36] }
    }
}
