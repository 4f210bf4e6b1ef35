//! Boxed closures in the engine: the types that are said to hold some, and the places where one is made. Boxed futures count as what they
//! replace.

use std::collections::BTreeMap;

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprCall, GenericArgument, Macro, PathArguments, PathSegment, Token, Type,
    TypeParamBound, TypeTraitObject,
};

use super::{Count, Source};

const ENGINE: &str = "crates/conclave-engine/src/";
const CALLED: [&str; 4] = ["Fn", "FnMut", "FnOnce", "Future"];

pub(super) fn count(sources: &[Source]) -> [Count; 2] {
    let (mut types, mut made) = (BTreeMap::new(), BTreeMap::new());
    let engine = sources.iter().filter(|it| it.path.starts_with(ENGINE));
    for source in engine.filter(|it| !it.is_test()) {
        let mut found = Found::default();
        source.product_items().for_each(|it| found.visit_item(&it));
        types.insert(source.path.clone(), found.types);
        made.insert(source.path.clone(), found.made);
    }
    let some = |counts: BTreeMap<String, usize>| {
        let some = counts.into_iter().filter(|(_, number)| *number > 0);
        some.collect()
    };
    [
        Count {
            what: "types of boxed closures in the engine",
            found: some(types),
        },
        Count {
            what: "places where the engine boxes a closure",
            found: some(made),
        },
    ]
}

#[derive(Default)]
struct Found {
    types: usize,
    made: usize,
}

impl<'a> Visit<'a> for Found {
    fn visit_path_segment(&mut self, segment: &'a PathSegment) {
        if segment.ident == "Box"
            && let PathArguments::AngleBracketed(arguments) = &segment.arguments
            && let Some(GenericArgument::Type(Type::TraitObject(object))) = arguments.args.first()
            && is_called(object)
        {
            self.types += 1;
        }
        visit::visit_path_segment(self, segment);
    }

    fn visit_expr_call(&mut self, call: &'a ExprCall) {
        let boxed = matches!(call.args.first(), Some(Expr::Closure(_) | Expr::Async(_)));
        if boxed && is_box(&call.func) {
            self.made += 1;
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'a Macro) {
        let arguments = call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated);
        for argument in arguments.into_iter().flatten() {
            // The macro's own tokens are read anew, so they live shorter than the file.
            let mut inner = Found::default();
            inner.visit_expr(&argument);
            self.types += inner.types;
            self.made += inner.made;
        }
    }
}

fn is_called(object: &TypeTraitObject) -> bool {
    object.bounds.iter().any(|bound| {
        let TypeParamBound::Trait(bound) = bound else {
            return false;
        };
        let last = bound.path.segments.last();
        last.is_some_and(|it| CALLED.iter().any(|name| it.ident == name))
    })
}

/// `Box::new` or `Box::pin`.
fn is_box(called: &Expr) -> bool {
    let Expr::Path(path) = called else {
        return false;
    };
    let mut segments = path.path.segments.iter().rev();
    let made = segments
        .next()
        .is_some_and(|it| it.ident == "new" || it.ident == "pin");
    made && segments.next().is_some_and(|it| it.ident == "Box")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tree::source;

    fn numbers(text: &str) -> [usize; 2] {
        let sources = [
            source("crates/conclave-engine/src/a.rs", text),
            source("crates/other/src/a.rs", text),
        ];
        count(&sources).map(|count| count.number())
    }

    #[test]
    fn types_and_places_are_counted_however_they_are_written() {
        for (text, expected) in [
            ("type A = Box<dyn FnOnce(u8) -> u8 + Send>;", [1, 0]),
            ("struct S { a: Option<Box<dyn Fn() + Send>> }", [1, 0]),
            ("fn f(a: Box<dyn FnMut(Box<dyn Fn()>)>) {}", [2, 0]),
            ("type A = Pin<Box<dyn Future<Output = u8>>>;", [1, 0]),
            ("type A = std::boxed::Box<dyn std::ops::Fn()>;", [1, 0]),
            ("type A = Box<dyn Read>; type B = Box<u8>;", [0, 0]),
            ("fn f() { g(Box::new(move |a| a + 1)); }", [0, 1]),
            ("fn f() { g(Box::new(|_, _| {})); }", [0, 1]),
            ("fn f() { Box::new(|a| Box::new(move |b| a + b)); }", [0, 2]),
            ("fn f() { Box::pin(async move { 1 }); }", [0, 1]),
            (
                "fn f() -> Vec<A> { vec![Box::new(|| 1), Box::new(|| 2)] }",
                [0, 2],
            ),
            (
                "fn f() { Box::new(A); Box::new(g(|a| a)); Arc::new(|a| a); }",
                [0, 0],
            ),
            (
                "// Box::new(|a| a)\nfn f() { \"Box::new(|a| a)\"; }",
                [0, 0],
            ),
            ("#[cfg(test)] mod t { fn f() { Box::new(|a| a); } }", [0, 0]),
        ] {
            assert_eq!(numbers(text), expected, "{text}");
        }
    }
}
