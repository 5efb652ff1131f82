//! What holds for every input, tried with many that nobody thought of. PROPTEST_CASES sets how many. A
//! property that fails prints the seed of its run: with PROPTEST_RNG_SEED the same cases are tried again.

#[path = "properties/cases.rs"]
mod cases;
#[path = "properties/control.rs"]
mod control;
#[path = "properties/messages.rs"]
mod messages;
#[path = "properties/model.rs"]
mod model;
#[path = "properties/request.rs"]
mod request;
#[path = "properties/wire.rs"]
mod wire;
