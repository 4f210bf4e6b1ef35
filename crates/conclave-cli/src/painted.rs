//! Rows with a margin that says whose they are, in a colour for each. What somebody wrote never reaches the margin: where a terminal would break a row, it
//! goes on behind it.

use std::borrow::Cow;

use console::{Style, measure_text_width};

use crate::terminal::on_one_line;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaintedRow {
    /// Whose it is, by a number; none: nobody is named.
    pub paint: Option<usize>,
    /// What stands in the margin.
    pub margin: String,
    /// Columns before the text.
    pub indent: usize,
    /// The text.
    pub text: String,
}

/// How rows are written.
#[derive(Debug, Clone, Copy)]
pub struct Canvas {
    /// Columns of the terminal, where it is one that must be given nothing that acts.
    pub width: Option<usize>,
    /// Whether it has colours.
    pub has_colours: bool,
}

/// Between margin and text.
const EDGE: &str = " │ ";
/// A margin is no wider.
const MARGIN: usize = 48;
/// Text has at least so many columns, however narrow the terminal is.
const LEAST: usize = 16;

/// Distinct on dark and on light ground.
fn style(number: usize) -> Style {
    let style = Style::new();
    match number % 6 {
        0 => style.cyan(),
        1 => style.yellow(),
        2 => style.green(),
        3 => style.magenta(),
        4 => style.blue(),
        _ => style.red(),
    }
}

/// All rows as text.
pub fn painted(rows: &[PaintedRow], canvas: Canvas) -> String {
    let safe = |text: &str| -> String {
        match canvas.width {
            Some(_) => on_one_line(text).into_owned(),
            None => Cow::Borrowed(text).replace('\n', "\\n"),
        }
    };
    let margins: Vec<String> = rows.iter().map(|row| cut(&safe(&row.margin))).collect();
    let widest = margins.iter().map(|margin| measure_text_width(margin));
    let widest = widest.max().unwrap_or(0);
    let room = canvas.width.map(|width| {
        let taken = widest + measure_text_width(EDGE);
        width.saturating_sub(taken).max(LEAST)
    });
    let mut out = String::new();
    for (row, margin) in rows.iter().zip(&margins) {
        let paint = |text: &str| match row.paint.filter(|_| canvas.has_colours) {
            Some(number) => style(number).force_styling(true).apply_to(text).to_string(),
            None => text.to_owned(),
        };
        for (at, (indent, piece)) in pieces(row.indent, &safe(&row.text), room)
            .iter()
            .enumerate()
        {
            let margin = if at == 0 { margin.as_str() } else { "" };
            let pad = widest - measure_text_width(margin);
            let line = format!(
                "{}{}{EDGE}{}{}",
                paint(margin),
                " ".repeat(pad),
                " ".repeat(*indent),
                paint(piece)
            );
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

fn cut(margin: &str) -> String {
    match margin.chars().count() > MARGIN {
        true => margin.chars().take(MARGIN - 1).chain(['…']).collect(),
        false => margin.to_owned(),
    }
}

/// A text in pieces that fit, each with the columns before it.
fn pieces(indent: usize, text: &str, room: Option<usize>) -> Vec<(usize, String)> {
    let Some(room) = room else {
        return vec![(indent, text.to_owned())];
    };
    let mut pieces = vec![(indent % room, String::new())];
    let mut at = indent % room;
    for c in text.chars() {
        let wide = measure_text_width(c.encode_utf8(&mut [0; 4]));
        if at + wide > room {
            pieces.push((0, String::new()));
            at = 0;
        }
        if let Some((_, piece)) = pieces.last_mut() {
            piece.push(c);
        }
        at += wide;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(paint: usize, margin: &str, indent: usize, text: &str) -> PaintedRow {
        PaintedRow {
            paint: Some(paint),
            margin: margin.to_owned(),
            indent,
            text: text.to_owned(),
        }
    }

    fn on(width: Option<usize>, rows: &[PaintedRow]) -> Vec<String> {
        let canvas = Canvas {
            width,
            has_colours: false,
        };
        painted(rows, canvas).lines().map(str::to_owned).collect()
    }

    #[test]
    fn margins_are_as_wide_as_the_widest() {
        let rows = [row(0, "Ana", 0, "ab"), row(1, "Benjamin", 2, "c")];
        assert_eq!(on(None, &rows), ["Ana      │ ab", "Benjamin │   c"]);
    }

    #[test]
    fn what_somebody_wrote_never_stands_in_the_margin() {
        let forged = format!("{}\nAna │ agreed\u{1b}[2K\rAna │ agreed", "x".repeat(30));
        for width in [1, 20, 30, 80] {
            let lines = on(Some(width), &[row(1, "Mallory", 5, &forged)]);
            assert!(lines[0].starts_with("Mallory │"), "{lines:?}");
            assert!(
                lines.len() == 1 || lines[1..].iter().all(|line| line.starts_with("        │"))
            );
            assert!(lines.iter().all(|line| !line.contains(['\u{1b}', '\r'])));
            let widest = lines.iter().map(|line| measure_text_width(line)).max();
            assert!(
                widest.unwrap() <= width.max(7 + 3 + LEAST),
                "{width}: {lines:?}"
            );
        }
        assert_eq!(on(None, &[row(1, "M", 0, "a\nAna │ b")]).len(), 1);
    }

    #[test]
    fn each_writer_has_a_colour_where_there_are_colours() {
        let canvas = Canvas {
            width: None,
            has_colours: true,
        };
        let shown = painted(&[row(0, "Ana", 0, "a"), row(1, "Ben", 1, "b")], canvas);
        assert!(
            shown.contains("\u{1b}[36mAna") && shown.contains("\u{1b}[33mb"),
            "{shown:?}"
        );
    }
}
