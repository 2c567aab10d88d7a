//! What the tests stand on. Nothing here knows the source of respmux: it is started as a process, and what it says is read
//! by parsers that were written apart from its own, so that each can prove the other wrong.
//!
//! * [`RealRedis`]: a real Redis or Valkey, of a [`Flavour`], with its own directory and a free port.
//! * [`Proxy`]: respmux as a process, started the way a person starts it, with [`ProxyOptions`].
//! * [`TestClient`]: a blocking client in raw bytes over TCP, unix sockets or TLS, which reads [`Frame`]s.
//! * [`wire::Wire`]: an asynchronous client for many connections at a time, which reads [`resp::Value`]s, strictly.
//! * [`Pki`]: an authority of the test's own and the certificates it issues.
//! * [`eventually`] waits until something is true; [`pause`] is the only other way to let time pass.
//! * [`Progress`]: what a long run has done so far, its rate and the time left; [`setting()`]: a number of the environment.

mod client;
mod frame;
pub mod glob;
mod ports;
mod progress;
mod proxy;
mod redis;
pub mod resp;
mod setting;
mod setup;
mod tls;
mod wait;
pub mod wire;

pub use client::{Address, PATIENCE, ReadEnd, Shown, TestClient, encode};
pub use frame::Frame;
pub use ports::free_port;
pub use progress::Progress;
pub use proxy::{Proxy, ProxyOptions, program};
pub use redis::{Flavour, RealRedis, info_field, signal};
pub use setting::setting;
pub use setup::path_of;
pub use tls::{Pair, Pki};
pub use wait::{SetOnDrop, eventually, pause};
