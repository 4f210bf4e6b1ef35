//! Boolean fields in the engine's `Doc` and `Group`, and in what these contain.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Field, Fields, Item, ItemEnum, ItemStruct, PathSegment, TypeTraitObject};

use super::{Count, Source};

const ENGINE: &str = "crates/conclave-engine/src/";
const BEGINNINGS: [&str; 2] = ["Doc", "Group"];

/// A field, and the names in its type.
struct Named {
    name: String,
    types: Vec<String>,
}

#[derive(Default)]
struct Types {
    /// Fields by the type that has them; types of one name count together.
    fields: BTreeMap<String, Vec<Named>>,
    /// Enums that say no more than a boolean does.
    two_valued: BTreeSet<String>,
}

/// Those of the two types themselves, and those of what they contain.
pub(super) fn count(sources: &[Source]) -> [Count; 2] {
    let mut types = Types::default();
    let engine = sources.iter().filter(|it| it.path.starts_with(ENGINE));
    for source in engine.filter(|it| !it.is_test()) {
        source.product_items().for_each(|item| types.add(&item));
    }
    let [direct, contained] = types.booleans();
    [
        Count {
            what: "boolean fields of Doc and Group",
            found: direct,
        },
        Count {
            what: "boolean fields of what these contain",
            found: contained,
        },
    ]
}

impl Types {
    fn add(&mut self, item: &Item) {
        match item {
            Item::Struct(ItemStruct { ident, fields, .. }) => {
                self.add_fields(&ident.to_string(), fields);
            }
            Item::Enum(item) => self.add_enum(item),
            Item::Mod(module) => {
                let items = module.content.iter().flat_map(|(_, items)| items);
                items.for_each(|item| self.add(item));
            }
            _ => {}
        }
    }

    fn add_enum(&mut self, item: &ItemEnum) {
        let name = item.ident.to_string();
        let plain = item.variants.iter().all(|it| it.fields.is_empty());
        if plain && item.variants.len() == 2 {
            self.two_valued.insert(name.clone());
        }
        for variant in &item.variants {
            self.add_fields(&name, &variant.fields);
        }
    }

    fn add_fields(&mut self, owner: &str, fields: &Fields) {
        let known = self.fields.entry(owner.to_owned()).or_default();
        for (at, field) in fields.iter().enumerate() {
            let name = field.ident.as_ref().map(ToString::to_string);
            known.push(Named {
                name: name.unwrap_or_else(|| at.to_string()),
                types: names(field),
            });
        }
    }

    fn booleans(&self) -> [Vec<(String, usize)>; 2] {
        let mut found = [Vec::new(), Vec::new()];
        let mut waiting: Vec<String> = BEGINNINGS.map(ToOwned::to_owned).into();
        let mut seen: BTreeSet<String> = waiting.iter().cloned().collect();
        while let Some(owner) = waiting.pop() {
            let [direct, contained] = &mut found;
            let found = match BEGINNINGS.contains(&owner.as_str()) {
                true => direct,
                false => contained,
            };
            for field in self.fields.get(&owner).into_iter().flatten() {
                let boolean = |name: &String| name == "bool" || self.two_valued.contains(name);
                if field.types.iter().any(boolean) {
                    found.push((format!("{owner}.{}", field.name), 1));
                }
                let known = field
                    .types
                    .iter()
                    .filter(|it| self.fields.contains_key(*it));
                waiting.extend(known.filter(|it| seen.insert((*it).clone())).cloned());
            }
        }
        found.map(|mut found| {
            found.sort();
            found
        })
    }
}

/// Names in a field's type. What a closure takes is not contained.
fn names(field: &Field) -> Vec<String> {
    struct Names(Vec<String>);
    impl<'a> Visit<'a> for Names {
        fn visit_path_segment(&mut self, segment: &'a PathSegment) {
            self.0.push(segment.ident.to_string());
            visit::visit_path_segment(self, segment);
        }
        fn visit_type_trait_object(&mut self, _: &'a TypeTraitObject) {}
    }
    let mut names = Names(Vec::new());
    names.visit_type(&field.ty);
    names.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tree::source;

    fn found(text: &str) -> [Vec<String>; 2] {
        let sources = [
            source("crates/conclave-engine/src/a.rs", text),
            source(
                "crates/conclave-engine/src/tests.rs",
                "struct Doc { t: bool }",
            ),
            source("crates/other/src/a.rs", "struct Group { t: bool }"),
        ];
        count(&sources).map(|count| count.found.into_iter().map(|(place, _)| place).collect())
    }

    #[test]
    fn fields_count_once_wherever_they_are_contained() {
        let [direct, contained] = found(
            "struct Group { a: bool, b: Option<bool>, c: u8, d: BTreeMap<u8, bool>, meta: Meta }
             struct Doc { e: bool, first: Box<Meta>, f: State }
             struct Meta { g: bool, deep: Vec<(u8, Deep)> }
             enum Deep { One { h: bool }, Two(bool), Three }
             enum State { Asked, Open(u64) }
             struct Apart { i: bool }
             #[cfg(test)] struct Late { j: bool }",
        );
        assert_eq!(direct, ["Doc.e", "Group.a", "Group.b", "Group.d"]);
        assert_eq!(contained, ["Deep.0", "Deep.h", "Meta.g"]);
    }

    #[test]
    fn an_enum_of_two_plain_values_is_a_boolean_and_one_of_three_is_none() {
        let [direct, contained] = found(
            "struct Doc { a: Two, b: Three, c: Holds, d: Option<Two> }
             enum Two { Yes, No }
             enum Three { Yes, No, Perhaps }
             enum Holds { Nothing, Something(u8) }",
        );
        assert_eq!(direct, ["Doc.a", "Doc.d"]);
        assert!(contained.is_empty());
    }

    #[test]
    fn what_a_closure_takes_is_not_contained() {
        let [direct, contained] = found(
            "struct Group { work: Vec<Box<dyn FnOnce(&mut Engine) -> bool + Send>>, me: Box<Group> }
             struct Engine { a: bool }",
        );
        assert!(direct.is_empty() && contained.is_empty());
    }
}
