//! `hardtack-sim mutants`.

use std::process::ExitCode;

use hardtack::mutant::Mutant;
use hardtack_simulator::mutants::{Kills, Row, TABLE};
use hardtack_simulator::scenario::Span;

use super::{print, progress, progress_over, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Plant only these bugs; all where none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Under how many seeds: the world's own, and those after it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn mutants(args: &Args) -> Result<ExitCode, String> {
    let named = |row: &&Row| args.names.is_empty() || args.names.contains(&name(row.mutant));
    // All first: a typing error in the last must not cost the time of the others.
    if let Some(unknown) = args.names.iter().find(|wanted| !TABLE.iter().any(|row| name(row.mutant) == **wanted)) {
        let known: Vec<String> = TABLE.iter().map(|row| name(row.mutant)).collect();
        return Err(format!("no planted bug is called {unknown:?}: use one of {}", known.join(" ")));
    }
    let rows: Vec<&Row> = TABLE.iter().filter(named).collect();
    rows.iter().try_for_each(|row| row.level().available())?;
    let mut all = Vec::new();
    for (row, number) in rows.iter().zip(1..) {
        progress(&format!("{number} of {}: {:?} in {}", rows.len(), row.mutant, row.world));
        all.push(Kills::of(**row, args.seeds));
    }
    progress_over();
    print(&match args.output {
        Output::Text => table(&all),
        Output::Json => {
            let lines: Vec<String> = all.iter().map(|kills| json(kills).to_string()).collect();
            lines.join("\n")
        }
    });
    let missed = all.iter().any(|kills| kills.times.is_empty());
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn name(mutant: Mutant) -> String {
    format!("{mutant:?}")
}

fn json(kills: &Kills) -> serde_json::Value {
    let Kills { row: Row { mutant, world, property }, seeds, times } = kills;
    serde_json::json!({
        "bug": name(*mutant),
        "world": world,
        "property": property,
        "seeds": seeds,
        "caught": times.len(),
        "median_ms": kills.median(),
        "times_ms": times,
    })
}

fn table(all: &[Kills]) -> String {
    let mut lines =
        vec!["planted bug                world                            property        caught  median".to_owned()];
    for kills in all {
        let Kills { row: Row { mutant, world, property }, seeds, times } = kills;
        // Whole seconds: a person compares.
        let median = kills.median().map_or("-".into(), |at| Span(at / 1000 * 1000).to_string());
        let caught = format!("{}/{seeds}", times.len());
        lines.push(format!("{:26} {world:32} {property:15} {caught:>6}  {median}", name(*mutant)));
    }
    lines.join("\n")
}
