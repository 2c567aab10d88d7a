//! What the upstream sends: where one RESP2 or RESP3 frame ends, chunk by chunk.
//!
//! ```text
//!             type byte            `\r`                  `\n`
//!   Head ─┬─────────────> content ──────> LineFeed ─┬──────────> Head   (the element has ended)
//!    ^    │   + - ( : , # _                         ├──────────> Head   (`*2`: two elements follow)
//!    │    └─────────────> Length  ──────> LineFeed ─┴──> Payload ──> PayloadEnd ──> LineFeed
//!    │        $ ! = * ~ > % |                                                          │
//!    └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A stack of counters says how many elements each open aggregate still waits for; the frame ends when it is empty.
//! Two kinds of aggregate are no element of what surrounds them: an attribute, which is a prefix of the next frame,
//! and a push *inside* another frame, which Redis 7.0 writes into the reply of `EXEC` without counting it when a client
//! publishes to itself.
//!
//! The limits are as wide as what a server can be made to send: `EVAL` nests a reply close to 8,000 deep, `KEYS *` has
//! no bound but memory. A tighter limit would let one client kill the connection that others share.

use memchr::memchr;

use super::line::{Line, Next, announced, whole_scalar};
use super::number::{Double, Integer, plain_length};
use super::reply_error::ReplyError;

/// Aggregates that may be open at once, the outermost included. Lua's C stack (8,000 slots) is what bounds the server.
pub const MAX_DEPTH: usize = 16 * 1024;
/// Levels that the stack keeps room for after a very deep frame.
const RETAINED_LEVELS: usize = 32;

/// What one call of [`ReplyScanner::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// The frame ends here; attributes before it are part of it.
    Complete {
        /// Bytes of this chunk that belong to the frame.
        len: usize,
        /// What the frame is.
        kind: FrameKind,
    },
    /// The whole chunk belongs to the frame, and more follows.
    Partial,
    /// The stream is out of step or not RESP. The scanner stays in this state: the connection must be closed.
    Invalid(ReplyError),
}

/// The first byte of a frame, after its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameKind(u8);

impl FrameKind {
    /// One of `+ - : $ * _ # , ( ! = % ~ >`.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// An error, simple or bulk.
    pub fn is_error(self) -> bool {
        matches!(self.0, b'-' | b'!')
    }

    /// A push: never the reply to a request.
    pub fn is_push(self) -> bool {
        self.0 == b'>'
    }
}

/// What the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameState {
    /// The type of a frame or element.
    Head,
    /// Anything up to a `\r`: a line of type `+`, `-` or `(`.
    Text,
    /// The content of any other line.
    Line(Line),
    /// The `\n` of a line, and what the line has announced.
    LineFeed(Next),
    /// This many bytes of a bulk.
    Payload(u64),
    /// The `\r` after a bulk.
    PayloadEnd,
    Failed(ReplyError),
}

/// An aggregate that is not over.
#[derive(Debug, Clone, Copy)]
struct AggregateLevel {
    /// Elements still to come, with the one in progress.
    left: u64,
    /// Not an element of what surrounds it: an attribute, or a push inside a frame.
    aside: bool,
}

/// Finds the ends of frames in what one upstream connection sends. No byte is kept and none is needed again with a
/// later chunk, so a frame may be passed on while it arrives.
#[derive(Debug)]
pub struct ReplyScanner {
    state: FrameState,
    /// First byte of the frame proper; 0 while unknown.
    kind: u8,
    /// A frame, or an attribute before one, has begun.
    begun: bool,
    levels: Vec<AggregateLevel>,
    max_depth: usize,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyScanner {
    /// A scanner at a frame boundary.
    pub fn new() -> Self {
        Self::with_max_depth(MAX_DEPTH)
    }

    /// A scanner that calls a frame with more than `max_depth` open aggregates invalid.
    pub(super) fn with_max_depth(max_depth: usize) -> Self {
        Self { state: FrameState::Head, kind: 0, begun: false, levels: Vec::new(), max_depth }
    }

    /// Reads the next chunk of the stream, up to the end of the frame in progress or of the chunk. After
    /// [`Advance::Complete`] the rest of the chunk is the caller's to pass in again.
    #[inline]
    pub fn advance(&mut self, chunk: &[u8]) -> Advance {
        if !self.begun
            && let Some(len) = whole_scalar(chunk, 0)
        {
            return Advance::Complete { len, kind: FrameKind(chunk[0]) };
        }
        self.advance_stepwise(chunk)
    }

    fn advance_stepwise(&mut self, chunk: &[u8]) -> Advance {
        let mut at = 0;
        while at < chunk.len() {
            match self.step(chunk, &mut at) {
                Ok(false) => {}
                Ok(true) => {
                    return Advance::Complete { len: at, kind: self.take_frame() };
                }
                Err(error) => {
                    self.state = FrameState::Failed(error);
                    return Advance::Invalid(error);
                }
            }
        }
        Advance::Partial
    }

    /// Whether a frame has begun and not ended.
    pub fn mid_frame(&self) -> bool {
        self.begun
    }

    /// First byte of the frame in progress; `None` between frames and while only attributes have come.
    pub fn kind(&self) -> Option<u8> {
        (self.kind != 0).then_some(self.kind)
    }

    /// The frame has ended: ready for the next.
    #[inline]
    fn take_frame(&mut self) -> FrameKind {
        if self.levels.capacity() > RETAINED_LEVELS {
            self.levels.shrink_to(RETAINED_LEVELS);
        }
        self.state = FrameState::Head;
        self.begun = false;
        let kind = FrameKind(self.kind);
        self.kind = 0;
        kind
    }

    /// Reads on from `at` by one element, or by what there is of a line or bulk. `true` when the frame has ended.
    #[inline]
    fn step(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        if self.state != FrameState::Head {
            return self.resume(chunk, at);
        }
        if !self.levels.is_empty()
            && let Some(end) = whole_scalar(chunk, *at)
        {
            *at = end;
            return Ok(self.end_element());
        }
        self.on_head(chunk, at)
    }

    /// A frame or element begins. What of it lies wholly in the chunk is read here in one go.
    #[inline]
    fn on_head(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        let kind = chunk[*at];
        self.begun = true;
        if self.levels.is_empty() && kind != b'|' {
            self.kind = kind;
        }
        match kind {
            b'$' | b'*' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => {
                if let Some((length, next)) = plain_length(chunk, *at) {
                    *at = next;
                    return self.on_announced(announced(kind, length)?, chunk, at);
                }
                self.state = FrameState::Line(Line::Length(kind, Integer::default()));
            }
            b'+' | b'-' | b'(' => self.state = FrameState::Text,
            b':' => self.state = FrameState::Line(Line::Integer(Integer::default())),
            b',' => self.state = FrameState::Line(Line::Double(Double::Start)),
            b'#' => self.state = FrameState::Line(Line::Bool(false)),
            b'_' => self.state = FrameState::Line(Line::Null),
            other => {
                // The type byte is not known to be one: there is no frame of this kind.
                self.kind = 0;
                return Err(ReplyError::UnknownType(other));
            }
        }
        *at += 1;
        self.resume(chunk, at)
    }

    /// Goes on with a line or bulk that is not over.
    fn resume(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        match self.state {
            FrameState::Head => Ok(false),
            FrameState::Text => self.in_text(chunk, at),
            FrameState::Payload(left) => self.in_payload(left, chunk, at),
            FrameState::PayloadEnd => match chunk.get(*at) {
                Some(b'\r') => self.on_line_end(Next::Over, chunk, at),
                Some(_) => Err(ReplyError::MissingCrlf),
                None => Ok(false),
            },
            FrameState::LineFeed(next) => self.on_line_feed(next, chunk, at),
            FrameState::Failed(error) => Err(error),
            FrameState::Line(line) => self.in_line(line, chunk, at),
        }
    }

    #[inline]
    fn in_text(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        match memchr(b'\r', &chunk[*at..]) {
            Some(found) => {
                *at += found;
                self.on_line_end(Next::Over, chunk, at)
            }
            None => {
                *at = chunk.len();
                Ok(false)
            }
        }
    }

    /// Lines whose content has a form of its own; a few bytes, so byte by byte.
    fn in_line(&mut self, mut line: Line, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        while let Some(&byte) = chunk.get(*at) {
            if byte == b'\r' {
                return self.on_line_end(line.announces()?, chunk, at);
            }
            line = line.with_content(byte)?;
            *at += 1;
        }
        self.state = FrameState::Line(line);
        Ok(false)
    }

    /// `at` is on the `\r` of a line or bulk.
    #[inline]
    fn on_line_end(&mut self, next: Next, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        *at += 1;
        self.on_line_feed(next, chunk, at)
    }

    #[inline]
    fn on_line_feed(&mut self, next: Next, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        match chunk.get(*at) {
            Some(b'\n') => {
                *at += 1;
                self.on_announced(next, chunk, at)
            }
            Some(_) => Err(ReplyError::MissingCrlf),
            None => {
                self.state = FrameState::LineFeed(next);
                Ok(false)
            }
        }
    }

    /// A line is over, and `at` is after it.
    #[inline]
    fn on_announced(&mut self, next: Next, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        match next {
            Next::Over => Ok(self.end_element()),
            Next::Payload(length) => self.in_payload(length, chunk, at),
            Next::Elements(kind, count) => self.open(kind, count),
        }
    }

    #[inline]
    fn in_payload(&mut self, left: u64, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        let rest = &chunk[*at..];
        let here = usize::try_from(left).unwrap_or(usize::MAX);
        if rest.len() > here.saturating_add(1) {
            if rest[here..here + 2] != *b"\r\n" {
                return Err(ReplyError::MissingCrlf);
            }
            *at += here + 2;
            return Ok(self.end_element());
        }
        self.in_cut_payload(left, chunk, at)
    }

    /// The chunk ends before the bulk and its CRLF do.
    #[cold]
    fn in_cut_payload(&mut self, left: u64, chunk: &[u8], at: &mut usize) -> Result<bool, ReplyError> {
        let rest = (chunk.len() - *at) as u64;
        if rest < left {
            *at = chunk.len();
            self.state = FrameState::Payload(left - rest);
            return Ok(false);
        }
        // `left` is at most `rest`, which is a usize.
        *at += left as usize;
        self.state = FrameState::PayloadEnd;
        self.resume(chunk, at)
    }

    /// An aggregate of `count` elements or pairs begins.
    #[inline]
    fn open(&mut self, kind: u8, count: u64) -> Result<bool, ReplyError> {
        self.state = FrameState::Head;
        let aside = kind == b'|' || (kind == b'>' && !self.levels.is_empty());
        if count == 0 {
            return Ok(!aside && self.end_element());
        }
        if self.levels.len() >= self.max_depth {
            return Err(ReplyError::TooDeep);
        }
        let left = if matches!(kind, b'%' | b'|') { count * 2 } else { count };
        self.levels.push(AggregateLevel { left, aside });
        Ok(false)
    }

    /// An element is over, and so may be what surrounds it. `true` when that is the whole frame.
    #[inline]
    fn end_element(&mut self) -> bool {
        self.state = FrameState::Head;
        while let Some(level) = self.levels.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            let aside = level.aside;
            self.levels.pop();
            if aside {
                return false;
            }
        }
        true
    }
}
