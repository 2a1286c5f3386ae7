//! A cache of decoded images, shared by all epochs, within a budget of memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::ImageSource;
use super::decode::Share;
use super::rgb::Rgb;
use super::transforms::Transform;
use crate::Result;
use crate::data::Crop;

/// Holds what is the same in every epoch: images at the network's size, or with [`Crop::RandomResized`] decoded ones. Which images it
/// holds may depend on the order of the threads; what it returns does not.
pub struct ImageCache {
    images: Vec<OnceLock<Arc<Rgb>>>,
    /// Bytes that are left of the budget.
    left: AtomicUsize,
}

impl ImageCache {
    /// Creates a cache for as many of `samples` images as fit into `megabytes` (MiB).
    pub fn new(samples: usize, transform: &Transform, megabytes: usize) -> Arc<ImageCache> {
        let budget = megabytes.saturating_mul(1 << 20);
        let slots = match transform.crop {
            // Sizes of decoded images are not known yet; an unused slot takes a few bytes.
            Crop::RandomResized if budget > 0 => samples,
            Crop::RandomResized => 0,
            Crop::Squeeze | Crop::Center => samples.min(budget / (transform.height * transform.width * 3)),
        };
        Arc::new(ImageCache { images: (0..slots).map(|_| OnceLock::new()).collect(), left: AtomicUsize::new(budget) })
    }

    /// Returns image number `index`, decoding it if the cache does not have it. An image that is not cached comes with its share of the
    /// memory for decoding; hold it as long as the image.
    ///
    /// # Errors
    /// As [`decode`](super::decode).
    pub(super) fn load(
        &self,
        index: usize,
        source: &ImageSource,
        transform: &Transform,
    ) -> Result<(Arc<Rgb>, Option<Share>)> {
        let decoded = transform.crop == Crop::RandomResized;
        // Packed images are in memory already.
        let kept = !(decoded && matches!(source, ImageSource::Packed { .. }));
        let slot = self.images.get(index).filter(|_| kept);
        if let Some(image) = slot.and_then(OnceLock::get) {
            return Ok((image.clone(), None));
        }
        let (image, share) = source.decode(transform.upright)?;
        let image = Arc::new(if decoded { image } else { transform.fixed(&image) });
        let mut share = share.filter(|_| decoded);
        if let Some(slot) = slot {
            let bytes = image.pixels.len();
            let take = |left: usize| left.checked_sub(bytes);
            let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
            if taken && slot.set(image.clone()).is_err() {
                // Another thread has stored the same image first.
                self.left.fetch_add(bytes, Ordering::Relaxed);
            } else if taken {
                share = None;
            }
        }
        Ok((image, share))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::Interpolation;

    fn transform(crop: Crop) -> Transform {
        Transform { crop, ..Transform::squeeze([256, 512], Interpolation::Bilinear) }
    }

    /// Files of 400 KB each when decoded, or 393 KB at the network's size: two fit into a mebibyte.
    fn files(folder: &std::path::Path) -> Vec<ImageSource> {
        let file = |i: u8| {
            let path: PathBuf = folder.join(format!("{i}.png"));
            image::RgbImage::from_pixel(400, 333, image::Rgb([i, 2, 3])).save(&path).unwrap();
            ImageSource::File(path)
        };
        (0..4).map(file).collect()
    }

    #[test]
    fn as_many_images_as_fit_are_kept() {
        for crop in [Crop::Squeeze, Crop::Center, Crop::RandomResized] {
            let folder = tempfile::tempdir().unwrap();
            let files = files(folder.path());
            let transform = transform(crop);
            let cache = ImageCache::new(4, &transform, 1);
            let size = |image: &Rgb| [image.height, image.width];
            let want = if crop == Crop::RandomResized { [333, 400] } else { [256, 512] };
            for (i, file) in files.iter().enumerate() {
                let (image, _) = cache.load(i, file, &transform).unwrap();
                assert_eq!((size(&image), image.pixels[0]), (want, i as u8));
            }
            // Those that are kept need no file any more.
            folder.close().unwrap();
            let found: Vec<bool> = (0..4).map(|i| cache.load(i, &files[i], &transform).is_ok()).collect();
            assert_eq!(found, [true, true, false, false]);
            let bytes = 2 * want[0] * want[1] * 3;
            assert_eq!(cache.left.load(Ordering::Relaxed), (1 << 20) - bytes);
        }
    }

    #[test]
    fn the_budget_holds_for_threads_that_meet_at_one_image() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let transform = transform(Crop::RandomResized);
        let cache = ImageCache::new(4, &transform, 2);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (image, _) = cache.load(1, &files[1], &transform).unwrap();
                    assert_eq!(image.pixels[0], 1);
                });
            }
        });
        // Threads that loaded it at the same time may have found no room. In the end, the budget lacks the bytes of one image only.
        cache.load(1, &files[1], &transform).unwrap();
        assert_eq!(cache.left.load(Ordering::Relaxed), (2 << 20) - 400 * 333 * 3);
    }
}
