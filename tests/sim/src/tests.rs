//! The smoke of some hundred worlds, the seeds of the past, and the planted bugs.

use crate::{Bug, run};
