//! Label values about how clients come and go.

use std::fmt;

use super::Label;

labels! {
    /// What became of a client that was told where to go (MOVING).
    HandoffResult {
        /// The client left by itself.
        Moved = "moved",
        /// The client stayed and was closed at a request boundary.
        Closed = "closed",
        /// The client was closed for another reason, such as the end of the drain.
        Cut = "cut",
    }
}

labels! {
    /// Why accept(2) failed.
    AcceptError {
        /// No file descriptor was free.
        Descriptors = "descriptors",
        /// The kernel had no memory for it.
        Memory = "memory",
        /// Anything else, such as a client that left the backlog.
        Other = "other",
    }
}
