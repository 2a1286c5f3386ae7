//! Prints, for each image of a folder, the other image whose feature is nearest:
//! `cargo run --release --example embed -- RUN_OR_CHECKPOINT IMAGES`

use std::path::Path;
use std::sync::Arc;

use ptl::base::progress::Reporter;
use ptl::config::Overrides;
use ptl::data::{ImageSource, Sample, list_images};
use ptl::eval::Output;
use ptl::model::TrainedModel;

fn main() -> ptl::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = &args[..] else {
        eprintln!("usage: embed RUN_OR_CHECKPOINT IMAGES");
        std::process::exit(2);
    };
    let images = list_images(Path::new(folder))?.images;
    let sample = |path: &std::path::PathBuf| Sample { image: ImageSource::File(path.clone()), label: 0 };
    let samples: Arc<[Sample]> = images.iter().map(sample).collect();

    // The features, `[images, dim]`, have unit length, so a product of two is their cosine.
    let mut trained = TrainedModel::open(Path::new(model), &Overrides::default())?;
    let (features, dim) = trained.model(&Reporter::stderr()).run(samples, Output::Feature)?;
    let rows: Vec<&[f32]> = features.chunks_exact(dim).collect();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for (i, row) in rows.iter().enumerate() {
        let others = (0..rows.len()).filter(|j| *j != i);
        let nearest = others.max_by(|a, b| cosine(row, rows[*a]).total_cmp(&cosine(row, rows[*b])));
        if let Some(nearest) = nearest {
            println!("{} -> {} ({:.3})", images[i].display(), images[nearest].display(), cosine(row, rows[nearest]));
        }
    }
    Ok(())
}
