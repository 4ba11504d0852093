// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other programs see of the two crates: `api.rs.txt` in each crate's `tests/` has every public
//! item without bodies and comments. A change of the interface is a change of that file.
//!
//! `UPDATE_API=1 cargo test -p bench --test api` writes them anew. Public items of a private module
//! count too: in these crates what is not exported is `pub(crate)`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Type, Visibility};

#[test]
fn the_public_interface_is_the_recorded_one() {
    for name in ["workqueue", "ublk-ramdisk"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let record = root.join("tests/api.rs.txt");
        let present = interface(&root.join("src"));
        if std::env::var_os("UPDATE_API").is_some() {
            fs::write(&record, &present).unwrap();
        }
        let recorded = fs::read_to_string(&record).unwrap_or_default();
        let old: BTreeSet<_> = recorded.lines().collect();
        let new: BTreeSet<_> = present.lines().collect();
        assert!(
            recorded == present,
            "the interface of {name} has changed; if it should, run UPDATE_API=1 cargo test -p bench \
             --test api\ngone: {:#?}\ncome: {:#?}",
            old.difference(&new).collect::<Vec<_>>(),
            new.difference(&old).collect::<Vec<_>>(),
        );
    }
}

fn interface(src: &Path) -> String {
    let mut files = Vec::new();
    find(src, &mut files);
    files.sort();
    let parsed: Vec<_> = files
        .iter()
        .map(|path| {
            (
                path,
                syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap(),
            )
        })
        .collect();
    let types = parsed.iter().flat_map(|(_, file)| &file.items);
    let types: BTreeSet<_> = types.filter_map(public_type).collect();
    let mut text = String::new();
    for (path, mut file) in parsed {
        file.attrs.clear();
        file.items.retain_mut(|item| keep(item, &types));
        if !file.items.is_empty() {
            let path = path.strip_prefix(src).unwrap().display();
            write!(text, "// {path}\n\n{}\n", prettyplease::unparse(&file)).unwrap();
        }
    }
    text
}

/// All source files of the library that are not tests.
fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["bin", "tests", "loom_tests"].contains(&stem) {
                find(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "rs") && stem != "tests" {
            files.push(path);
        }
    }
}

fn public_type(item: &Item) -> Option<String> {
    let (vis, name) = match item {
        Item::Struct(i) => (&i.vis, &i.ident),
        Item::Enum(i) => (&i.vis, &i.ident),
        _ => return None,
    };
    is_public(vis).then(|| name.to_string())
}

fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// Strips an item of all that is not interface; false if nothing is left of it.
fn keep(item: &mut Item, types: &BTreeSet<String>) -> bool {
    let attrs = match item {
        Item::Const(i) => &mut i.attrs,
        Item::Enum(i) => &mut i.attrs,
        Item::Fn(i) => &mut i.attrs,
        Item::Impl(i) => &mut i.attrs,
        Item::Macro(i) => &mut i.attrs,
        Item::Mod(i) => &mut i.attrs,
        Item::Static(i) => &mut i.attrs,
        Item::Struct(i) => &mut i.attrs,
        Item::Trait(i) => &mut i.attrs,
        Item::Type(i) => &mut i.attrs,
        Item::Use(i) => &mut i.attrs,
        _ => return false,
    };
    if for_tests(attrs) {
        return false;
    }
    let exported = attrs.iter().any(|a| a.path().is_ident("macro_export"));
    strip(attrs);
    match item {
        Item::Const(i) => is_public(&i.vis),
        Item::Enum(i) => {
            for variant in &mut i.variants {
                strip(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|f| strip(&mut f.attrs));
            }
            is_public(&i.vis)
        }
        Item::Fn(i) => {
            i.block.stmts.clear();
            is_public(&i.vis)
        }
        Item::Impl(i) => {
            let of_public = matches!(&*i.self_ty, Type::Path(path)
                if path.path.segments.last().is_some_and(|s| types.contains(&s.ident.to_string())));
            if i.trait_.is_some() {
                i.items.clear();
                return of_public;
            }
            i.items.retain_mut(|item| match item {
                ImplItem::Fn(f) => {
                    strip(&mut f.attrs);
                    f.block.stmts.clear();
                    is_public(&f.vis)
                }
                ImplItem::Const(c) => {
                    strip(&mut c.attrs);
                    is_public(&c.vis)
                }
                _ => false,
            });
            of_public && !i.items.is_empty()
        }
        // Its rules are text; only its name is of interest here.
        Item::Macro(i) if exported => {
            i.mac.tokens = Default::default();
            true
        }
        // Those of this crate that make items, such as the settings of a builder.
        Item::Macro(i) => {
            let made = i.ident.is_none();
            strip_docs_of(&mut i.mac.tokens);
            made && i.mac.tokens.to_string().contains(':')
        }
        Item::Mod(i) => i.content.is_none() && is_public(&i.vis),
        Item::Static(i) => is_public(&i.vis),
        Item::Struct(i) => {
            if let Fields::Named(fields) = &mut i.fields {
                let all = std::mem::take(&mut fields.named);
                fields.named = all.into_iter().filter(|f| is_public(&f.vis)).collect();
            }
            i.fields.iter_mut().for_each(|f| strip(&mut f.attrs));
            is_public(&i.vis)
        }
        Item::Trait(i) => {
            for item in &mut i.items {
                if let TraitItem::Fn(f) = item {
                    strip(&mut f.attrs);
                    if let Some(block) = &mut f.default {
                        block.stmts.clear();
                    }
                }
                if let TraitItem::Type(t) = item {
                    strip(&mut t.attrs);
                }
                if let TraitItem::Const(c) = item {
                    strip(&mut c.attrs);
                }
            }
            is_public(&i.vis)
        }
        Item::Type(i) => is_public(&i.vis),
        Item::Use(i) => is_public(&i.vis),
        _ => false,
    }
}

fn for_tests(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|a| {
        let cfg = a.meta.require_list().map(|list| list.tokens.to_string());
        a.path().is_ident("cfg") && cfg.is_ok_and(|c| c == "test" || c.contains("all (test"))
    })
}

/// Leaves what a caller can notice.
fn strip(attrs: &mut Vec<Attribute>) {
    let told = [
        "cfg",
        "derive",
        "deprecated",
        "must_use",
        "non_exhaustive",
        "repr",
    ];
    attrs.retain(|a| told.iter().any(|name| a.path().is_ident(name)));
}

fn strip_docs_of(tokens: &mut proc_macro2::TokenStream) {
    use proc_macro2::{TokenStream, TokenTree};
    let mut kept = Vec::new();
    for token in std::mem::take(tokens) {
        match token {
            // `#` and `[doc = ...]`
            TokenTree::Group(mut group) => {
                let text = group.stream().to_string();
                if text.starts_with("doc =") || text.starts_with("doc=") {
                    kept.pop();
                    continue;
                }
                let mut inside = group.stream();
                strip_docs_of(&mut inside);
                let span = group.span();
                group = proc_macro2::Group::new(group.delimiter(), inside);
                group.set_span(span);
                kept.push(TokenTree::Group(group));
            }
            other => kept.push(other),
        }
    }
    *tokens = TokenStream::from_iter(kept);
}
