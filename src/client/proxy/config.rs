//! PROXY CONFIG: the settings with their origin. They come without secrets.

use bytes::BytesMut;

use super::{Answered, ProxyAnswer};
use crate::client::error_reply;
use crate::client::request::Request;
use crate::command::{glob_matches, token_is};
use crate::config::{ShownSetting, ShownSettings};
use crate::resp::encode;
use crate::router::Args;

/// PROXY CONFIG GET and LIST. `resp` is the client's protocol.
pub(super) fn answer(settings: &ShownSettings, request: &Request, resp: u8) -> Answered {
    // CONFIG alone lists, as text that could be a configuration file; GET is for programs.
    if request.count() == 2 || token_is(request.nth(2), "LIST") {
        if request.count() > 3 {
            return Err(error_reply::wrong_arity("proxy|config|list"));
        }
        return Ok(ProxyAnswer::Lines(settings.iter().map(|setting| setting.line(setting.key)).collect()));
    }
    if !token_is(request.nth(2), "GET") {
        return Err(error_reply::unknown_word("PROXY", request.nth(2)));
    }
    if request.count() < 4 {
        return Err(error_reply::wrong_arity("proxy|config|get"));
    }
    let wanted = |setting: &&ShownSetting| request.args_from(3).any(|pattern| fits(pattern, setting.key));
    let found: Vec<_> = settings.iter().filter(wanted).collect();
    let mut frame = BytesMut::new();
    encode::map_header(&mut frame, found.len(), resp);
    for setting in found {
        encode::bulk(&mut frame, setting.key.as_bytes());
        let parts = setting.parts();
        encode::map_header(&mut frame, parts.len(), resp);
        for (name, text) in parts {
            encode::bulk(&mut frame, name.as_bytes());
            match text {
                Some(text) => encode::bulk(&mut frame, text.as_bytes()),
                None => encode::null(&mut frame, resp),
            }
        }
    }
    Ok(ProxyAnswer::Frame(frame))
}

/// As CONFIG GET of a server: in any case.
fn fits(pattern: &[u8], key: &str) -> bool {
    glob_matches(&pattern.to_ascii_lowercase(), key.as_bytes())
}
