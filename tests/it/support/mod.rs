//! What the tests stand on: real servers, the proxy as a process, a client that speaks in raw bytes.

pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod glob;
pub(crate) mod ports;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod setup;
pub(crate) mod tls;
pub(crate) mod wait;

pub(crate) use client::{Address, TestClient};
pub(crate) use frame::Frame;
pub(crate) use proxy::{Proxy, ProxyOptions};
pub(crate) use redis::{Flavour, RealRedis};
pub(crate) use tls::Pki;
pub(crate) use wait::{eventually, pause};
