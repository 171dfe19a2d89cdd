//! A configuration in the making, as the files of `migrate` write it: its text, what has no place in it,
//! and what is wrong with the one that it is made of.

use anyhow::{Context, bail};

use crate::operations::config::Config;

#[derive(Default)]
pub(super) struct Draft {
    pub(super) text: String,
    /// What has no meaning here, or another one.
    pub(super) notes: Vec<String>,
    pub(super) errors: Vec<String>,
}

impl Draft {
    pub(super) fn table(&mut self, title: &str) {
        self.text += &format!("\n[{title}]\n");
    }

    /// An option, and where it comes from.
    pub(super) fn option(&mut self, key: &str, value: impl Into<toml::Value>, why: &str) {
        let value = value.into();
        self.text += &format!("# {why}\n{key} = {value}\n");
    }

    /// Print it, and tell what is to be told; nothing is printed if anything is wrong.
    pub(super) fn print(&self, source: &str) -> anyhow::Result<()> {
        for note in &self.notes {
            eprintln!("{source}: {note}");
        }
        if !self.errors.is_empty() {
            bail!("{source} cannot be migrated:\n  {}", self.errors.join("\n  "));
        }
        // What the program does not accept was not understood here.
        let config: Config = toml::from_str(&self.text)?;
        config.with(&[]).with_context(|| format!("{source} cannot be migrated"))?;
        print!("# Made by headwater migrate from {source}.\n{}", self.text);
        Ok(())
    }
}
