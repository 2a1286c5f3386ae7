//! The findings: each is a function of the labels and the looks of the images.

use std::collections::{BTreeMap, BTreeSet};

use super::look::{Look, alike};
use super::{Finding, Item, Severity, Subject, Wanted};
use crate::base::text::{Shown, listed, plural};
use crate::data::classes::IMBALANCE;

/// An image is tiny if it has less than this share of the network's pixels, and huge if it has more than so many times as many.
const TINY: f64 = 0.25;
const HUGE: f64 = 64.0;
/// An image is of an odd shape if its width over its height is so many times larger or smaller than that of the middle image.
const ODD: f64 = 2.5;

/// What the findings are made from.
pub(super) struct Inspection<'a> {
    pub subject: &'a Subject,
    pub looks: &'a [Result<Look, String>],
    pub wanted: Wanted,
}

/// Returns a finding, or `None` without cases.
fn found(
    kind: &'static str,
    severity: Severity,
    cases: Vec<Vec<usize>>,
    text: impl FnOnce(usize) -> String,
) -> Option<Finding> {
    (!cases.is_empty()).then(|| Finding { kind, severity, text: text(cases.len()), cases })
}

impl Inspection<'_> {
    /// Returns all findings.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.extend(self.unreadable());
        findings.extend(self.look_alikes());
        findings.extend(self.flat());
        findings.extend(self.sizes());
        findings.extend(self.groups());
        findings.extend(self.cameras());
        findings.extend(self.queries());
        findings
    }

    fn items(&self) -> &[Item] {
        &self.subject.items
    }

    /// Returns the indices of the training images of each group.
    fn trained(&self) -> BTreeMap<i64, Vec<usize>> {
        let mut trained: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        let of_training = self.items().iter().enumerate().filter(|(_, item)| item.is_trained());
        of_training.for_each(|(index, item)| trained.entry(item.group).or_default().push(index));
        trained
    }

    fn unreadable(&self) -> Option<Finding> {
        let broken: Vec<(usize, &String)> =
            self.looks.iter().enumerate().filter_map(|(index, look)| Some((index, look.as_ref().err()?))).collect();
        let cases = broken.iter().map(|&(index, _)| vec![index]).collect();
        let severity = if self.wanted.skip_broken { Severity::Warning } else { Severity::Problem };
        found("unreadable", severity, cases, |count| {
            let images = plural(count, "image cannot be decoded", "images cannot be decoded");
            let mut reasons: BTreeMap<&String, usize> = BTreeMap::new();
            broken.iter().for_each(|(_, reason)| *reasons.entry(reason).or_default() += 1);
            if let [(reason, _)] = reasons.iter().collect::<Vec<_>>()[..] {
                return format!("{images}, because {}", reason.shown());
            }
            let mut reasons: Vec<(&String, usize)> = reasons.into_iter().collect();
            reasons.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
            format!("{images}: {}", listed(reasons.iter().map(|(reason, times)| format!("{times} because {reason}"))))
        })
    }

    /// Returns findings about groups of images that look alike, copies among them.
    fn look_alikes(&self) -> Vec<Finding> {
        let items = self.items();
        let [_, several] = self.subject.words;
        let (mut leaks, mut labels, mut easy, mut repeats) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for group in alike(self.looks) {
            let of = || group.iter().map(|&index| &items[index]);
            if of().any(Item::is_trained) && of().any(|item| !item.is_trained()) {
                leaks.push(group.clone());
            }
            if of().any(|item| item.group != items[group[0]].group) {
                labels.push(group.clone());
            }
            // Query and gallery may have the same pictures of the same camera, which do not count.
            let counts = |query: &Item, item: &Item| {
                let other_camera = self.subject.counts_all || query.camera != item.camera;
                item.subset == "gallery" && item.group == query.group && other_camera
            };
            if of().filter(|item| item.subset == "query").any(|query| of().any(|item| counts(query, item))) {
                easy.push(group.clone());
            }
            let mut labelled = BTreeSet::new();
            if !of().all(|item| labelled.insert((item.subset, item.group))) {
                repeats.push(group);
            }
        }
        let groups = |count| plural(count, "group", "groups");
        let leaks = found("test-image-in-training", Severity::Problem, leaks, |count| {
            format!(
                "{} of training and test images look alike: if they are the same picture, results include what was memorised",
                groups(count)
            )
        });
        let labels = found("same-picture-other-label", Severity::Warning, labels, |count| {
            format!(
                "{} of images of different {several} look alike: if they are the same picture, a label is wrong",
                groups(count)
            )
        });
        // Where all images count, a training refuses copies of queries.
        let severity = if self.subject.counts_all { Severity::Problem } else { Severity::Warning };
        let easy = found("query-in-gallery", severity, easy, |count| {
            format!(
                "{} of queries and gallery images that count for them look alike, which are trivial to find",
                groups(count)
            )
        });
        let repeats = found("same-picture", Severity::Note, repeats, |count| {
            let [one, _] = self.subject.words;
            format!("{} of images of the same {one} and subset look alike", groups(count))
        });
        [leaks, labels, easy, repeats].into_iter().flatten().collect()
    }

    /// Returns a finding about images of one colour.
    fn flat(&self) -> Option<Finding> {
        let is_flat = |look: &Result<Look, String>| look.as_ref().is_ok_and(Look::is_flat);
        let cases = (0..self.looks.len()).filter(|&index| is_flat(&self.looks[index])).map(|index| vec![index]);
        found("flat", Severity::Warning, cases.collect(), |count| {
            format!("{} of nearly one colour, and not compared with others", plural(count, "image is", "images are"))
        })
    }

    fn sizes(&self) -> Vec<Finding> {
        let known: Vec<(usize, &Look)> =
            self.looks.iter().enumerate().filter_map(|(index, look)| Some((index, look.as_ref().ok()?))).collect();
        let [height, width] = self.wanted.size;
        let share = |look: &Look| (look.width * look.height) as f64 / (width * height) as f64;
        let shape = |look: &Look| look.width as f64 / look.height as f64;
        let mut shapes: Vec<f64> = known.iter().map(|(_, look)| shape(look)).collect();
        shapes.sort_by(f64::total_cmp);
        let middle = shapes.get(shapes.len() / 2).copied().unwrap_or(1.0);
        let which = |holds: &dyn Fn(&Look) -> bool| -> Vec<Vec<usize>> {
            known.iter().filter(|(_, look)| holds(look)).map(|(index, _)| vec![*index]).collect()
        };
        let images = |count| plural(count, "image has", "images have");
        let tiny = found("tiny", Severity::Warning, which(&|look| share(look) < TINY), |count| {
            format!("{} less than a quarter of the pixels of the network's input, {height}x{width}", images(count))
        });
        let huge = found("huge", Severity::Note, which(&|look| share(look) > HUGE), |count| {
            format!(
                "{} more than {HUGE} times the pixels of the network's input, {height}x{width}: smaller copies would load faster",
                images(count)
            )
        });
        let is_odd = |look: &Look| !(middle / ODD..=middle * ODD).contains(&shape(look));
        let odd = found("odd-shape", Severity::Warning, which(&is_odd), |count| {
            format!(
                "{} a shape far from that of the middle image, whose width is {middle:.2} times its height",
                images(count)
            )
        });
        [tiny, huge, odd].into_iter().flatten().collect()
    }

    /// Returns findings about identities or classes: few images, imbalance, and those in training and test.
    fn groups(&self) -> Vec<Finding> {
        let Subject { words: [one, several], .. } = *self.subject;
        let trained = self.trained();
        let mut findings = Vec::new();
        let named = |groups: &[i64]| listed(groups.iter().map(|&group| self.subject.group(group)));
        let about =
            |groups: &[i64]| -> Vec<Vec<usize>> { groups.iter().map(|group| vec![trained[group][0]]).collect() };
        if self.wanted.images > 0 {
            let few: Vec<i64> = trained
                .iter()
                .filter(|(_, images)| images.len() < self.wanted.images)
                .map(|(group, _)| *group)
                .collect();
            findings.extend(found("few-images", Severity::Note, about(&few), |count| {
                format!(
                    "{} fewer training images than the {} of an {one} in a batch, which then repeats some ({})",
                    plural(count, &format!("{one} has"), &format!("{several} have")),
                    self.wanted.images,
                    named(&few)
                )
            }));
            let tested: BTreeSet<i64> =
                self.items().iter().filter(|item| !item.is_trained()).map(|item| item.group).collect();
            let both: Vec<i64> = trained.keys().copied().filter(|group| tested.contains(group)).collect();
            findings.extend(found("identity-in-both", Severity::Problem, about(&both), |count| {
                format!(
                    "{} in the training and in the test set, which should be of others ({})",
                    plural(count, &format!("{one} is"), &format!("{several} are")),
                    named(&both)
                )
            }));
        }
        let extremes = (trained.iter().min_by_key(|(_, i)| i.len()), trained.iter().max_by_key(|(_, i)| i.len()));
        if let (Some((small, few)), Some((large, many))) = extremes
            && many.len() > IMBALANCE * few.len()
        {
            findings.push(Finding {
                kind: "imbalance",
                severity: Severity::Warning,
                text: format!(
                    "the largest {one} has {} training images ({}), the smallest {} ({})",
                    many.len(),
                    self.subject.group(*large),
                    few.len(),
                    self.subject.group(*small)
                ),
                cases: vec![vec![many[0]], vec![few[0]]],
            });
        }
        findings
    }

    /// Returns a finding about queries that nothing matches.
    fn queries(&self) -> Option<Finding> {
        let is_query = |item: &Item| item.subset == "query" && self.subject.without_match.contains(item.image.file());
        let cases = (0..self.items().len()).filter(|&index| is_query(&self.items()[index])).map(|index| vec![index]);
        found("query-without-match", Severity::Warning, cases.collect(), |count| {
            let queries = plural(count, "query has no match", "queries have no match");
            format!("{queries} in the gallery that counts, and the results are without")
        })
    }

    /// Returns findings about cameras that tell identities.
    fn cameras(&self) -> Vec<Finding> {
        let mut cameras: BTreeMap<i64, BTreeMap<i64, usize>> = BTreeMap::new();
        let mut of_group: BTreeMap<i64, (BTreeSet<i64>, usize)> = BTreeMap::new();
        for (index, item) in self.items().iter().enumerate().filter(|(_, item)| item.is_trained()) {
            let Some(camera) = item.camera else { continue };
            cameras.entry(camera).or_default().entry(item.group).or_insert(index);
            of_group.entry(item.group).or_insert((BTreeSet::new(), index)).0.insert(camera);
        }
        // One camera tells nothing, and of one identity there is nothing to tell.
        if cameras.len() < 2 || of_group.len() < 2 {
            return Vec::new();
        }
        let telling: Vec<(i64, usize)> = cameras
            .iter()
            .filter(|(_, groups)| groups.len() == 1)
            .filter_map(|(camera, groups)| Some((*camera, *groups.values().next()?)))
            .collect();
        let telling_names: Vec<String> = telling.iter().map(|(camera, _)| self.subject.camera(*camera)).collect();
        let telling = telling.iter().map(|(_, index)| vec![*index]).collect();
        let telling = found("camera-of-one-identity", Severity::Warning, telling, |count| {
            format!(
                "{} training images of one identity only, so the background tells who it is ({})",
                plural(count, "camera has", "cameras have"),
                listed(telling_names)
            )
        });
        let single: Vec<(i64, usize)> = of_group
            .iter()
            .filter(|(_, (cameras, _))| cameras.len() == 1)
            .map(|(group, (_, index))| (*group, *index))
            .collect();
        let single_names: Vec<String> = single.iter().map(|(group, _)| self.subject.group(*group)).collect();
        let single = single.iter().map(|(_, index)| vec![*index]).collect();
        let single = found("identity-of-one-camera", Severity::Note, single, |count| {
            format!(
                "{} training images of one camera only, so nothing is learned about how other cameras see them ({})",
                plural(count, "identity has", "identities have"),
                listed(single_names)
            )
        });
        [telling, single].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::{Dataset, ImageRecord};

    /// Writes pictures in which `seed` places dark squares.
    fn picture(folder: &Path, name: &str, [width, height]: [u32; 2], seed: u32) -> std::path::PathBuf {
        let path = folder.join(name);
        let dark = |x: u32, y: u32| (seed >> ((x * 5 / width + 5 * (y * 5 / height)) % 25)) & 1 == 1;
        let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([if dark(x, y) { 20 } else { 230 }; 3]));
        image.save(&path).unwrap();
        path
    }

    fn kinds(findings: &[Finding]) -> Vec<(&'static str, usize)> {
        findings.iter().map(|finding| (finding.kind, finding.cases.len())).collect()
    }

    const WANTED: Wanted = Wanted { size: [50, 50], images: 2, upright: true, skip_broken: false };

    #[test]
    fn a_sound_data_set_has_no_finding() {
        let folder = tempfile::tempdir().unwrap();
        let record = |seed: u32, pid, camid| ImageRecord {
            path: picture(folder.path(), &format!("{seed}.png"), [50, 50], seed),
            pid,
            camid,
        };
        let dataset = Dataset {
            train: vec![
                record(0x0f0f0f1, 1, 1),
                record(0x1234567, 1, 2),
                record(0x1abcdef, 2, 1),
                record(0x0aaaaaa, 2, 2),
            ],
            query: vec![record(0x1f00ff0, 3, 1)],
            gallery: vec![record(0x0c3c3c3, 3, 2)],
            ..Dataset::default()
        };
        let (findings, looks) = Subject::of_identities(&dataset).inspect(WANTED, &|| {});
        assert_eq!((kinds(&findings), looks.len()), (Vec::new(), 6));
    }

    #[test]
    fn each_fault_is_found_with_its_images() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, size, seed| picture(folder.path(), name, size, seed);
        std::fs::write(folder.path().join("broken.png"), b"no picture").unwrap();
        let record = |path, pid, camid| ImageRecord { path, pid, camid };
        let train = vec![
            record(at("a.png", [50, 50], 0x0f0f0f1), 1, 1),
            record(at("b.png", [100, 100], 0x1234567), 1, 2),
            // The same picture as b in another size, under another identity.
            record(at("c.png", [60, 60], 0x1234567), 2, 1),
            // The same picture as a, of the same identity.
            record(at("d.png", [50, 50], 0x0f0f0f1), 1, 1),
            record(folder.path().join("broken.png"), 2, 1),
            record(at("tiny.png", [20, 20], 0x1555555), 3, 3),
            record(at("wide.png", [300, 50], 0x0aaaaaa), 4, 1),
            // The same picture as a query.
            record(at("e.png", [80, 80], 0x1abcdef), 3, 3),
        ];
        let query =
            vec![record(at("q.png", [50, 50], 0x1abcdef), 5, 1), record(at("r.png", [50, 50], 0x0c3c3c3), 4, 1)];
        let gallery = vec![record(at("g.png", [50, 50], 0x1f00ff0), 5, 2)];
        let dataset = Dataset { train, query, gallery, ..Dataset::default() };
        let subject = Subject::of_identities(&dataset);
        let (findings, looks) = subject.inspect(WANTED, &|| {});
        let found = [
            ("unreadable", 1),
            ("test-image-in-training", 1),
            ("identity-in-both", 1),
            ("same-picture-other-label", 2),
            ("tiny", 1),
            ("odd-shape", 1),
            ("camera-of-one-identity", 2),
            ("query-without-match", 1),
            ("same-picture", 1),
            ("few-images", 1),
            ("identity-of-one-camera", 3),
        ];
        assert_eq!(kinds(&findings), found);
        assert!(looks[4].is_err());
        let cases = |kind: &str| &findings.iter().find(|finding| finding.kind == kind).unwrap().cases;
        assert_eq!(cases("test-image-in-training"), &[[7, 8]]);
        // Also the query that is a training image of another identity.
        assert_eq!(cases("same-picture-other-label"), &[[1, 2], [7, 8]]);
        assert_eq!(cases("same-picture"), &[[0, 3]]);
        assert_eq!(cases("identity-in-both"), &[[6]]);
        let text = |kind: &str| &findings.iter().find(|finding| finding.kind == kind).unwrap().text;
        assert!(text("unreadable").starts_with("1 image cannot be decoded, because "), "{}", text("unreadable"));
        assert!(text("few-images").ends_with("which then repeats some (4)"), "{}", text("few-images"));
        assert!(text("camera-of-one-identity").ends_with("(2, 3)"), "{}", text("camera-of-one-identity"));
    }

    #[test]
    fn each_reason_is_counted_and_one_identity_has_no_camera_that_tells() {
        let folder = tempfile::tempdir().unwrap();
        let record = |name: &str, content: &[u8], camid| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            ImageRecord { path, pid: 1, camid }
        };
        let train = vec![record("a.png", b"", 1), record("b.png", b"no picture", 2), record("c.png", b"no picture", 3)];
        let dataset = Dataset { train, ..Dataset::default() };
        let (findings, _) = Subject::of_identities(&dataset).inspect(WANTED, &|| {});
        assert!(!kinds(&findings).iter().any(|(kind, _)| *kind == "camera-of-one-identity"));
        let text = &findings[0].text;
        assert!(text.starts_with("3 images cannot be decoded: 2 because ") && text.contains(", 1 because "), "{text}");
    }

    #[test]
    fn classes_have_no_cameras_and_may_be_in_both_subsets() {
        let folder = tempfile::tempdir().unwrap();
        let sample = |seed: u32, label| crate::data::Sample {
            image: crate::data::ImageSource::File(picture(folder.path(), &format!("{seed}.png"), [50, 50], seed)),
            label,
        };
        let mut train = vec![sample(1, 0)];
        train.extend((0..21).map(|number| sample(0x0010001 * (number + 2), 1)));
        let dataset = crate::data::ClassDataset {
            classes: vec!["elk".into(), "fox".into()],
            train,
            val: vec![sample(0x1ffffff, 0)],
            ..crate::data::ClassDataset::default()
        };
        let (findings, _) = Subject::of_classes(&dataset).inspect(Wanted { images: 0, ..WANTED }, &|| {});
        let imbalance = findings.iter().find(|finding| finding.kind == "imbalance").unwrap();
        assert_eq!(imbalance.text, "the largest class has 21 training images (fox), the smallest 1 (elk)");
        assert!(
            !findings
                .iter()
                .any(|finding| ["few-images", "identity-in-both", "identity-of-one-camera"].contains(&finding.kind))
        );
    }
}
