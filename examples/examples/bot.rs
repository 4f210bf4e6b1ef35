//! A bot: a member like any other, which listens to a document and answers questions in it.

use anyhow::{Context, Result};
use conclave_client::{Any, Client, CrdtError, Document, Yrs};
use conclave_examples::{Place, document_called, group_of_two};

/// Runs the example.
#[tokio::main]
pub async fn main() -> Result<()> {
    let place = Place::new().await?;
    let (ana, robot) = (place.new_user("Ana").await?, place.new_user("Robot").await?);
    let (group, robots_group) = group_of_two(&ana, &robot).await?;
    let chat = group.create_document::<Yrs>("chat").await?.as_any();
    let id = document_called(&robot, &robots_group, "chat").await?;
    let bot = tokio::spawn(answer(robot, robots_group.document::<Any>(&id).await?));

    // Ana asks; the answer comes as a verified change of the robot.
    let mut changes = chat.changes();
    chat.edit(|chat| {
        chat.text()
            .ok_or(CrdtError::InvalidArgument)?
            .splice(0, 0, "sum 20 22\n")
    })
    .await?;
    loop {
        changes.next().await.context("the client stopped")?.ok();
        let text = read(&chat).await?;
        if text.contains("= 42") {
            println!("{text}");
            break;
        }
    }

    bot.abort();
    ana.close().await?;
    place.close().await;
    Ok(())
}

/// Waits for changes and answers each line `sum A B` that has no answer yet.
async fn answer(_robot: Client, chat: Document<Any>) -> Result<()> {
    let mut changes = chat.changes();
    chat.synced().await?;
    loop {
        // One closure, one edit: nobody else's change can come between the reading and the writing.
        chat.edit(|chat| {
            let text = chat.text().ok_or(CrdtError::InvalidArgument)?;
            let answered = with_answers(&text.text()?);
            text.replace_all(&answered)
        })
        .await?;
        changes.next().await.context("the client stopped")?.ok();
    }
}

fn with_answers(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        let answered = lines.peek().is_some_and(|next| next.starts_with("= "));
        if let ["sum", numbers @ ..] = words.as_slice()
            && !answered
        {
            let sum: i64 = numbers
                .iter()
                .filter_map(|number| number.parse::<i64>().ok())
                .sum();
            out.push_str(&format!("= {sum}\n"));
        }
    }
    out
}

async fn read(chat: &Document<Any>) -> Result<String> {
    Ok(chat
        .read(|chat| chat.text().ok_or(CrdtError::InvalidArgument)?.text())
        .await?)
}
