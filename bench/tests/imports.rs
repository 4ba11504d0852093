// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps the map of the sources readable: which files need each other in a circle.
//!
//! A file needs another if one of its paths (`use`, `crate::`, `super::`, or the name of a child
//! module) leads to it, through re-exports too. Files that only tests build are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// The path of a module from the root of its crate.
type Module = Vec<String>;

#[test]
fn no_circle_of_files_is_larger_than_a_person_can_hold() {
    let mut told = String::new();
    for (root, most) in [
        ("workqueue/src/lib.rs", 8),
        ("ublk-ramdisk/src/lib.rs", 6),
        ("ublk-ramdisk/src/bin/ublk-ramdisk/main.rs", 6),
        ("bench/src/lib.rs", 8),
    ] {
        let needs = Sources::read(root).needs();
        for circle in circles(&needs).iter().filter(|c| c.len() > most) {
            writeln!(told, "{root}: a circle of {} files:", circle.len()).unwrap();
            for file in circle {
                let inside: Vec<_> = needs[file].intersection(circle).collect();
                writeln!(told, "  {} needs {inside:?}", file.display()).unwrap();
            }
        }
    }
    assert!(told.is_empty(), "{told}");
}

/// `sys` is the ground: it may be used from everywhere and uses nothing of the crate.
#[test]
fn sys_knows_nothing_above_it() {
    for root in ["workqueue/src/lib.rs", "ublk-ramdisk/src/lib.rs"] {
        let within = |file: &Path| file.components().any(|part| part.as_os_str() == "sys");
        for (file, needed) in Sources::read(root).needs() {
            let above: Vec<_> = needed.iter().filter(|file| !within(file)).collect();
            let is_ground = within(&file);
            assert!(
                !is_ground || above.is_empty(),
                "{} needs {above:?}",
                file.display()
            );
        }
    }
}

/// A server cannot be told to run out of threads: only the simulation can.
#[test]
fn only_the_simulation_has_threads_of_its_own() {
    for root in [
        "ublk-ramdisk/src/lib.rs",
        "ublk-ramdisk/src/bin/ublk-ramdisk/main.rs",
    ] {
        for file in Sources::read(root).files.values() {
            let simulates = file.components().any(|part| part.as_os_str() == "sim");
            let text = fs::read_to_string(file).unwrap();
            let says_it = text.contains("threads_by");
            assert!(simulates || !says_it, "{}", file.display());
        }
    }
}

/// The lists that `scripts/journeys` has measured name files that there are, as many as they say.
#[test]
fn the_files_of_the_measured_journeys_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("doc/design.md")).unwrap();
    let lists = text.split("<!-- journeys -->").nth(1).unwrap();
    let lists = lists.split("<!-- /journeys -->").next().unwrap();
    for journey in lists.split("\n**").skip(1) {
        let mut count = 0;
        for line in journey.lines() {
            let mut quoted = line.split('`').skip(1).step_by(2);
            let Some(folder) = quoted.next() else {
                continue;
            };
            for file in quoted {
                count += 1;
                let path = root.join(folder).join(file);
                assert!(
                    path.is_file(),
                    "{folder}{file} is not there: run scripts/journeys"
                );
            }
        }
        assert!(
            journey.contains(&format!(": {count} files.")),
            "{count}: {journey}"
        );
    }
}

/// What one crate's files say.
#[derive(Default)]
struct Sources {
    files: BTreeMap<Module, PathBuf>,
    /// Where a name of a module really lives.
    reexports: BTreeMap<Module, Module>,
    /// The paths that a module's file names.
    paths: Vec<(Module, Module)>,
}

impl Sources {
    fn read(root: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(root);
        let mut sources = Self::default();
        sources.read_file(&root, Vec::new());
        assert!(sources.files.len() > 1, "nothing under {}", root.display());
        sources
    }

    fn read_file(&mut self, path: &Path, module: Module) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.files.insert(module.clone(), path.to_owned());
        for item in &file.items {
            if let Item::Mod(child) = item {
                if child.content.is_none() && !is_for_tests(&child.attrs) {
                    let name = child.ident.to_string();
                    let below = folder_of(path, &module);
                    let at = path_attribute(&child.attrs)
                        .map(|at| path.with_file_name(at))
                        .or_else(|| {
                            let flat = below.join(format!("{name}.rs"));
                            flat.is_file().then_some(flat)
                        })
                        .unwrap_or_else(|| below.join(&name).join("mod.rs"));
                    self.read_file(&at, [&module[..], &[name]].concat());
                }
            }
        }
        let mut reader = Reader {
            sources: self,
            file: module.clone(),
            module,
        };
        reader.visit_file(&file);
    }

    /// For each file the files that its paths lead to.
    fn needs(&self) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let mut needs: BTreeMap<_, BTreeSet<_>> = self
            .files
            .values()
            .map(|file| (file.clone(), BTreeSet::new()))
            .collect();
        for (from, path) in &self.paths {
            let from = &self.files[from];
            let to = &self.files[&self.home(path, 0)];
            if from != to {
                needs.get_mut(from).unwrap().insert(to.clone());
            }
        }
        needs
    }

    /// The module whose file defines what a path names.
    fn home(&self, path: &[String], followed: usize) -> Module {
        for end in (0..=path.len()).rev() {
            if let Some(real) = self.reexports.get(&path[..end]).filter(|_| followed < 9) {
                return self.home(&[&real[..], &path[end..]].concat(), followed + 1);
            }
            if self.files.contains_key(&path[..end]) {
                return path[..end].to_vec();
            }
        }
        Vec::new()
    }
}

/// The folder of a file's child modules.
fn folder_of(path: &Path, module: &[String]) -> PathBuf {
    let owns_folder = module.is_empty() || path.file_stem().is_some_and(|stem| stem == "mod");
    match owns_folder {
        true => path.parent().unwrap().to_owned(),
        false => path.with_extension(""),
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.to_token_stream().to_string();
        text.contains("cfg")
            && (text.contains("test") || text.contains("(loom)"))
            && !text.contains("not (loom)")
            && !text.contains("not (test)")
            && !text.contains("feature")
    })
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let named = attribute.meta.require_name_value().ok()?;
        let text = named.value.to_token_stream().to_string();
        named
            .path
            .is_ident("path")
            .then(|| text.trim_matches('"').to_owned())
    })
}

struct Reader<'a> {
    sources: &'a mut Sources,
    /// The module that the file is.
    file: Module,
    /// The module that is being read: the file's, or one written out in it.
    module: Module,
}

impl Reader<'_> {
    /// The path from the crate's root, if it begins in this crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut rest = path;
        let mut base = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.module.clone(),
            child => {
                let child = [&self.module[..], &[child.to_owned()]].concat();
                return self
                    .sources
                    .files
                    .contains_key(&child)
                    .then(|| [&self.module[..], path].concat());
            }
        };
        while let Some((word, after)) = rest.split_first() {
            match word.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                _ => break,
            }
            rest = after;
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn note(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.sources.paths.push((self.file.clone(), path));
        }
    }

    fn note_tree(&mut self, tree: &UseTree, before: &[String], public: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (path, known_as) = match tree {
            UseTree::Path(path) => return self.note_tree(&path.tree, &with(&path.ident), public),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(tree, before, public);
                }
                return;
            }
            UseTree::Glob(_) => (before.to_vec(), None),
            UseTree::Name(name) if name.ident == "self" => (before.to_vec(), None),
            UseTree::Name(name) => (with(&name.ident), Some(name.ident.to_string())),
            UseTree::Rename(name) => (with(&name.ident), Some(name.rename.to_string())),
        };
        match (public, known_as, self.absolute(&path)) {
            // A re-export is a signpost: who follows it needs what it points at.
            (true, Some(name), Some(real)) => {
                let here = [&self.module[..], &[name]].concat();
                self.sources.reexports.insert(here, real);
            }
            (true, None, _) => {}
            _ => self.note(&path),
        }
    }

    /// Paths in the arguments of macros, which are tokens only.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons < 2 {
                        self.note_if_rooted(&path);
                        path.clear();
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                _ => colons = 0,
            }
        }
        self.note_if_rooted(&path);
    }

    fn note_if_rooted(&mut self, path: &[String]) {
        if matches!(path.first().map(String::as_str), Some("crate" | "super")) {
            self.note(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_for_tests(&module.attrs) => {}
            Item::Mod(module) => {
                self.module.push(module.ident.to_string());
                visit::visit_item(self, item);
                self.module.pop();
            }
            Item::Fn(function) if is_for_tests(&function.attrs) => {}
            Item::Use(import) => {
                let public = !matches!(import.vis, Visibility::Inherited);
                self.note_tree(&import.tree, &[], public);
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if words.len() > 1 {
            self.note(&words);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.note_tokens(call.tokens.clone());
    }
}

/// The sets of files that need each other, directly or not (Tarjan's algorithm).
fn circles(needs: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let mut search = Search {
        needs,
        seen: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for file in needs.keys() {
        if !search.seen.contains_key(file) {
            search.enter(file);
        }
    }
    search.found
}

struct Search<'a> {
    needs: &'a BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// When a file was met first, and the earliest file on the stack that it leads to.
    seen: BTreeMap<&'a PathBuf, (usize, usize)>,
    stack: Vec<&'a PathBuf>,
    found: Vec<BTreeSet<PathBuf>>,
}

impl<'a> Search<'a> {
    fn enter(&mut self, file: &'a PathBuf) -> usize {
        let number = self.seen.len();
        self.seen.insert(file, (number, number));
        self.stack.push(file);
        let mut earliest = number;
        for next in &self.needs[file] {
            match self.seen.get(next) {
                None => earliest = earliest.min(self.enter(next)),
                Some((number, _)) if self.stack.contains(&next) => earliest = earliest.min(*number),
                Some(_) => {}
            }
        }
        self.seen.insert(file, (number, earliest));
        if earliest == number {
            let start = self.stack.iter().position(|f| *f == file).unwrap();
            let circle: BTreeSet<_> = self.stack.drain(start..).cloned().collect();
            if circle.len() > 1 {
                self.found.push(circle);
            }
        }
        earliest
    }
}
