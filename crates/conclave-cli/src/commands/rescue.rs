//! `rescue`: own changes that lost their place and are kept apart on this device.

use clap::Subcommand;
use conclave_client::{Inserted, Operation, Outcome, RescueApplied, RescueInfo, Step, Word};

use super::document::Which;
use crate::context::{Context, answer};
use crate::failure::{Exit, Result};
use crate::names::{Named, find};
use crate::output::{Shown, columns, counted};
use crate::rescued::{group, sentence, short, title, why};
use crate::terminal::on_one_line;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List changes of yours that lost their place
    List,
    /// Show what is kept of some of them
    Show {
        /// Their id
        id: String,
    },
    /// Write what you had written into a document, each change where it belongs
    ///
    /// Text and new items of lists go to the end where their surroundings are not found. What else has no sure place is not written and stays
    /// kept.
    Apply {
        /// Their id
        id: String,
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Throw them away
    Discard {
        /// Their id
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::List => list(context).await,
        Command::Show { id } => show(context, &id).await,
        Command::Apply { id, which } => apply(context, &id, &which).await,
        Command::Discard { id, yes } => discard(context, &id, yes).await,
    }
}

async fn list(context: &Context) -> Result<Shown> {
    context.touch_all();
    let all = context.rescues().await?;
    let row = |info: &RescueInfo| {
        vec![
            short(&info.id, &all),
            format!("{} in {}", title(info), group(info)),
            counted(info.changes, "change"),
            why(info),
        ]
    };
    let text = match all.is_empty() {
        true => "nothing of yours lost its place".to_owned(),
        false => columns(&all.iter().map(row).collect::<Vec<_>>()),
    };
    context.tells(Vec::new(), all.iter().map(|info| info.id).collect());
    Ok(Shown::new(text, "rescues", all))
}

async fn find_rescue(context: &Context, typed: &str) -> Result<(RescueInfo, Vec<RescueInfo>)> {
    let all = context.rescues().await?;
    let named = |info: &RescueInfo| Named {
        id: info.id.to_string(),
        within: None,
        name: None,
        value: info.clone(),
    };
    let candidates: Vec<_> = all.iter().map(named).collect();
    let info = find("rescue", typed, &candidates, "conclave rescue list")?;
    context.tells(Vec::new(), vec![info.id]);
    Ok((info, all))
}

async fn show(context: &Context, typed: &str) -> Result<Shown> {
    let (info, all) = find_rescue(context, typed).await?;
    let operation = Operation::Rescue { rescue: info.id };
    let rescue = answer!(context.run(operation).await?, Outcome::Rescue(rescue) => *rescue)?;
    let mut lines = vec![sentence(&info, &all), String::new()];
    lines.extend(rescue.words.iter().flat_map(described));
    if rescue.words.is_empty() {
        lines.push(
            "these changes cannot be shown as words; `--json` holds them as they were made"
                .to_owned(),
        );
    } else if !rescue.words_tell_all {
        lines.push(
            "there is more that cannot be shown as words, such as formats; `--json` holds the changes as they were made"
                .to_owned(),
        );
    }
    Ok(Shown::new(lines.join("\n"), "rescue", rescue))
}

/// One place that changed: where, what was written, how much went.
fn described(word: &Word) -> Vec<String> {
    let mut lines = Vec::new();
    let steps = word.path.iter().map(|step| match step {
        Step::Key(key) => key.clone(),
        Step::Item(item) => item.at.to_string(),
    });
    let path = steps.collect::<Vec<_>>().join("/");
    if !path.is_empty() {
        lines.push(format!("{}:", on_one_line(&path)));
    }
    match &word.inserted {
        Inserted::Text(text) | Inserted::Value(text) => {
            lines.extend(text.lines().map(|line| format!("+ {line}")));
        }
        Inserted::Moved => lines.push("moved within its list".to_owned()),
        Inserted::Nothing => {}
    }
    match &word.gone {
        Some(gone) => lines.extend(gone.lines().map(|line| format!("- {line}"))),
        None if word.deleted > 0 => {
            let noun = if word.path.is_empty() {
                "character"
            } else {
                "value"
            };
            let count = usize::try_from(word.deleted).unwrap_or(usize::MAX);
            lines.push(format!("- {} deleted", counted(count, noun)));
        }
        None => {}
    }
    lines
}

async fn apply(context: &Context, typed: &str, which: &Which) -> Result<Shown> {
    let (info, all) = find_rescue(context, typed).await?;
    let (group, document, _) = super::document::open(context, which).await?;
    let operation = Operation::ApplyRescue {
        rescue: info.id,
        group,
        document: document.document,
    };
    let outcome = context.run(operation).await?;
    let applied = answer!(outcome, Outcome::RescueApplied(applied) => applied)?;
    let reached = context
        .sync(group, document.document, "sending the changes")
        .await?;
    let name = document
        .title
        .clone()
        .unwrap_or_else(|| document.document.short());
    let mut lines = written(&applied, &name);
    let stays = applied.left > 0 || applied.untold;
    if stays {
        let id = short(&info.id, &all);
        lines.push(format!("kept: `conclave rescue show {id}`"));
    }
    let target = context.document_target(group, &document).await?;
    let shown = Shown::new(lines.join("\n"), "document", document.document)
        .to(target)
        .with("rescue", info.id)
        .with("written", applied)
        .queued(reached.is_queued());
    Ok(if stays {
        shown.exit(Exit::Rescued)
    } else {
        shown
    })
}

/// What was written, and what was not.
fn written(applied: &RescueApplied, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    match (applied.changed, applied.left) {
        (true, _) => lines.push(format!("written into {name}")),
        (false, 0) => lines.push(format!("{name} has all of it already")),
        (false, _) => lines.push(format!("nothing was written into {name}")),
    }
    if applied.left > 0 {
        let has = if applied.left == 1 { "has" } else { "have" };
        lines.push(format!(
            "{} {has} no sure place there: what was deleted or changed does not stand there any more, or not only once",
            counted(applied.left, "change")
        ));
    }
    if applied.untold {
        lines.push("what cannot be written as words, such as formats, was not written".to_owned());
    }
    lines
}

async fn discard(context: &Context, typed: &str, yes: bool) -> Result<Shown> {
    let (info, _) = find_rescue(context, typed).await?;
    let what = format!(
        "This throws away {} of yours to {}.",
        counted(info.changes, "change"),
        title(&info)
    );
    context.confirm(yes, &what)?;
    context
        .run(Operation::DiscardRescue { rescue: info.id })
        .await?;
    Ok(Shown::new("thrown away", "rescue", info.id))
}
