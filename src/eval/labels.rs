//! Identity and camera of the images of a set.

use crate::{Error, Result};

/// Identity and camera of each image.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Identity of each image, `[n]`.
    pub pids: &'a [i64],
    /// Camera of each image, `[n]`.
    pub camids: &'a [i64],
}

impl Labels<'_> {
    /// Checks that `values` numbers make one row of `dim` numbers for each label. `set` is the name for messages.
    ///
    /// # Errors
    /// [`Error::FeatureRows`].
    pub(crate) fn check_counts(self, set: &'static str, values: usize, dim: usize) -> Result<()> {
        let (pids, camids) = (self.pids.len(), self.camids.len());
        if pids != camids || pids * dim != values {
            return Err(Error::FeatureRows { set, values, dim, pids, camids });
        }
        Ok(())
    }
}
