//! Numbers of identities and images in known data sets, and how a loaded one compares with them.

use std::fmt;

use crate::data::DatasetKind;
use crate::data::dataset::Dataset;

/// Counts of one subset. `images` is `None` if the number differs between splits.
struct Count {
    ids: usize,
    images: Option<usize>,
}

/// Counts of a known data set: training, query, gallery.
struct Known {
    kind: DatasetKind,
    /// [`Dataset::variant`]
    variant: &'static str,
    counts: [Count; 3],
    /// Training and query images together, if the number of each differs between splits.
    total: Option<usize>,
}

const fn of(ids: usize, images: usize) -> Count {
    Count { ids, images: Some(images) }
}

const fn known(kind: DatasetKind, variant: &'static str, counts: [Count; 3]) -> Known {
    Known { kind, variant, counts, total: None }
}

const fn classic(kind: DatasetKind, total: usize) -> Known {
    const TEST: Count = Count { ids: 100, images: None };
    Known { kind, variant: "", counts: [Count { ids: 1367, images: None }, TEST, TEST], total: Some(total) }
}

/// For sources see docs/datasets.md. In the gallery of Market-1501, identity 0 counts as one.
const KNOWN: [Known; 15] = [
    known(DatasetKind::Market1501, "", [of(751, 12_936), of(750, 3_368), of(751, 15_913)]),
    known(DatasetKind::DukeMtmcReid, "", [of(702, 16_522), of(702, 2_228), of(1_110, 17_661)]),
    known(DatasetKind::Msmt17, "train+val", [of(1_041, 32_621), of(3_060, 11_659), of(3_060, 82_161)]),
    known(DatasetKind::Msmt17, "train", [of(1_041, 30_248), of(3_060, 11_659), of(3_060, 82_161)]),
    known(DatasetKind::Cuhk03NpDetected, "", [of(767, 7_365), of(700, 1_400), of(700, 5_332)]),
    known(DatasetKind::Cuhk03NpLabeled, "", [of(767, 7_368), of(700, 1_400), of(700, 5_328)]),
    known(DatasetKind::Veri776, "", [of(576, 37_778), of(200, 1_678), of(200, 11_579)]),
    known(DatasetKind::VehicleId800, "", [of(13_164, 113_346), of(800, 6_493), of(800, 6_493)]),
    known(DatasetKind::VehicleId1600, "", [of(13_164, 113_346), of(1_600, 13_377), of(1_600, 13_377)]),
    known(DatasetKind::VehicleId2400, "", [of(13_164, 113_346), of(2_400, 19_777), of(2_400, 19_777)]),
    known(DatasetKind::VeriWild3000, "", [of(30_671, 277_797), of(3_000, 3_000), of(3_000, 38_861)]),
    known(DatasetKind::VeriWild5000, "", [of(30_671, 277_797), of(5_000, 5_000), of(5_000, 64_389)]),
    known(DatasetKind::VeriWild10000, "", [of(30_671, 277_797), of(10_000, 10_000), of(10_000, 128_517)]),
    classic(DatasetKind::Cuhk03ClassicDetected, 14_097),
    classic(DatasetKind::Cuhk03ClassicLabeled, 14_096),
];

/// Largest relative difference of a count for which it is taken for the same data set.
const NEAR: f64 = 0.25;

/// How the counts of a data set compare with those of known ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All counts match this data set.
    Exact(DatasetKind),
    /// Counts nearly match this data set; the text says what differs, and a likely reason.
    Near(DatasetKind, String),
    /// Counts match no known data set, or differ much from the named one; then the text says how.
    Unknown(Option<String>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Exact(kind) => write!(f, "counts match {kind}"),
            Verdict::Near(kind, difference) => write!(f, "counts nearly match {kind}: {difference}"),
            Verdict::Unknown(None) => write!(f, "counts match no known data set"),
            Verdict::Unknown(Some(difference)) => write!(f, "counts do not match {difference}"),
        }
    }
}

/// Numbers of identities and images of training, query and gallery; 0 for a subset that was not loaded, which is not compared.
type Counts = [(usize, usize); 3];

impl Dataset {
    /// Compares the counts with those of the named data set, or of all known ones: as they were before identities were held out.
    pub fn verdict(&self) -> Verdict {
        verdict(self.kind, self.variant, self.whole.unwrap_or_else(|| self.counts()))
    }
}

fn verdict(kind: DatasetKind, variant: &str, counts: Counts) -> Verdict {
    let fitting = |k: &&Known| {
        // Which lists a run trains on is a choice, not a difference. The 100 identities of a classic test set fit many data sets.
        (kind == DatasetKind::Auto && (k.total.is_none() || counts[0].1 > 0))
            || (k.kind == kind && k.variant == variant)
    };
    if let Some(exact) = KNOWN.iter().filter(fitting).find(|k| k.differences(counts).is_empty()) {
        return Verdict::Exact(exact.kind);
    }
    let nearest = KNOWN.iter().filter(fitting).min_by(|a, b| a.distance(counts).total_cmp(&b.distance(counts)));
    let Some(nearest) = nearest else { return Verdict::Unknown(None) };
    let mut text = nearest.differences(counts).join(", ");
    let other = KNOWN.iter().find(|k| k.kind != nearest.kind && k.total.is_none() && k.differences(counts).is_empty());
    if let Some(other) = other {
        text = format!("{text}; these are the counts of {}: is that what `data.kind` should say?", other.kind);
    } else if let Some(reason) = nearest.reason(counts) {
        text = format!("{text}; {reason}");
    }
    match (nearest.distance(counts) <= NEAR, kind) {
        (true, _) => Verdict::Near(nearest.kind, text),
        (false, DatasetKind::Auto) => Verdict::Unknown(None),
        (false, _) => Verdict::Unknown(Some(format!("{kind}: {text}"))),
    }
}

impl Known {
    /// Returns a phrase for each subset that differs.
    fn differences(&self, counts: Counts) -> Vec<String> {
        let names = ["train", "query", "gallery"];
        let mut found = Vec::new();
        for ((name, (ids, images)), count) in names.into_iter().zip(counts).zip(&self.counts) {
            if images == 0 {
                continue;
            }
            let mut parts = Vec::new();
            if ids != count.ids {
                parts.push(format!(
                    "{} {} instead of {}",
                    grouped(ids),
                    if ids == 1 { "id" } else { "ids" },
                    grouped(count.ids)
                ));
            }
            if let Some(expected) = count.images.filter(|&expected| expected != images) {
                parts.push(format!(
                    "{} {} instead of {}",
                    grouped(images),
                    if images == 1 { "image" } else { "images" },
                    grouped(expected)
                ));
            }
            if !parts.is_empty() {
                found.push(format!("{name} has {}", parts.join(" and ")));
            }
        }
        let together = counts[0].1 + counts[1].1;
        if let Some(total) = self.total.filter(|&total| counts[0].1 > 0 && total != together) {
            let (together, total) = (grouped(together), grouped(total));
            found.push(format!("train and test together have {together} images instead of {total}"));
        }
        found
    }

    /// Returns the largest relative difference of a count.
    fn distance(&self, counts: Counts) -> f64 {
        let relative = |found: usize, expected: usize| (found as f64 - expected as f64).abs() / expected as f64;
        let loaded = counts.iter().zip(&self.counts).filter(|((_, images), _)| *images > 0);
        let subsets = loaded.map(|(&(ids, images), count)| {
            relative(ids, count.ids).max(count.images.map_or(0.0, |expected| relative(images, expected)))
        });
        let total =
            self.total.filter(|_| counts[0].1 > 0).map_or(0.0, |total| relative(counts[0].1 + counts[1].1, total));
        subsets.fold(total, f64::max)
    }

    /// Returns the usual reason for such a difference.
    fn reason(&self, [train, _, gallery]: Counts) -> Option<&'static str> {
        match (self.kind, self.variant, train.1, gallery.1) {
            (DatasetKind::Market1501, _, _, 13_115) => {
                Some("the 2,798 distractors with identity 0 were removed: scores come out too high")
            }
            (DatasetKind::Market1501, _, _, 15_908) => {
                Some("the project page counts 2,793 distractors, the usual archive has 2,798")
            }
            (DatasetKind::Msmt17, "train+val", 30_248, _) => Some("list_val.txt adds nothing to list_train.txt here"),
            (DatasetKind::DukeMtmcReid, ..) if gallery.0 == 702 => {
                Some("the 408 identities that only the gallery has were removed: scores come out too high")
            }
            _ => None,
        }
    }
}

/// Formats 12936 as `12,936`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKET: Counts = [(751, 12_936), (750, 3_368), (751, 15_913)];

    fn said(kind: DatasetKind, counts: Counts) -> String {
        let variant = if kind == DatasetKind::Msmt17 { "train+val" } else { "" };
        verdict(kind, variant, counts).to_string()
    }

    #[test]
    fn every_known_data_set_is_recognised_with_and_without_its_name() {
        for known in KNOWN.iter().filter(|k| k.total.is_none()) {
            let counts = std::array::from_fn(|i| (known.counts[i].ids, known.counts[i].images.unwrap()));
            assert_eq!(verdict(DatasetKind::Auto, "", counts), Verdict::Exact(known.kind));
            assert_eq!(verdict(known.kind, known.variant, counts), Verdict::Exact(known.kind));
        }
        let classic = [(1367, 13_137), (100, 960), (100, 960)];
        assert_eq!(said(DatasetKind::Cuhk03ClassicDetected, classic), "counts match cuhk03-classic-detected");
        assert!(said(DatasetKind::Cuhk03ClassicLabeled, classic).contains("14,097 images instead of 14,096"));
    }

    #[test]
    fn near_counts_say_what_differs_and_why() {
        let mut fewer = MARKET;
        fewer[2] = (750, 13_115);
        let text = said(DatasetKind::Market1501, fewer);
        assert_eq!(
            text,
            "counts nearly match market1501: gallery has 750 ids instead of 751 and 13,115 images instead of 15,913; the \
             2,798 distractors with identity 0 were removed: scores come out too high"
        );
        assert_eq!(said(DatasetKind::Auto, fewer), text);
        fewer[2] = (751, 15_908);
        assert!(said(DatasetKind::Market1501, fewer).ends_with("the usual archive has 2,798"));
        let text = said(DatasetKind::Cuhk03NpDetected, [(767, 7_368), (700, 1_400), (700, 5_328)]);
        assert!(
            text.ends_with("these are the counts of cuhk03-np-labeled: is that what `data.kind` should say?"),
            "{text}"
        );
        let val = said(DatasetKind::Msmt17, [(1_041, 30_248), (3_060, 11_659), (3_060, 82_161)]);
        assert!(val.contains("train has 30,248 images instead of 32,621") && val.contains("list_val.txt"), "{val}");
        let duke = said(DatasetKind::DukeMtmcReid, [(702, 16_522), (702, 2_228), (702, 14_000)]);
        assert!(duke.contains("counts do not match dukemtmcreid: ") && duke.contains("408"), "{duke}");
    }

    #[test]
    fn a_test_set_alone_is_compared_by_what_it_has() {
        let mut test = MARKET;
        test[0] = (0, 0);
        assert_eq!(verdict(DatasetKind::Auto, "", test), Verdict::Exact(DatasetKind::Market1501));
        test[1] = (750, 3_300);
        let text = said(DatasetKind::Market1501, test);
        assert_eq!(text, "counts nearly match market1501: query has 3,300 images instead of 3,368");
        let hundred = [(0, 0), (100, 960), (100, 960)];
        assert_eq!(verdict(DatasetKind::Auto, "", hundred), Verdict::Unknown(None));
        let kind = DatasetKind::Cuhk03ClassicLabeled;
        assert_eq!(verdict(kind, "", hundred), Verdict::Exact(kind));
    }

    #[test]
    fn other_counts_are_unknown() {
        let small = [(4, 13), (3, 4), (3, 9)];
        assert_eq!(said(DatasetKind::Auto, small), "counts match no known data set");
        let text = said(DatasetKind::Market1501, small);
        assert!(text.starts_with("counts do not match market1501: train has 4 ids instead of 751"), "{text}");
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1234567)], ["0", "999", "1,000", "1,234,567"]);
    }
}
