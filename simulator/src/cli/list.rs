//! `hardtack-sim list`.

use std::process::ExitCode;

use hardtack_simulator::menu::{about, MENU};

use super::{print, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How to tell it.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn list(args: &Args) -> Result<ExitCode, String> {
    let width = MENU.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, text) in MENU {
        print(&match args.output {
            Output::Text => format!("{name:width$}  {}", about(text)),
            Output::Json => serde_json::json!({ "scenario": name, "about": about(text) }).to_string(),
        });
    }
    Ok(ExitCode::SUCCESS)
}
