//! What holds for every input, tried with many that nobody thought of. PROPTEST_CASES sets how many.

#[path = "properties/messages.rs"]
mod messages;
#[path = "properties/model.rs"]
mod model;
#[path = "properties/request.rs"]
mod request;
#[path = "properties/wire.rs"]
mod wire;
