//! What respmux keeps for the people who operate it: its own settings in words.

use std::fmt;
use std::sync::Arc;

/// One setting as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSetting {
    /// `pool.wait_timeout`.
    pub key: &'static str,
    /// As in the file, without the quotes of a text; secrets are `***`. Empty when it is not set.
    pub value: String,
    /// Where it was given.
    pub origin: String,
}

/// All settings as they may be shown. Only words about the configuration: two configurations that differ in
/// nothing else are the same one.
#[derive(Clone, Default)]
pub struct ShownSettings(Arc<[ShownSetting]>);

impl ShownSettings {
    pub(super) fn new(settings: Vec<ShownSetting>) -> Self {
        Self(settings.into())
    }

    /// In the order of the documentation.
    pub fn iter(&self) -> impl Iterator<Item = &ShownSetting> {
        self.0.iter()
    }
}

/// Nothing, so that the fingerprint of a configuration does not depend on where its values were given.
impl fmt::Debug for ShownSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl PartialEq for ShownSettings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ShownSettings {}
