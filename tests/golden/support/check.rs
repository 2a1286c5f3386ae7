//! Comparison in the norm max|Δ| / max|ref| over a whole tensor; all deviations of a test are reported together.

/// Collects deviations; panics with the whole list when it goes out of scope.
pub struct Checker {
    context: String,
    checked: usize,
    /// Smallest tolerance.
    floor: f64,
    failures: Vec<String>,
}

impl Checker {
    /// Creates a checker; `context` names the golden file and case in its report.
    pub fn new(context: impl Into<String>) -> Self {
        Self { context: context.into(), checked: 0, floor: 0.0, failures: Vec::new() }
    }

    /// Raises all smaller tolerances to `floor`, a share of the largest reference value.
    pub fn at_least(mut self, floor: f64) -> Self {
        self.floor = floor;
        self
    }

    /// Checks that max|got - want| <= tolerance * max|want|.
    pub fn close<G, W>(&mut self, name: &str, got: &[G], want: &[W], tolerance: f64)
    where
        G: Copy + Into<f64>,
        W: Copy + Into<f64>,
    {
        let (scale, tolerance) = (largest(want), tolerance.max(self.floor));
        self.compare(name, got, want, tolerance * scale, &format!("{tolerance:e} of max|ref| {scale:e}"));
    }

    /// Checks that max|got - want| <= tolerance.
    pub fn close_absolute<G, W>(&mut self, name: &str, got: &[G], want: &[W], tolerance: f64)
    where
        G: Copy + Into<f64>,
        W: Copy + Into<f64>,
    {
        let tolerance = tolerance.max(self.floor * largest(want));
        self.compare(name, got, want, tolerance, &format!("{tolerance:e} absolute"));
    }

    /// Checks that ‖got - want‖ <= tolerance * ‖want‖ in the Euclidean norm.
    pub fn close_in_norm(&mut self, name: &str, got: &[f32], want: &[f32], tolerance: f64) {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
        let found = difference / norm(&mut want.iter().map(|w| f64::from(*w)));
        let good = got.len() == want.len() && found <= tolerance;
        self.that(good, || format!("{name}: off by {found:e} in norm, allowed {tolerance:e}"));
    }

    /// Checks any other condition; `failure` returns the words for the report.
    pub fn that(&mut self, condition: bool, failure: impl FnOnce() -> String) {
        self.checked += 1;
        if !condition {
            self.failures.push(failure());
        }
    }

    fn compare<G, W>(&mut self, name: &str, got: &[G], want: &[W], bound: f64, tolerance: &str)
    where
        G: Copy + Into<f64>,
        W: Copy + Into<f64>,
    {
        self.checked += 1;
        if got.len() != want.len() {
            self.failures.push(format!("{name}: {} elements instead of {}", got.len(), want.len()));
            return;
        }
        let deviation = |i: usize| {
            let d = (got[i].into() - want[i].into()).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let Some(worst) = (0..got.len()).max_by(|&a, &b| deviation(a).total_cmp(&deviation(b))) else { return };
        if deviation(worst) > bound {
            let (g, w): (f64, f64) = (got[worst].into(), want[worst].into());
            let d = deviation(worst);
            self.failures.push(format!("{name}[{worst}] = {g:e} instead of {w:e}: off by {d:e}, allowed {tolerance}"));
        }
    }
}

fn largest<W: Copy + Into<f64>>(values: &[W]) -> f64 {
    values.iter().map(|&w| w.into().abs()).fold(0.0, f64::max)
}

impl Drop for Checker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert!(self.checked > 0, "{}: nothing was compared", self.context);
        let failures = self.failures.join("\n  ");
        assert!(
            self.failures.is_empty(),
            "{}: {} of {} checks failed\n  {failures}",
            self.context,
            self.failures.len(),
            self.checked
        );
    }
}
