//! One relayed connection: two sockets, the bytes between them, and how it ends. It knows neither the table that the
//! connection is in nor the redirection that it belongs to.

pub(crate) mod close;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod held;
pub(crate) mod http_filter;
pub(crate) mod io;
pub(crate) mod pipe;
pub(crate) mod proxy_layer;
// The type `Relay` and the folder have the same name because they are about the same thing.
#[allow(clippy::module_inception)]
pub(crate) mod relay;
pub(crate) mod side;
pub(crate) mod tcp;
pub(crate) mod timeouts;
pub(crate) mod tunnel;
