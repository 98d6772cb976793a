//! The commands, one file each.

pub(crate) mod build;
mod call;
pub(crate) mod context;
pub(crate) mod debug;
pub(crate) mod doctor;

use anyhow::Result;
use builder_snapshot::user_namespace::{self, Entered};

use crate::environment::Environment;

/// Makes an ordinary user root of a namespace of its own. Before any thread is started.
pub(crate) fn enter_user_namespace(environment: &Environment) -> Result<Entered> {
    // Its message is whole; the causes below would say parts of it again.
    builder_snapshot::enter_user_namespace(&namespace_options(environment)).map_err(|error| anyhow::Error::msg(error.to_string()))
}

fn namespace_options(environment: &Environment) -> user_namespace::Options {
    user_namespace::Options {
        search_path: environment.get_os("PATH").map(Into::into),
        user_name: environment.get("USER").or_else(|| environment.get("LOGNAME")).map(Into::into),
    }
}
