//! The closed catalogue of errors, which the API's package has.

pub use management_api::{Kind, Problem};
