//! Tests of the room, by what they promise. The tables of requests hold what a real Redis 7.0.15 answered to the same
//! bytes, whole and at every split.

mod frames;
mod oracle;
mod replies;
mod requests;
