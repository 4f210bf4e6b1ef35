//! Writing words into a document: each where it belongs as far as that is sure, else not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use conclave_crdt::{Crdt, CrdtError, Edited, JsonView, item_id};
use conclave_proto::Hash;
use serde_json::{Map, Value};

use super::{Around, CONTEXT_CHARS, Inserted, Item, Mark, SPECIAL, Step, Word, content};

/// Fewest characters by which something deleted is known without what stood around it.
const ALONE_CHARS: usize = CONTEXT_CHARS / 4;

/// What became of words that were to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whether the document was changed.
    pub changed: bool,
    /// What has no sure place in it.
    pub left: Vec<Word>,
}

/// Writes words into a document. What was inserted into a text goes where its surroundings are still found, else to the text's end; a new
/// item of a list to its neighbours, else to the list's end; a value to its path. What was deleted goes where it still stands, as it was. What
/// has no sure place is given back: an item that is not found, a value in the place of another, a deletion of what is not there.
///
/// # Errors
/// [`CrdtError::InvalidArgument`] where the document has no such view; the errors of editing.
pub fn write_words(words: &[Word], crdt: &mut dyn Crdt) -> Result<Written, CrdtError> {
    let mut changed = false;
    let mut left = Vec::new();
    let (text, json): (Vec<&Word>, Vec<&Word>) =
        words.iter().partition(|word| word.path.is_empty());
    // First, since it can be refused.
    if !json.is_empty() {
        let view = crdt.json().ok_or(CrdtError::InvalidArgument)?;
        changed |= write_json(&json, view, &mut left)?;
    }
    if !text.is_empty() {
        let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
        let present = view.text()?;
        let written = texts(&present, &text, &mut left);
        if written != present {
            view.replace_all(&written)?;
            changed = true;
        }
    }
    Ok(Written { changed, left })
}

/// Gives whether anything was changed.
fn write_json(
    words: &[&Word],
    view: &mut dyn JsonView,
    left: &mut Vec<Word>,
) -> Result<bool, CrdtError> {
    let present = view.to_json()?;
    let here = words.iter().map(|word| (word.path.as_slice(), *word));
    let mut not_here = Vec::new();
    let written = put(Some(present.clone()), here.collect(), &mut not_here);
    let written = written.unwrap_or_else(|| Value::Object(Map::new()));
    if written == present {
        left.append(&mut not_here);
        return Ok(false);
    }
    match view.edit(None, &written)? {
        Edited::Done => {
            left.append(&mut not_here);
            Ok(true)
        }
        // Something in them can only be carried.
        Edited::Refused(_) => match words {
            [word] => {
                left.push((*word).clone());
                Ok(false)
            }
            _ => {
                let (first, second) = words.split_at(words.len() / 2);
                let changed = write_json(first, view, left)?;
                Ok(write_json(second, view, left)? || changed)
            }
        },
    }
}

/// A word with what is left of its path.
type Here<'w> = (&'w [Step], &'w Word);

/// What words make of a place: of what stands there, or of an empty one.
fn put(present: Option<Value>, words: Vec<Here<'_>>, left: &mut Vec<Word>) -> Option<Value> {
    let (mut ends, mut keys, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for (path, word) in words {
        match path.split_first() {
            None => ends.push(word),
            Some((Step::Key(key), rest)) => keys.push((key, (rest, word))),
            Some((Step::Item(item), rest)) => items.push((item.as_ref(), (rest, word))),
        }
    }
    let present = end(present, &ends, left);
    match present {
        Some(Value::Object(map)) if items.is_empty() && !map.contains_key(SPECIAL) => {
            Some(Value::Object(members(map, keys, left)))
        }
        Some(Value::Array(list)) if keys.is_empty() => {
            Some(Value::Array(list_items(list, items, left)))
        }
        None if items.is_empty() && !keys.is_empty() => {
            let map = members(Map::new(), keys, left);
            (!map.is_empty()).then_some(Value::Object(map))
        }
        None if keys.is_empty() && !items.is_empty() => {
            let list = list_items(Vec::new(), items, left);
            (!list.is_empty()).then_some(Value::Array(list))
        }
        other => {
            let keys = keys.into_iter().map(|(_, (_, word))| word);
            let items = items.into_iter().map(|(_, (_, word))| word);
            left.extend(keys.chain(items).cloned());
            other
        }
    }
}

fn read_value(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok()
}

/// Words about a value as such.
fn end(mut present: Option<Value>, words: &[&Word], left: &mut Vec<Word>) -> Option<Value> {
    let mut text = Vec::new();
    for word in words {
        let value = match &word.inserted {
            Inserted::Text(_) => {
                text.push(*word);
                continue;
            }
            Inserted::Nothing if word.around.is_some() => {
                text.push(*word);
                continue;
            }
            Inserted::Nothing => None,
            Inserted::Value(json) => read_value(json),
            Inserted::Moved => {
                left.push((*word).clone());
                continue;
            }
        };
        let is_here = |gone: &str| read_value(gone) == present;
        let still_there = present.is_some() && word.gone.as_deref().is_some_and(is_here);
        if (still_there && (value.is_some() || word.inserted == Inserted::Nothing))
            || (present.is_none() && value.is_some())
        {
            present = value;
        } else if value.is_none() || value != present {
            left.push((*word).clone());
        }
    }
    if text.is_empty() {
        return present;
    }
    match present {
        Some(Value::String(present)) => Some(Value::String(texts(&present, &text, left))),
        None => {
            let written = texts("", &text, left);
            (!written.is_empty()).then_some(Value::String(written))
        }
        other => {
            left.extend(text.into_iter().cloned());
            other
        }
    }
}

fn members(
    mut map: Map<String, Value>,
    words: Vec<(&String, Here<'_>)>,
    left: &mut Vec<Word>,
) -> Map<String, Value> {
    let mut by_key: BTreeMap<&String, Vec<Here<'_>>> = BTreeMap::new();
    for (key, here) in words {
        by_key.entry(key).or_default().push(here);
    }
    for (key, here) in by_key {
        if let Some(value) = put(map.remove(key), here, left) {
            map.insert(key.clone(), value);
        }
    }
    map
}

/// Words about items of a list, all found in it as it is before any of them is written.
fn list_items(list: Vec<Value>, words: Vec<(&Item, Here<'_>)>, left: &mut Vec<Word>) -> Vec<Value> {
    enum Comes {
        New(Value),
        Moved(usize),
    }
    let finder = Finder::of(&list, words.iter().map(|(item, _)| *item));
    let mut inside: BTreeMap<usize, Vec<Here<'_>>> = BTreeMap::new();
    let mut goes = BTreeSet::new();
    let mut comes: BTreeMap<usize, Vec<Comes>> = BTreeMap::new();
    for (item, (rest, word)) in words {
        let at = finder.find(item);
        match (&word.inserted, at) {
            (Inserted::Value(json), _)
                if rest.is_empty() && item.known.is_none() && word.deleted == 0 =>
            {
                match read_value(json) {
                    Some(value) => comes
                        .entry(finder.gap(item))
                        .or_default()
                        .push(Comes::New(value)),
                    None => left.push(word.clone()),
                }
            }
            (Inserted::Moved, Some(at))
                if rest.is_empty() && finder.has_gap(item) && goes.insert(at) =>
            {
                comes
                    .entry(finder.gap(item))
                    .or_default()
                    .push(Comes::Moved(at));
            }
            (_, Some(at)) => inside.entry(at).or_default().push((rest, word)),
            (_, None) => left.push(word.clone()),
        }
    }
    let mut list: Vec<Option<Value>> = list.into_iter().map(Some).collect();
    for (at, here) in inside {
        if let Some(item) = list.get_mut(at) {
            *item = put(item.take(), here, left);
        }
    }
    let mut written = Vec::new();
    let mut moved: HashMap<usize, Value> = HashMap::new();
    for at in goes {
        let item = list.get_mut(at).and_then(Option::take);
        moved.extend(item.map(|item| (at, item)));
    }
    for at in 0..=list.len() {
        for comes in comes.remove(&at).unwrap_or_default() {
            match comes {
                Comes::New(value) => written.push(value),
                Comes::Moved(from) => written.extend(moved.remove(&from)),
            }
        }
        written.extend(list.get_mut(at).and_then(Option::take));
    }
    written
}

/// Finds items in a list.
struct Finder<'a> {
    list: &'a [Value],
    contents: HashMap<Hash, Vec<usize>>,
    names: HashMap<(String, String), Vec<usize>>,
}

impl<'a> Finder<'a> {
    /// For a list in which these are looked for.
    fn of<'w>(list: &'a [Value], wanted: impl Iterator<Item = &'w Item>) -> Self {
        let marks = wanted.flat_map(|item| [&item.known, &item.before, &item.after]);
        let members: BTreeSet<&String> = marks
            .flatten()
            .filter_map(|mark| mark.id.as_ref())
            .map(|(member, _)| member)
            .collect();
        let mut contents: HashMap<Hash, Vec<usize>> = HashMap::new();
        let mut names: HashMap<(String, String), Vec<usize>> = HashMap::new();
        for (at, item) in list.iter().enumerate() {
            contents.entry(content(item)).or_default().push(at);
            for member in &members {
                if let Some(id) = item_id(item, member) {
                    let name = ((*member).clone(), id);
                    names.entry(name).or_default().push(at);
                }
            }
        }
        Self {
            list,
            contents,
            names,
        }
    }

    /// Where an item is, if that is sure: by its name, else by its content, of several alike by its neighbours.
    fn find(&self, item: &Item) -> Option<usize> {
        let mark = item.known.as_ref()?;
        if let Some(at) = self.sure(mark) {
            return Some(at);
        }
        let is = |at: Option<usize>, mark: &Option<Mark>| match mark {
            Some(mark) => at
                .and_then(|at| self.list.get(at))
                .is_some_and(|item| content(item) == mark.content),
            None => at.is_none_or(|at| at >= self.list.len()),
        };
        let mut alike = self
            .alike(mark)
            .iter()
            .filter(|at| is(at.checked_sub(1), &item.before) && is(at.checked_add(1), &item.after));
        let found = alike.next()?;
        alike.next().is_none().then_some(*found)
    }

    fn sure(&self, mark: &Mark) -> Option<usize> {
        match self.alike(mark) {
            [at] => Some(*at),
            _ => None,
        }
    }

    fn alike(&self, mark: &Mark) -> &[usize] {
        let alike = match &mark.id {
            Some(id) => self.names.get(id),
            None => self.contents.get(&mark.content),
        };
        alike.map_or(&[], Vec::as_slice)
    }

    fn neighbours(&self, item: &Item) -> (Option<usize>, Option<usize>) {
        let find = |mark: &Option<Mark>| mark.as_ref().and_then(|mark| self.sure(mark));
        (find(&item.before), find(&item.after))
    }

    /// Whether it is known where something goes.
    fn has_gap(&self, item: &Item) -> bool {
        self.neighbours(item) != (None, None)
    }

    /// Before which item something goes: behind what stood before it and what others put there, or before what stood behind it, or to the
    /// end.
    fn gap(&self, item: &Item) -> usize {
        match self.neighbours(item) {
            (Some(before), Some(after)) if before < after => after,
            (Some(before), _) => before.saturating_add(1),
            (None, Some(after)) => after,
            (None, None) => self.list.len(),
        }
    }
}

/// What words make of a text. Their places are all found in the text as it is before any of them is written.
fn texts(present: &str, words: &[&Word], left: &mut Vec<Word>) -> String {
    let mut edits: Vec<(Range<usize>, &str, &Word)> = Vec::new();
    let mut apart: Vec<&str> = Vec::new();
    for word in words {
        let text = match &word.inserted {
            Inserted::Text(text) => text.as_str(),
            _ => "",
        };
        let gone = word.gone.as_deref();
        let found = match (word.deleted > 0, gone) {
            (false, _) => find(present, "", word.around.as_ref()),
            (true, Some(gone)) => find(present, gone, word.around.as_ref()),
            (true, None) => None,
        };
        if let Some(range) = found {
            edits.push((range, text, word));
            continue;
        }
        if text.is_empty() {
            left.push((*word).clone());
            continue;
        }
        // What was deleted does not stand there; what came in its place still has one.
        if gone.is_some() {
            left.push(Word {
                inserted: Inserted::Nothing,
                ..(*word).clone()
            });
        }
        match find(present, "", word.around.as_ref()) {
            Some(range) => edits.push((range, text, word)),
            None => apart.push(text),
        }
    }
    edits.sort_by_key(|(range, ..)| range.start);
    let mut written = String::new();
    let mut at = 0;
    for (range, text, word) in edits {
        match present.get(at..range.start) {
            Some(before) => written.push_str(before),
            // Two that take the same away.
            None => {
                left.push(word.clone());
                continue;
            }
        }
        written.push_str(text);
        at = range.end;
    }
    written.push_str(present.get(at..).unwrap_or_default());
    // On lines of their own, at the end.
    for text in apart {
        if !written.is_empty() && !written.ends_with('\n') && !text.starts_with('\n') {
            written.push('\n');
        }
        written.push_str(text);
    }
    written
}

/// Where something stands in a text between what stood around it, or where nothing stands between that. The less of it is still there, the
/// less is looked for.
fn find(text: &str, gone: &str, around: Option<&Around>) -> Option<Range<usize>> {
    let around = around?;
    let lengths = [
        CONTEXT_CHARS,
        CONTEXT_CHARS / 2,
        CONTEXT_CHARS / 4,
        CONTEXT_CHARS / 8,
    ];
    let enough = gone.chars().nth(ALONE_CHARS).is_some();
    for (with_before, with_after) in [(true, true), (true, false), (false, true)] {
        for length in lengths {
            let before = if with_before {
                last(&around.before, length)
            } else {
                ""
            };
            let after = if with_after {
                first(&around.after, length)
            } else {
                ""
            };
            let piece = format!("{before}{gone}{after}");
            if before.is_empty() && after.is_empty() && !enough && text != piece {
                continue;
            }
            if let Some(at) = once(text, &piece) {
                let start = at.saturating_add(before.len());
                return Some(start..start.saturating_add(gone.len()));
            }
        }
    }
    let at = once(text, gone).filter(|_| enough)?;
    Some(at..at.saturating_add(gone.len()))
}

/// The last so many characters.
fn last(text: &str, chars: usize) -> &str {
    let from = text.char_indices().rev().take(chars).last();
    from.and_then(|(at, _)| text.get(at..)).unwrap_or_default()
}

/// The first so many characters.
fn first(text: &str, chars: usize) -> &str {
    match text.char_indices().nth(chars) {
        Some((at, _)) => text.get(..at).unwrap_or_default(),
        None => text,
    }
}

/// Where a piece stands, if it stands there once.
fn once(text: &str, piece: &str) -> Option<usize> {
    if piece.is_empty() {
        return text.is_empty().then_some(0);
    }
    let at = text.find(piece)?;
    (text.rfind(piece) == Some(at)).then_some(at)
}
