//! Where clients come in, and where the upstream is. Pure.

mod endpoint;
mod listen;
mod url;

pub use endpoint::Endpoint;
pub(super) use endpoint::socket_path;
pub use listen::Listen;
pub(super) use url::parse_password;
pub use url::read_upstream;
pub(crate) use url::{UpstreamUrl, parse_url};
