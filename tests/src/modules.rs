//! Python modules that a test writes for the agents of its hosts.

use crate::{Stack, StackSettings, Zygote};
use tempfile::TempDir;

/// A folder of modules on the path of every agent.
pub struct Modules(TempDir);

impl Modules {
    /// Writes modules, each given by name and text.
    pub fn new(modules: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in modules {
            std::fs::write(dir.path().join(format!("{name}.py")), text).expect("the folder can be written");
        }
        Self(dir)
    }

    /// Where they are.
    pub fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Settings of a stack with a zygote, whose hosts find the modules.
    pub fn settings(&self, host_arguments: &[&str]) -> StackSettings {
        StackSettings {
            zygote: Zygote::On,
            host_arguments: host_arguments.iter().map(ToString::to_string).collect(),
            host_environment: vec![("PYTHONPATH".to_owned(), self.path())],
            ..StackSettings::default()
        }
    }

    /// Such a stack.
    pub async fn stack(&self, host_arguments: &[&str]) -> Stack {
        Stack::with(self.settings(host_arguments)).await
    }
}
