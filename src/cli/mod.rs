//! The command line as typed: the table of options and what is made from it.

pub(crate) mod options;
