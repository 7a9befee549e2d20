//! The form of what stands in the store, by number, in `{prefix}:schema`: every script looks at it first (`lua/schema.lua`).
//!
//! ```text
//!  nothing there ──▶ this version's number is put there
//!  the same      ──▶ go on
//!  older         ──▶ one step after the other, in the script that met it: then it is this version's
//!  newer, or data without a number ──▶ refused, and nothing is written
//! ```
//!
//! The number goes up when a program of the version before would read or write something wrong, and not with every new field:
//! fields and words that a version does not know it leaves as they are. From the first script of the newer version on the older
//! ones are refused, so that hosts of the older version lose their leases: such an upgrade is done with all of them stopped, and
//! its release says so.

/// The form that a version of the programs writes, and how it makes its own of older ones.
#[derive(Debug, Clone)]
pub struct Schema {
    version: u32,
    /// Form that a step leads to, and the body of a Lua function, which has KEYS[1] to build keys from.
    steps: Vec<(u32, &'static str)>,
}

impl Schema {
    /// A form, and the steps to it from older ones.
    pub fn new(version: u32, steps: Vec<(u32, &'static str)>) -> Self {
        Self { version, steps }
    }

    /// What this version writes: since 2, agents are named with their organizations; since 3, their records say what they take.
    pub fn current() -> Self {
        Self::new(3, vec![(3, include_str!("../lua/to_form_3.lua"))])
    }

    /// The number of the form, which every script takes as an argument.
    pub(super) fn version(&self) -> String {
        self.version.to_string()
    }

    /// What `lua/schema.lua` needs before it: the steps alone, so that the scripts of two versions differ only where their texts do.
    pub(super) fn lua(&self) -> String {
        let step = |(to, body): &(u32, &str)| format!("STEPS[{to}] = function()\n{body}\nend\n");
        let steps: String = self.steps.iter().map(step).collect();
        format!("local STEPS = {{}}\n{steps}")
    }
}
